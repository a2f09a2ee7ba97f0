// Which way a convolution is computed. `plan` is the only place that chooses: it turns a request
// into a route, and the drivers in csrc/ops/convolution/ carry the route out. What "auto" means is
// the table `kRule`. A route is a function of the shape, the strides, the dtype and the instruction
// set, never of a timing or of the number of threads, so that results do not change from run to
// run.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "../capability.h"
#include "band/geometry.h"
#include "dense/geometry.h"
#include "depthwise/geometry.h"
#include "implicit_gemm/geometry.h"
#include "phases.h"
#include "regions.h"
#include "simplify.h"
#include "windows.h"
#include "winograd/geometry.h"

namespace cnn_ext::cpu {

// ---------------------------------------------------------------------------------------------
// What is asked for
// ---------------------------------------------------------------------------------------------

enum class Pass { forward, input_gradient, weight_gradient };
enum class Algorithm { im2col, implicit_gemm, winograd, direct };  // the public names
enum class Dtype { float32, float64, bfloat16, float16, complex32, complex64, complex128 };

struct Request {
  Pass pass;
  Convolution problem;  // of the forward pass, whichever pass this is
  int axes;             // spatial: 1 to 3
  Dtype dtype;
  std::optional<Algorithm> algorithm;  // or none: "auto"
};

// ---------------------------------------------------------------------------------------------
// The answer
// ---------------------------------------------------------------------------------------------

enum class Precision { float64, float32, bfloat16 };  // of the operands of a product

// A folder of csrc/cpu/convolution/, or im2col, which is composed of torch's operations.
enum class Kernel { im2col, implicit_gemm, dense, winograd, band, depthwise };

// How a convolution becomes several of the kernel's.
enum class Split {
  none,
  stride_phases,    // input cells a stride apart, copied to channels: Winograd of stride 1
  gradient_phases,  // an input gradient: a forward convolution for each phase of the stride
  regions,          // of the output, whose windows meet no padding: wide dilations
  taps,             // of the filter, likewise, in a weight gradient
  window_rows,      // windows side by side: a product for each row of the windows
  whole_windows,    // windows side by side: one product, then each window is put in its place
  padded_rows,      // bfloat16 pairs written with the padding: a row of a window in one piece
};

struct Step {
  Kernel kernel;
  Split split = Split::none;
};

// Adapters in the order in which they apply, then the step; `phases` are the steps of
// Split::gradient_phases, in the order of `each_phase`.
struct Route {
  Pass pass;
  Algorithm algorithm;      // the kernel's public name
  const char* row;          // of the rule, or "by name"
  bool real_parts = false;  // a complex convolution is four real ones
  bool in_float32 = false;  // operands are converted, some images at a time; the result is rounded
  bool channels_last = false;  // the layout that they are converted to
  bool transposed = false;  // maps are transposed to channels_last and back, some images at a time
  Precision precision = Precision::float32;
  Step step{};
  std::vector<Step> phases;
};

// ---------------------------------------------------------------------------------------------
// The rule of "auto"
// ---------------------------------------------------------------------------------------------

// What the rule sees: one real convolution whose products have this precision. `transposable`:
// whether its maps may be transposed to channels_last.
struct Case {
  const Convolution& c;
  bool weight_gradient;
  Precision precision;
  bool transposable;

