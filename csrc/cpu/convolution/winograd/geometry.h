// What Winograd's kernels are told, which convolutions they serve, and their table. Plain data, no
// torch.
#pragma once

#include "../../family.h"
#include "../problem.h"
#include "../schedule.h"

namespace cnn_ext::cpu {

// One spatial axis of the plane that Winograd tiles: the images of a batch side by side, with a gap
// of padding between them, so that a tile may reach from one image into the next.
struct TileAxis {
  int64_t images;  // side by side
  int64_t period;  // cells from image to image
  int64_t tiles;   // over the whole plane
  int64_t run;     // tiles that follow one another without a jump; then the next image starts
  int64_t origin(int64_t tile, int64_t m) const { return tile / run * period + tile % run * m; }
};

constexpr int64_t kTileCells = 36;  // of a transformed tile

// How F(m x m, r x r) of m + r = 7 is cut.
struct Winograd {
  int64_t m, r;
  TileAxis axis[2];
  int64_t begin, end;  // the tiles that are cut into blocks: all, or those of a part of a sum
  int64_t block;       // tiles per block
  int64_t blocks;      // per group
  int64_t step;        // tiles between two visits to a weight gradient's sums
  int64_t panels;      // of filters, per group
  // Elements from one of the 36 cells to the next: of the transformed filters of a panel, of a
  // block's transformed input (and from tile to tile in it), of what a block has for each filter of
  // a panel, and of the sums of a panel's weight gradient.
  int64_t filter_cell, channel_cell, channel_row, panel_cell, sums_cell;

  int64_t tiles() const { return axis[0].tiles * axis[1].tiles; }
};

template <typename T>
struct WinogradForward {
  Convolution shape;
  Winograd plan;
  const T* input;
  const T* weight;
  const T* bias;  // (G * K) or null
  T* filters;     // transformed: (G, panels, 36, filter_cell), or null
  T* output;
};

template <typename T>
struct WinogradWeightGradient {
  Convolution shape;  // of the forward pass; `weight` holds the strides of the result
  Winograd plan;
  const T* input;
  const T* grad_output;
  T* grad_weight;
};

inline TileAxis tiles_apart(int64_t images, int64_t out, int64_t m) {
  const int64_t run = divide_up(out, m);
  return {images, int64_t{1} << 32, images * run, run};
}

inline TileAxis tiles_joined(int64_t images, int64_t period, int64_t out, int64_t m) {
  const int64_t tiles = divide_up((images - 1) * period + out, m);
  return {images, period, tiles, tiles};
}

// Fills m, r and the axes of a plan: every image tiled by itself, or all of them on one plane,
// whichever takes fewer tiles.
inline void lay_tiles(const Convolution& shape, Winograd& plan) {
  plan.r = shape.filter[1];
  plan.m = 7 - plan.r;
  plan.axis[0] = tiles_apart(shape.N, shape.out[1], plan.m);
  plan.axis[1] = tiles_apart(1, shape.out[2], plan.m);
  int64_t period[2];
  for (int a = 0; a < 2; ++a) {
    // A window that starts in one image must not reach into the next, before or behind.
    const int64_t in = shape.in[a + 1], out = shape.out[a + 1], before = shape.padding[a + 1];
    const int64_t after = out - 1 - before + plan.r - in;
    period[a] = in + (before > after ? before : after);
    if (period[a] < in) period[a] = in;
    if (period[a] < out) period[a] = out;
  }
  for (int64_t across = 1; across <= shape.N && across <= 64; ++across) {
    const int64_t down = divide_up(shape.N, across);
    const TileAxis y = tiles_joined(down, period[0], shape.out[1], plan.m);
    const TileAxis x = tiles_joined(across, period[1], shape.out[2], plan.m);
    if (y.tiles * x.tiles >= plan.tiles()) continue;
    plan.axis[0] = y;
    plan.axis[1] = x;
  }
}

// Whether Winograd's algorithm can serve a convolution at all: square filters of 3 or 5 cells over
// two axes, stride 1, no dilation.
inline bool winograd_serves(const Convolution& c) {
  if (c.filter[1] != c.filter[2] || (c.filter[1] != 3 && c.filter[1] != 5)) return false;
  if (c.in[0] != 1 || c.out[0] != 1 || c.filter[0] != 1 || c.padding[0] != 0) return false;
  return c.stride[1] == 1 && c.stride[2] == 1 && c.dilation[1] == 1 && c.dilation[2] == 1;
}

// A strided convolution over two axes as an equal one of stride 1: input cells that are a stride
// apart are a phase, a phase of a channel is a channel, and a filter has as many cells in each as
// the most that it has in any (zero where it has none). The strides in memory are left to the
// caller. An 11 x 11 filter at stride 4 over 3 channels is a 3 x 3 filter over 48.
inline Convolution of_phases(const Convolution& c) {
  Convolution result = c;
  for (int axis = 1; axis < kSpatial; ++axis) {
    const int64_t reach = (c.filter[axis] - 1) / c.stride[axis];
    result.C *= c.stride[axis];
    result.in[axis] = c.out[axis] + reach;
    result.filter[axis] = reach + 1;
    result.stride[axis] = 1;
    result.padding[axis] = 0;
  }
  return result;
}

// Whether Winograd's algorithm serves a strided convolution by its phases.
inline bool winograd_serves_phases(const Convolution& c) {
  const bool strided = c.stride[1] > 1 || c.stride[2] > 1;
  if (!strided || c.dilation[1] != 1 || c.dilation[2] != 1) return false;
  if (c.filter[1] < c.stride[1] || c.filter[2] < c.stride[2]) return false;
  return winograd_serves(of_phases(c));
}

// X(slot, result, arguments), for an element type T.
#define CNN_EXT_WINOGRAD_SLOTS(X)                                                               \
  X(vectors, int64_t, (int64_t channels))                                                       \
  X(plan_winograd, Winograd, (const Convolution&, int64_t most_tiles, int64_t threads))         \
  X(plan_winograd_gradient, Winograd,                                                           \
    (const Convolution&, int64_t most_tiles, int64_t part, int64_t parts))                      \
  X(winograd_filters, void, (const WinogradForward<T>&, int64_t first, int64_t last))           \
  X(winograd_input, void,                                                                       \
    (const Convolution&, const Winograd&, const T* input, int64_t block, int64_t first,         \
     int64_t last, T* to))                                                                      \
  X(winograd_workspace, int64_t, (const Winograd&))                                             \
  X(winograd_panels, void,                                                                      \
    (const WinogradForward<T>&, int64_t g, int64_t block, int64_t first, int64_t last,          \
     const T* tiles, T* workspace))                                                             \
  X(winograd_gradient_panel, void,                                                              \
    (const WinogradWeightGradient<T>&, int64_t g, int64_t block, int64_t panel, const T* tiles, \
     T* gradients, T* sums, bool accumulate))                                                   \
  X(winograd_weight, void,                                                                      \
    (const WinogradWeightGradient<T>&, int64_t g, int64_t panel, const T* sums, int64_t parts,  \
     int64_t part_stride))                                                                      \
  X(winograd_weight_workspace, int64_t, (const Winograd&))                                      \
  X(winograd_weight_panels, void,                                                               \
    (const WinogradWeightGradient<T>&, int64_t g, int64_t first, int64_t last, const T* tiles,  \
     T* workspace))

CNN_EXT_FAMILY(WinogradKernels, CNN_EXT_WINOGRAD_SLOTS);

}  // namespace cnn_ext::cpu
