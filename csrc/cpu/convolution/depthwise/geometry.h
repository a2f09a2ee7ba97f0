// What the kernels of depthwise convolution and of narrow groups are told, which convolutions they
// serve, and their table. Plain data, no torch.
#pragma once

#include "../../capability.h"
#include "../../family.h"
#include "../problem.h"
#include "../schedule.h"

namespace cnn_ext::cpu {

// Depthwise kernels take the channels of wider groups as groups of one. The strides of the weight
// stay those of the groups.
inline Convolution groups_of_one(Convolution c) {
  c.G *= c.C;
  c.C = c.K = 1;
  c.input.g = c.input.c;
  c.output.g = c.output.c;
  return c;
}

// How depthwise convolution is cut (depthwise.h): a task has some vectors of groups of some rows
// and columns of a map. `plan_depthwise` cuts from the shape, `schedule_depthwise` the rows of a
// forward pass or an input gradient, `schedule_depthwise_gradient` the vectors of a weight
// gradient. Sizes are in elements.
struct Depthwise {
  bool gradient;  // of the input, or else the forward pass
  int64_t width;  // channels, and filters, of a group
  bool in_place;  // whether cells are read where they lie; what concerns copies is then zero
  int64_t rows, row_blocks, columns, column_blocks;
  int64_t vectors;  // of groups, per block of them
  int64_t blocks;
  int64_t at_once;        // rows of the result
  int64_t ring;           // rows of the source that are kept, of each plane
  int64_t pitch;          // cells of such a row
  int64_t plane, vector;  // of the rows kept, for each tap along the depth and for all
  int64_t slack;          // that may be read behind them
  int64_t lines;          // of a vector's rows of the result, or of the gradients
  int64_t weights;        // packed, of the filters of a vector
  int64_t splits;         // of a weight gradient

  int64_t maps(const Convolution& c) const {
    return c.N * (gradient ? c.in[0] : c.out[0]) * row_blocks * column_blocks;
  }
  int64_t tasks(const Convolution& c) const { return blocks * maps(c); }
};

// Whether depthwise.h serves groups: of one channel and one filter, or a few and as many (more of
// them with AVX-512, whose vectors they fill), whose windows' rows a cache can keep. Of maps in
// NCHW the few do not pay where rows are long: they are turned as they are copied, and bands need
// not be.
inline bool narrow_groups(const Convolution& c) {
  const bool wide = capability() >= Capability::avx512 && (c.C == 16 || c.C == 32);
  const bool few = c.C == 1 || c.C == 2 || c.C == 4 || c.C == 8 || wide;
  if (c.K != c.C || !few || c.G == 1 || c.taps() > kDirectTaps) return false;
  if (c.input.g != c.C * c.input.c || c.output.g != c.K * c.output.c) return false;
  const bool strided = c.stride[1] > 1 || c.stride[2] > 1;
  const bool short_rows = c.out[2] < kShortRow;
  if (c.C > 1 && c.input.c != 1 && !strided && !short_rows) return false;
  // In double: the reach of a dilated filter may be that of a very long axis.
  const double rows = static_cast<double>((c.filter[1] - 1) * c.dilation[1] + 1);
  const int64_t columns = c.out[2] < kDepthwiseColumns ? c.out[2] : kDepthwiseColumns;
  const int64_t pitch = columns * c.stride[2] + (c.filter[2] - 1) * c.dilation[2];
  return static_cast<double>(c.filter[0] * pitch) * rows <= kDepthwiseCells;
}

// X(slot, result, arguments), for an element type T.
#define CNN_EXT_DEPTHWISE_SLOTS(X)                                                        \
  X(plan_depthwise, Depthwise, (const Convolution&, bool gradient))                       \
  X(schedule_depthwise, void, (const Convolution&, Depthwise&, int64_t threads))          \
  X(schedule_depthwise_gradient, void, (const Convolution&, Depthwise&, int64_t threads)) \
  X(depthwise_workspace, int64_t, (const Convolution&, const Depthwise&))                 \
  X(pack_depthwise, void,                                                                 \
    (const ConvolutionForward<T>&, const Depthwise&, int64_t first, int64_t last))        \
  X(depthwise, void,                                                                      \
    (const ConvolutionForward<T>&, const Depthwise&, int64_t first, int64_t last,         \
     Sum<T>* workspace))                                                                  \
  X(depthwise_weight_gradient, void,                                                      \
    (const ConvolutionWeightGradient<T>&, const Depthwise&, int64_t first, int64_t last,  \
     Sum<T>* workspace))

CNN_EXT_FAMILY(DepthwiseKernels, CNN_EXT_DEPTHWISE_SLOTS);

}  // namespace cnn_ext::cpu