  bool bfloat16() const { return precision == Precision::bfloat16; }
  bool strided() const { return c.stride[1] > 1 || c.stride[2] > 1; }
};

// Whether Winograd takes at most `part` of the direct sum's multiplications: tiles reach over the
// edges of small maps.
inline bool winograd_saves(const Convolution& c, double part) {
  const Convolution served = winograd_serves(c) ? c : of_phases(c);
  if (served.C < kWinogradChannels || served.K < kWinogradChannels) return false;
  Winograd plan{};
  lay_tiles(served, plan);
  const auto direct = static_cast<double>(c.pixels() * c.reduction());
  return static_cast<double>(kTileCells * plan.tiles() * served.C) <= part * direct;
}

// Winograd's errors, some three times those of the direct sum, are within what float32 users accept
// of a convolution, but nobody asks for float64 to lose a digit.
inline bool serves_winograd(const Case& k) {
  return k.precision != Precision::float64 && (winograd_serves(k.c) || winograd_serves_phases(k.c));
}

inline bool pays_winograd(const Case& k) {
  if (k.bfloat16()) return !k.weight_gradient && winograd_saves(k.c, kSavesTwoThirds);
  return winograd_saves(k.c, kSavesAThird);
}

inline bool pays_pairs(const Case& k) { return winograd_saves(k.c, kSavesAThird); }

inline bool serves_pairs(const Case& k) { return k.bfloat16() && serves_winograd(k); }

// Whether maps in NCHW are planes without gaps, channel after channel.
inline bool dense_planes(const FeatureMapStrides& s, const int64_t* size) {
  int64_t step = 1;
  for (int axis = kSpatial - 1; axis >= 0; step *= size[axis], --axis) {
    if (size[axis] > 1 && s.spatial[axis] != step) return false;
  }
  return s.c == step;
}

inline bool dense_maps(const Convolution& c) {
  return c.in[1] > 1 && c.out[1] > 1 && dense_planes(c.input, c.in) &&
         dense_planes(c.output, c.out);
}

// Whether narrow groups of bfloat16 in NCHW are transposed to channels_last and back: its kernels
// take whole vectors of channels, innermost.
inline bool transposing_groups_pays(const Convolution& c) {
  if (c.input.c == 1 || c.G * c.C % 16 != 0 || !dense_maps(c)) return false;
  Convolution transposed = c;
  transposed.input.c = 1;
  transposed.input.g = c.C;
  return narrow_groups(transposed);
}

inline bool serves_narrow_groups(const Case& k) {
  const bool transposed = k.bfloat16() && !k.weight_gradient && transposing_groups_pays(k.c);
  return narrow_groups(k.c) || transposed;
}

// Groups that fill a panel of filters are products; in bfloat16 only where they are strided.
inline bool pays_narrow_groups(const Case& k) {
  if (k.c.C < kWholePanel) return true;
  return k.bfloat16() && !k.weight_gradient && !k.strided();
}

// Whether small maps in NCHW are better transposed to channels_last and back.
inline bool transposing_pays(const Convolution& c) {
  if (c.G != 1 || c.C < kShortRow || c.K < kShortRow) return false;
  return c.out[2] < kShortRow && c.in[2] < 2 * kShortRow && dense_maps(c);
}

inline bool serves_transposed(const Case& k) { return k.transposable && !k.weight_gradient; }

inline bool pays_transposed(const Case& k) { return transposing_pays(k.c); }

inline bool serves_band(const Case& k) {
  const bool few_channels = k.c.C == 1 || (k.c.G > 1 && k.c.C < kWinogradChannels);
  if (k.bfloat16() && !(k.weight_gradient ? k.c.K < kFewFilters : few_channels)) return false;
  return direct_serves(k.c) && least_band(k.c) <= kGoodBand;
}

// Filters of one cell, such as cover their input and such as do not overlap are plain products, and
// a cell that is far from its neighbours makes for a long band. In channels_last whole pixels are
// packed at once, so that with channels enough a band pays at stride 1 alone; there few filters (an
// image's channels, in the gradient of a first layer) are worth a band from two taps on, along its
// cells. A weight gradient packs patches for all filters at once.
inline bool pays_band(const Case& k) {
  const Convolution& c = k.c;
  const int64_t reach = (c.filter[2] - 1) * c.dilation[2] / c.stride[2];
  if (k.weight_gradient) {
    const bool few = c.K < kFewFilters || (c.innermost() && c.C < kWinogradChannels);
    return few && c.taps() > 1 && reach <= c.out[2];
  }
  const bool apart = c.stride[1] >= c.filter[1] && c.stride[2] >= c.filter[2];
  const bool few = c.innermost() && c.K < kFewColumns && c.taps() > 1;
  if ((c.taps() <= kFewTaps && !few) || apart || 2 * reach > c.out[2]) return false;
  return !(c.stride[1] * c.stride[2] > 1 && c.innermost() && c.C >= kWinogradChannels);
}

inline bool always(const Case&) { return true; }

// The first row that serves and pays wins.
struct Row {
  const char* name;
  Algorithm algorithm;
  bool (*serves)(const Case&);
  bool (*pays)(const Case&);
  const char* when;    // in words, for the docs
  const char* reason;  // likewise
};

constexpr Row kRule[] = {
    {"narrow groups", Algorithm::direct, serves_narrow_groups, pays_narrow_groups,
     "groups of 1, 2, 4 or 8 channels (with AVX-512 also 16) and as many filters, of at most 64 "
     "cells, whose input rows hold at most 65,536 cells; from 2 channels on in channels_last, "
     "where "
     "the convolution strides, or where rows of the output have fewer than 16 cells",
     "no product of matrices to speak of: vectors run along the groups"},
    {"Winograd", Algorithm::winograd, serves_winograd, pays_winograd,
     "float32 filters of 3 x 3 or 5 x 5 cells (in each phase of the stride) without dilation, at "
     "least 16 channels and 16 filters to a group, where tiles save a third of the multiplications "
     "(bfloat16: two thirds, and no weight gradient)",
     "fewer multiplications"},
    {"pairs", Algorithm::implicit_gemm, serves_pairs, pays_pairs,
     "bfloat16 on AVX512-BF16, where Winograd saves a third of the multiplications but not two",
     "the processor multiplies pairs of bfloat16 at twice the rate of float32"},
    {"small maps", Algorithm::implicit_gemm, serves_transposed, pays_transposed,
     "maps in NCHW, without gaps, of more than one row, whose rows have fewer than 16 cells in the "
     "output and 32 in the input; at least 16 channels and filters, no groups, no weight gradient",
     "rows that fill no vector are slow to read and to write; channels are not, once transposed"},
    {"band", Algorithm::direct, serves_band, pays_band,
     "filters of 5 to 1,024 cells whose windows overlap and reach over at most half a row of the "
     "output, where a row buffer fits the cache; in channels_last with 16 channels or more at "
     "stride "
     "1 alone, with fewer than 16 filters from 2 cells on; weight gradients of fewer than 32 "
     "filters, "
     "or in channels_last of fewer than 16 channels",
     "many windows share each cell, so that packing patches would cost more than copying rows"},
    {"products", Algorithm::implicit_gemm, always, always, "everything else",
     "one product of matrices; patches are packed block by block"},
};

inline const Row& choose(const Case& k) {
  const Row* row = kRule;
  while (!(row->serves(k) && row->pays(k))) ++row;
  return *row;
}

// ---------------------------------------------------------------------------------------------
// The plan
// ---------------------------------------------------------------------------------------------

constexpr Regions kProductRegions{kSpatial, kInsideProducts, kRegionPixels};
constexpr Regions kBandRegions{1, kInsideBand,
                               kBandRegionPixels};  // a band holds all taps along the depth

// An odd few channels of bfloat16 in channels_last, as a first layer has: their pairs are written
// out anyway.
inline bool padded_rows_pay(const Convolution& c) {
  const bool together = c.input.c == 1 && c.G == 1 && c.dilation[2] == 1 && c.filter[2] > 1;
  return together && c.C < kFewChannels && c.C % 2 == 1;
}

inline Step forward_step(const Convolution& c, Algorithm algorithm, Precision precision) {
  switch (algorithm) {
    case Algorithm::im2col:
      return {Kernel::im2col};
    case Algorithm::winograd:
      return {Kernel::winograd, winograd_serves(c) ? Split::none : Split::stride_phases};
    case Algorithm::direct:
      if (narrow_groups(c)) return {Kernel::depthwise};
      return {Kernel::band, regions_pay(c, kBandRegions) ? Split::regions : Split::none};
    case Algorithm::implicit_gemm:
      break;
  }
  const bool pairs = precision == Precision::bfloat16;
  if (pairs && padded_rows_pay(c)) return {Kernel::implicit_gemm, Split::padded_rows};
  if (regions_pay(c, kProductRegions)) return {Kernel::implicit_gemm, Split::regions};
  return {!pairs && dense_serves<float>(simplify(c, false)) ? Kernel::dense
                                                            : Kernel::implicit_gemm};
}

inline Step weight_gradient_step(const Convolution& c, Algorithm algorithm) {
  switch (algorithm) {
    case Algorithm::im2col:
      return {Kernel::im2col};
    case Algorithm::winograd:
      return {Kernel::winograd, winograd_serves(c) ? Split::none : Split::stride_phases};
    case Algorithm::direct:
      return {narrow_groups(c) ? Kernel::depthwise : Kernel::band};
    case Algorithm::implicit_gemm:
      break;
  }
  if (taps_pay(c)) return {Kernel::implicit_gemm, Split::taps};
  return {dense_weight_gradient_serves(simplify(c, false)) ? Kernel::dense : Kernel::implicit_gemm};
}

// `algorithm`: of every phase, or none where each is chosen by the rule.
inline void plan_input_gradient(Route& route, const Convolution& c,
                                std::optional<Algorithm> algorithm) {
  switch (route.algorithm) {
    case Algorithm::im2col:
      route.step = {Kernel::im2col};
      return;
    case Algorithm::winograd:
      if (winograd_serves(c)) break;
      route.step = {Kernel::winograd, Split::stride_phases};
      return;
    case Algorithm::direct:
      if (!narrow_groups(c)) break;
      route.step = {Kernel::depthwise};
      return;
    case Algorithm::implicit_gemm:
      if (route.precision == Precision::bfloat16 || !windows_tile(c)) break;
      if (rows_lie_together(c)) {
        route.step = {Kernel::implicit_gemm, Split::window_rows};
        return;
      }
      if (windows_fit(c)) {
        route.step = {Kernel::implicit_gemm, Split::whole_windows};
        return;
      }
      break;
  }
  const bool products = route.algorithm == Algorithm::implicit_gemm;
  each_phase(products ? simplify(c, true) : c, [&](const Convolution& phase, int64_t, int64_t) {
    const Case k{phase, false, route.precision, false};
    const Algorithm of_phase = algorithm.has_value() ? *algorithm : choose(k).algorithm;
    route.phases.push_back(forward_step(phase, of_phase, route.precision));
  });
  const Kernel kernel = route.phases.empty() ? Kernel::implicit_gemm : route.phases[0].kernel;
  route.step = {kernel, Split::gradient_phases};
}

inline void multiply_strides(FeatureMapStrides& s, int64_t by) {
  s.n *= by;
  s.g *= by;
  s.c *= by;
  for (int64_t& step : s.spatial) step *= by;
}

// The strides that a tensor's copy has: without gaps, channels innermost or not.
inline FeatureMapStrides dense_strides(int64_t groups, int64_t channels, const int64_t* size,
                                       bool channels_last) {
  const int64_t pixels = size[0] * size[1] * size[2], all = groups * channels;
  const int64_t c = channels_last ? 1 : pixels, pixel = channels_last ? all : 1;
  return {all * pixels, channels * c, c, {pixel * size[1] * size[2], pixel * size[2], pixel}};
}

inline Convolution dense_maps_of(Convolution c, bool channels_last) {
  c.input = dense_strides(c.G, c.C, c.in, channels_last);
  c.output = dense_strides(c.G, c.K, c.out, channels_last);
  return c;
}

// The same with dense filters.
inline Convolution densified(const Convolution& whole, bool channels_last) {
  Convolution c = dense_maps_of(whole, channels_last);
  const int64_t taps = c.taps(), step = channels_last ? c.C : 1;
  c.weight = {c.K * c.C * taps,
              c.C * taps,
              channels_last ? 1 : taps,
              {step * c.filter[1] * c.filter[2], step * c.filter[2], step}};
  return c;
}

// Whether the map that a pass reads has its channels innermost; a signal of one axis never counts.
inline bool is_channels_last(const Convolution& c, const Request& request) {
  if (request.axes == 1) return false;
  const bool gradient = request.pass == Pass::input_gradient;
  const FeatureMapStrides& map = gradient ? c.output : c.input;
  return map.c == 1 && c.G * (gradient ? c.K : c.C) > 1;
}

// The strides of the real parts of a complex convolution's operands: every second element. The
// result of a part is dense.
inline Convolution real_parts_of(Convolution c, Pass pass) {
  if (pass != Pass::input_gradient) multiply_strides(c.input, 2);
  if (pass != Pass::forward) multiply_strides(c.output, 2);
  if (pass == Pass::weight_gradient) return c;
  c.weight.g *= 2;
  c.weight.k *= 2;
  c.weight.c *= 2;
  for (int64_t& step : c.weight.spatial) step *= 2;
  return c;
}

inline Route plan(const Request& request) {
  const Dtype dtype = request.dtype;
  const bool complex =
      dtype == Dtype::complex32 || dtype == Dtype::complex64 || dtype == Dtype::complex128;
  const bool wide = dtype == Dtype::float64 || dtype == Dtype::complex128;
  const bool pairs = dtype == Dtype::bfloat16 && multiplies_bfloat16();
  const bool half =
      dtype == Dtype::float16 || dtype == Dtype::bfloat16 || dtype == Dtype::complex32;
  const bool weight_gradient = request.pass == Pass::weight_gradient;

  Route route{request.pass};
  route.real_parts = complex;
  route.precision = wide ? Precision::float64 : pairs ? Precision::bfloat16 : Precision::float32;
  Convolution c = complex ? real_parts_of(request.problem, request.pass) : request.problem;
  const auto convert = [&] {
    route.precision = Precision::float32;
    route.in_float32 = true;
    route.channels_last = !route.transposed && is_channels_last(c, request);
    c = densified(c, route.channels_last);
  };
  if (half && !pairs) convert();
  // Volumes of float64 are never in channels_last.
  const bool transposable = !complex && !(wide && request.axes == 3);
  const Case k{c, weight_gradient, route.precision, transposable};
  const Row* const row = request.algorithm.has_value() ? nullptr : &choose(k);
  route.algorithm = row == nullptr ? *request.algorithm : row->algorithm;
  route.row = row == nullptr ? "by name" : row->name;

  const bool products = route.algorithm == Algorithm::implicit_gemm;
  const bool direct = route.algorithm == Algorithm::direct;
  route.transposed = serves_transposed(k) && ((products && transposing_pays(c)) ||
                                              (direct && pairs && transposing_groups_pays(c)));
  if (pairs) {
    const Convolution seen = route.transposed ? dense_maps_of(c, true) : c;
    const bool windows = request.pass == Pass::input_gradient && windows_tile(seen) &&
                         seen.taps() > kFewTaps;  // one product in float32
    const bool in_place =
        direct && narrow_groups(seen) &&
        kernels<DepthwiseKernels<BFloat16>>().plan_depthwise(seen, false).in_place;
    if (!(products && !windows) && !in_place) convert();
  }
  if (route.transposed) c = dense_maps_of(c, true);
  switch (request.pass) {
    case Pass::forward:
      route.step = forward_step(c, route.algorithm, route.precision);
      break;
    case Pass::input_gradient:
      plan_input_gradient(
          route, c,
          row == nullptr || route.transposed || route.precision == Precision::bfloat16
              ? std::optional<Algorithm>(route.algorithm)
              : std::nullopt);
      break;
    case Pass::weight_gradient:
      route.step = weight_gradient_step(c, route.algorithm);
      break;
  }
  return route;
}

// ---------------------------------------------------------------------------------------------
// In words
// ---------------------------------------------------------------------------------------------

inline const char* name_of(Pass pass) {
  constexpr const char* kNames[] = {"forward", "input_gradient", "weight_gradient"};
  return kNames[static_cast<int>(pass)];
}
inline const char* name_of(Algorithm algorithm) {
  constexpr const char* kNames[] = {"im2col", "implicit_gemm", "winograd", "direct"};
  return kNames[static_cast<int>(algorithm)];
}
inline const char* name_of(Kernel kernel) {
  constexpr const char* kNames[] = {"im2col",   "implicit_gemm", "dense",
                                    "winograd", "band",          "depthwise"};
  return kNames[static_cast<int>(kernel)];
}
inline const char* name_of(Precision precision) {
  constexpr const char* kNames[] = {"float64", "float32", "bfloat16"};
  return kNames[static_cast<int>(precision)];
}
inline const char* name_of(Split split) {
  constexpr const char* kNames[] = {"none", "stride_phases", "gradient_phases", "regions",
                                    "taps", "window_rows",   "whole_windows",   "padded_rows"};
  return kNames[static_cast<int>(split)];
}

inline std::string describe(Step step) {
  std::string words = name_of(step.kernel);
  if (step.split != Split::none) words += std::string(" by ") + name_of(step.split);
  return words;
}

// Such as "transposed > implicit_gemm", or "in_float32 > winograd by stride_phases".
inline std::string describe(const Route& route) {
  std::string words;
  if (route.real_parts) words += "real_parts > ";
  if (route.in_float32) words += "in_float32 > ";
  if (route.transposed) words += "transposed > ";
  if (route.step.split != Split::gradient_phases) return words + describe(route.step);
  if (route.phases.size() > 1) words += "gradient_phases > ";
  for (size_t i = 0; i < route.phases.size(); ++i) {  // each distinct step once
    size_t first = 0;
    while (describe(route.phases[first]) != describe(route.phases[i])) ++first;
    if (first == i) words += (i > 0 ? ", " : "") + describe(route.phases[i]);
  }
  return words;
}

}  // namespace cnn_ext::cpu
