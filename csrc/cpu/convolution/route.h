// Which algorithm serves which convolution: what "auto" means. A function of the shape, the
// strides, the dtype and, in bfloat16 and of groups of 16, the processor, never of a timing, so
// that results do not change from run to run.
#pragma once

#include "../capability.h"
#include "band/geometry.h"
#include "depthwise/geometry.h"
#include "winograd/geometry.h"

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

constexpr int64_t kWinogradChannels = 16;  // fewer fill no vector

// Whether it takes at most `part` of the direct sum's multiplications: tiles reach over the edges
// of small maps.
inline bool winograd_saves(const Convolution& c, const Convolution& served, double part) {
  if (served.C < kWinogradChannels || served.K < kWinogradChannels) return false;
  Winograd plan{};
  lay_tiles(served, plan);
  const auto direct = static_cast<double>(c.pixels() * c.reduction());
  return static_cast<double>(kTileCells * plan.tiles() * served.C) <= part * direct;
}

constexpr int64_t kFewTaps = 4;      // pack as fast as a band is copied
constexpr int64_t kFewColumns = 16;  // filters: a panel of which would be more than half empty

// Whether direct convolution pays in the forward pass, and in each phase of the input gradient:
// where so many windows share a cell that patches are worth not packing. Filters of one cell, such
// as cover their input and such as do not overlap are plain products; a cell that is far from its
// neighbours makes for a long band; and in channels_last whole pixels are packed at once, where
// they have channels enough, so that half the windows are too few. There few filters (an image's
// channels, in the gradient of a first layer) are worth a band from two taps on: along its cells.
inline bool direct_pays(const Convolution& c) {
  const bool apart = c.stride[1] >= c.filter[1] && c.stride[2] >= c.filter[2];
  const int64_t reach = (c.filter[2] - 1) * c.dilation[2] / c.stride[2];
  const bool few = c.innermost() && c.K < kFewColumns && c.taps() > 1;
  if (!direct_serves(c) || (c.taps() <= kFewTaps && !few)) return false;
  if (apart || 2 * reach > c.out[2]) return false;
  if (c.stride[1] * c.stride[2] > 1 && c.innermost() && c.C >= kWinogradChannels) return false;
  return least_band(c) <= kGoodBand;
}

// The same of a weight gradient, which packs patches for all filters at once.
inline bool direct_weight_gradient_pays(const Convolution& c) {
  const int64_t reach = (c.filter[2] - 1) * c.dilation[2] / c.stride[2];
  const bool few = c.K < 32 || (c.innermost() && c.C < kWinogradChannels);
  if (!few || c.taps() == 1 || reach > c.out[2]) return false;
  return direct_serves(c) && least_band(c) <= kGoodBand;
}

constexpr int64_t kWholePanel = 32;  // filters, of a product in float32 with AVX-512

// Of maps as they lie; what "auto" means is the last of these functions.
// `single`: float32. Winograd's errors, some three times those of the direct sum, are within what
// float32 users accept of a convolution, but nobody asks for float64 to lose a digit.
inline Algorithm choose(const Convolution& c, bool single, bool weight_gradient = false) {
  if (narrow_groups(c) && c.C < kWholePanel) return Algorithm::direct;
  if (single && winograd_serves(c) && winograd_saves(c, c, 2.0 / 3)) return Algorithm::winograd;
  if (single && winograd_serves_phases(c) && winograd_saves(c, of_phases(c), 2.0 / 3)) {
    return Algorithm::winograd;
  }
  const bool direct = weight_gradient ? direct_weight_gradient_pays(c) : direct_pays(c);
  return direct ? Algorithm::direct : Algorithm::implicit_gemm;
}

inline bool dense_planes(const FeatureMapStrides& s, const int64_t* size) {
  int64_t step = 1;
  for (int axis = kSpatial - 1; axis >= 0; step *= size[axis], --axis) {
    if (size[axis] > 1 && s.spatial[axis] != step) return false;
  }
  return s.c == step;
}

// Whether bfloat16's narrow groups in NCHW are turned to channels_last and back: its kernels take
// whole vectors of channels, innermost.
inline bool turning_groups_pays(const Convolution& c) {
  if (c.input.c == 1 || c.in[1] == 1 || c.out[1] == 1 || c.G * c.C % 16 != 0) return false;
  Convolution turned = c;
  turned.input.c = 1;
  turned.input.g = c.C;
  return narrow_groups(turned) && dense_planes(c.input, c.in) && dense_planes(c.output, c.out);
}

constexpr int64_t kFewFilters = 32;  // of a weight gradient

// Of bfloat16, where the processor multiplies it at twice the rate of float32: implicit GEMM over
// pairs, or what serves float32. Winograd pays where it saves two thirds of the multiplications;
// direct convolution where pairs of channels would be half empty, channels of a group few, or in a
// weight gradient filters.
inline Algorithm choose_bfloat16(const Convolution& c, bool weight_gradient = false) {
  const Algorithm single = choose(c, true, weight_gradient);
  const bool strided = c.stride[1] > 1 || c.stride[2] > 1;
  const bool groups = narrow_groups(c) || (!weight_gradient && turning_groups_pays(c));
  if (groups && (c.C < kWholePanel || !(weight_gradient || strided))) return Algorithm::direct;
  bool pays = false;
  if (single == Algorithm::winograd) {
    const bool plain = winograd_serves(c);
    pays = !weight_gradient && winograd_saves(c, plain ? c : of_phases(c), 1.0 / 3);
  } else if (single == Algorithm::direct) {
    const bool few_channels = c.C == 1 || (c.G > 1 && c.C < kWinogradChannels);
    pays = weight_gradient ? c.K < kFewFilters : few_channels;
  }
  return pays ? single : Algorithm::implicit_gemm;
}

// Whether small maps in NCHW are better turned to channels_last and back: rows that fill no vector
// are slow to read and to write, channels are not.
inline bool turning_pays(const Convolution& c) {
  if (c.G != 1 || c.C < kShortRow || c.K < kShortRow) return false;
  if (c.in[1] == 1 || c.out[1] == 1 || c.out[2] >= kShortRow || c.in[2] >= 2 * kShortRow) {
    return false;
  }
  return dense_planes(c.input, c.in) && dense_planes(c.output, c.out);
}

enum class Precision { float64, float32, bfloat16 };  // bfloat16: where the processor multiplies it

// What "auto" means. `turns`: whether maps can be turned, which are then implicit GEMM's.
inline Algorithm choose(const Convolution& c, Precision precision, bool weight_gradient,
                        bool turns) {
  const Algorithm chosen = precision == Precision::bfloat16
                               ? choose_bfloat16(c, weight_gradient)
                               : choose(c, precision == Precision::float32, weight_gradient);
  const bool turned = chosen == Algorithm::direct && turns && !weight_gradient && turning_pays(c);
  return turned ? Algorithm::implicit_gemm : chosen;
}

}  // namespace cnn_ext::cpu
