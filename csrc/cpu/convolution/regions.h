// A convolution whose windows reach far into the padding, cut into parts that meet none: regions of
// the output for the forward pass, taps of the filter for the weight gradient. No torch.
#pragma once

#include <algorithm>
#include <array>
#include <vector>

#include "problem.h"

namespace cnn_ext::cpu {

// Output cells first <= o < last of an axis, all of which meet the input in the taps first_tap <= t
// < last_tap, and padding in the others.
struct Stretch {
  int64_t first, last, first_tap, last_tap;
};

inline std::vector<Stretch> stretches(const Convolution& c, int axis) {
  std::vector<Stretch> result;
  const int64_t dilation = c.dilation[axis], extent = (c.filter[axis] - 1) * dilation;
  for (int64_t o = 0; o < c.out[axis]; ++o) {
    const int64_t at = o * c.stride[axis] - c.padding[axis];
    const int64_t first = at < 0 ? std::min((-at - 1) / dilation + 1, c.filter[axis]) : 0;
    const int64_t last =
        at >= c.in[axis] ? 0 : std::min((c.in[axis] - 1 - at) / dilation + 1, c.filter[axis]);
    Stretch here{o, o + 1, first, std::max(first, last)};
    if (first == 0 && last == c.filter[axis]) {  // and so for all that end inside
      const int64_t inside = (c.in[axis] - 1 - extent + c.padding[axis]) / c.stride[axis] + 1;
      here.last = std::min(c.out[axis], inside);
      o = here.last - 1;
    }
    if (!result.empty() && result.back().first_tap == here.first_tap &&
        result.back().last_tap == here.last_tap) {
      result.back().last = here.last;
    } else {
      result.push_back(here);
    }
  }
  return result;
}

constexpr size_t kMostRegions = 27;

// When it pays to cut a convolution into regions: along the first axes, where at most `inside` of
// all products are with cells of the input, and regions have at least so many pixels on the
// average.
struct Regions {
  int axes;
  double inside;
  int64_t pixels;
};

// The stretches of every axis. `inside`: the share of all products that are with cells of the
// input.
struct RegionCut {
  std::array<std::vector<Stretch>, kSpatial> axes;
  double inside = 1.0;
  size_t regions = 1;
  bool empty = false;  // whether a region meets no cell of the input
};

inline RegionCut cut_regions(const Convolution& c, int cut_axes) {
  RegionCut cut;
  for (int axis = 0; axis < kSpatial; ++axis) {
    if (axis >= cut_axes || c.padding[axis] == 0) {
      cut.axes[axis] = {{0, c.out[axis], 0, c.filter[axis]}};
      continue;
    }
    cut.axes[axis] = stretches(c, axis);
    int64_t met = 0;
    for (const Stretch& s : cut.axes[axis]) {
      met += (s.last - s.first) * (s.last_tap - s.first_tap);
      cut.empty = cut.empty || s.last_tap == s.first_tap;
    }
    cut.inside *= static_cast<double>(met) / static_cast<double>(c.out[axis] * c.filter[axis]);
    cut.regions *= cut.axes[axis].size();
  }
  return cut;
}

// Whether it pays to cut a convolution into regions.
inline bool regions_pay(const Convolution& c, const Regions& pays) {
  bool padded = false;
  for (int axis = 0; axis < pays.axes; ++axis) padded = padded || c.padding[axis] != 0;
  if (!padded) return false;
  const RegionCut cut = cut_regions(c, pays.axes);
  const bool large = c.pixels() >= pays.pixels * static_cast<int64_t>(cut.regions);
  return !cut.empty && cut.inside <= pays.inside && cut.regions <= kMostRegions && large;
}

// f(part of the convolution, its offset in the input, in the weight and in the output) for regions
// of the output whose windows meet no padding along the first axes.
template <typename F>
void each_region(const Convolution& c, int cut_axes, const F& f) {
  const RegionCut cut = cut_regions(c, cut_axes);
  for (size_t index = 0; index < cut.regions; ++index) {
    Convolution part = c;
    int64_t input = 0, weight = 0, output = 0;
    size_t rest = index;
    for (int axis = 0; axis < kSpatial; ++axis) {
      const Stretch& s = cut.axes[axis][rest % cut.axes[axis].size()];
      rest /= cut.axes[axis].size();
      if (axis >= cut_axes) continue;
      const int64_t at =
          s.first * c.stride[axis] - c.padding[axis] + s.first_tap * c.dilation[axis];
      part.in[axis] = c.in[axis] - at;
      part.out[axis] = s.last - s.first;
      part.filter[axis] = s.last_tap - s.first_tap;
      part.padding[axis] = 0;
      input += at * c.input.spatial[axis];
      weight += s.first_tap * c.weight.spatial[axis];
      output += s.first * c.output.spatial[axis];
    }
    f(part, input, weight, output);
  }
}

// Where taps meet the input: for each tap of an axis, the pixels whose windows it joins to a cell.
struct TapCut {
  std::array<std::vector<Stretch>, kSpatial> met;
  double inside = 1.0;
};

inline TapCut cut_taps(const Convolution& c) {
  TapCut cut;
  for (int axis = 0; axis < kSpatial; ++axis) {
    const int64_t stride = c.stride[axis];
    int64_t sum = 0;
    for (int64_t tap = 0; tap < c.filter[axis]; ++tap) {
      const int64_t before = c.padding[axis] - tap * c.dilation[axis];
      const int64_t first = before > 0 ? divide_up(before, stride) : 0;
      const int64_t end = c.in[axis] + before;  // of the cells, seen from the first pixel's tap
      const int64_t last = end > 0 ? std::min(c.out[axis], divide_up(end, stride)) : 0;
      cut.met[axis].push_back({first, std::max(first, last), tap, tap + 1});
      sum += cut.met[axis].back().last - first;
    }
    cut.inside *= static_cast<double>(sum) / static_cast<double>(c.out[axis] * c.filter[axis]);
  }
  return cut;
}

// Whether a weight gradient pays tap by tap: at most three quarters of the products are with cells
// of the input, and taps have some hundred pixels on the average.
inline bool taps_pay(const Convolution& c) {
  bool padded = false;
  for (int axis = 0; axis < kSpatial; ++axis) {
    const int64_t end = (c.out[axis] - 1) * c.stride[axis] - c.padding[axis] +
                        (c.filter[axis] - 1) * c.dilation[axis];
    padded = padded || c.padding[axis] > 0 || end >= c.in[axis];
  }
  if (c.taps() == 1 || !padded) return false;
  const double inside = cut_taps(c).inside;
  return inside <= kInsideProducts && inside * static_cast<double>(c.pixels()) >= kTapPixels;
}

// f(one tap of the convolution, with the pixels whose windows it joins to a cell of the input; its
// offset in the input, in the weight and in the output) for all taps. A tap that meets no cell has
// no pixels.
template <typename F>
void each_tap(const Convolution& c, const F& f) {
  const TapCut cut = cut_taps(c);
  for (int64_t index = 0; index < c.taps(); ++index) {
    Convolution part = c;
    int64_t input = 0, weight = 0, output = 0, rest = index;
    for (int axis = kSpatial - 1; axis >= 0; --axis) {
      const Stretch& s = cut.met[axis][rest % c.filter[axis]];
      rest /= c.filter[axis];
      const int64_t at =
          s.first * c.stride[axis] - c.padding[axis] + s.first_tap * c.dilation[axis];
      part.in[axis] = c.in[axis] - at;
      part.out[axis] = s.last - s.first;
      part.filter[axis] = 1;
      part.padding[axis] = 0;
      input += at * c.input.spatial[axis];
      weight += s.first_tap * c.weight.spatial[axis];
      output += s.first * c.output.spatial[axis];
    }
    f(part, input, weight, output);
  }
}

}  // namespace cnn_ext::cpu
