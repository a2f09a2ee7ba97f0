// Which algorithm serves which convolution: what "auto" means. A function of the shape and the
// dtype alone, never of a timing, so that results do not change from run to run.
#pragma once

#include "geometry.h"

namespace cnn_ext::cpu {

enum class Algorithm { im2col, implicit_gemm, winograd, direct };

inline const char* name_of(Algorithm algorithm) {
  switch (algorithm) {
    case Algorithm::im2col:
      return "im2col";
    case Algorithm::winograd:
      return "winograd";
    case Algorithm::direct:
      return "direct";
    default:
      return "implicit_gemm";
  }
}

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

// Depthwise: one channel and one filter to each group.
inline bool depthwise(const Convolution& c) {
  return c.C == 1 && c.K == 1 && c.G > 1 && c.taps() <= kDirectTaps;
}

// Depthwise with the groups innermost in memory.
inline bool depthwise_along_groups(const Convolution& c) {
  return depthwise(c) && c.input.g == 1 && c.output.g == 1;
}

inline bool direct_serves(const Convolution& c) { return c.taps() <= kBandSteps; }

constexpr int64_t kWinogradChannels = 16;  // fewer fill no vector

// `single`: float32. Winograd's errors, some three times those of the direct sum, are within what
// float32 users accept of a convolution, but nobody asks for float64 to lose a digit.
inline Algorithm choose(const Convolution& c, bool single) {
  if (depthwise(c)) return Algorithm::direct;
  if (single && c.C >= kWinogradChannels && c.K >= kWinogradChannels && winograd_serves(c)) {
    // Tiles reach over the edges of small maps: at least a third of the multiplications must go.
    Winograd plan{};
    lay_tiles(c, plan);
    if (3 * kTileCells * plan.tiles() <= 2 * c.pixels() * c.taps()) return Algorithm::winograd;
  }
  return Algorithm::implicit_gemm;
}

}  // namespace cnn_ext::cpu
