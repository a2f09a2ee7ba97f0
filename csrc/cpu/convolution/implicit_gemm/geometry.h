// What the kernels of implicit GEMM are told, and their table. Plain data, no torch.
#pragma once

#include "../../family.h"
#include "../pairs/geometry.h"
#include "../problem.h"
#include "../schedule.h"

namespace cnn_ext::cpu {

// How the product is cut for the micro-kernel: by `plan_forward` from the shape, but for the tasks,
// which `schedule_forward` shares out.
struct Blocking {
  bool pixels_on_rows;  // whether pixels are rows and filters columns of a tile, or the reverse
  bool in_place;        // whether pixels are read where they lie, not packed
  int64_t pixel_step;   // elements between any two pixels of the output, or 0 if they lie unevenly
  bool bias_entry;      // whether the bias is one more step of the sum: a weight on a constant 1
  int64_t reduction;    // reduction(), and that step
  int64_t block;        // steps of the reduction between two visits to the accumulators
  int64_t blocks;
  int64_t panel;         // filters per packed panel
  int64_t panels;        // per group
  int64_t pixel_block;   // pixels per task
  int64_t pixel_blocks;  // over the whole batch
  int64_t filter_tasks;  // a task takes every pixel of a block and 1 / filter_tasks of the panels

  int64_t tasks(int64_t groups) const { return groups * filter_tasks * pixel_blocks; }
};

template <typename T>
struct GemmForward : ConvolutionForward<T> {
  Blocking blocking;
};

// How the weight gradient is cut: each task sums over 1 / splits of the pixels and holds the
// accumulators of a chunk of the filters and a chunk of the reduction. `plan_weight_gradient` cuts
// from the shape; `schedule_weight_gradient` may cut the reduction into more chunks.
struct GradientBlocking {
  bool filters_on_rows;  // whether filters are rows and patch entries columns of a tile
  bool rows_by_pixel;    // whether the rows of a tile are packed pixel by pixel
  bool in_place;         // whether they are not packed, nor columns that fill a panel
  int64_t pixel_block;
  int64_t chunk;  // patch entries per task, a multiple of the tile
  int64_t chunks;
  int64_t filter_chunk;  // filters per task, likewise
  int64_t filter_chunks;
  int64_t splits;

  int64_t tasks(int64_t groups) const { return groups * filter_chunks * chunks * splits; }
};

template <typename T>
struct GemmWeightGradient : ConvolutionWeightGradient<T> {
  GradientBlocking blocking;
};

// X(slot, result, arguments), for an element type T.
#define CNN_EXT_IMPLICIT_GEMM_SLOTS(X)                                                        \
  X(plan_forward, Blocking, (const Convolution&, bool bias))                                  \
  X(schedule_forward, void, (const Convolution&, Blocking&, int64_t threads))                 \
  X(packed_size, int64_t, (const Convolution&, const Blocking&))                              \
  X(forward_workspace, int64_t, (const Blocking&))                                            \
  X(pack_all_filters, void, (const GemmForward<T>&, int64_t first, int64_t last))             \
  X(convolve, void, (const GemmForward<T>&, int64_t first, int64_t last, T* workspace))       \
  X(plan_weight_gradient, GradientBlocking, (const Convolution&))                             \
  X(schedule_weight_gradient, void, (const Convolution&, GradientBlocking&, int64_t threads)) \
  X(weight_gradient_workspace, int64_t, (const GradientBlocking&))                            \
  X(weight_gradient, void,                                                                    \
    (const GemmWeightGradient<T>&, int64_t first, int64_t last, T* workspace))

CNN_EXT_FAMILY(ImplicitGemmKernels, CNN_EXT_IMPLICIT_GEMM_SLOTS);

}  // namespace cnn_ext::cpu
