// What kernels are told of a convolution, from tensors, and its input gradient as convolutions: the
// same for every device.
#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <vector>

#include "../../cpu/convolution/problem.h"
#include "convolution.h"

namespace cnn_ext {

// Keeps offsets along an axis, those into the padding included, from overflowing. An axis of one
// cell or one tap is never stepped along, and its stride in memory may be any number.
inline void bound_axis(cpu::Convolution& c, int axis, int64_t padding_after) {
  constexpr double kMostElements = 0x1p60;
  constexpr int64_t kLongStep = int64_t{1} << 32;
  if (c.filter[axis] == 1) c.dilation[axis] = c.weight.spatial[axis] = 1;
  if (c.in[axis] == 1 && c.input.spatial[axis] > kLongStep) c.input.spatial[axis] = 1;
  const auto reach = [&](int64_t cells) {
    return static_cast<double>(cells) * static_cast<double>(c.input.spatial[axis]);
  };
  TORCH_CHECK(reach(c.in[axis] + c.padding[axis] + padding_after) < kMostElements,
              "convolution: padding: expected less, for offsets into the padded input overflow: ",
              c.padding[axis], " before and ", padding_after, " after ", c.in[axis],
              " cells that are ", c.input.spatial[axis], " elements apart");
  TORCH_CHECK(reach(c.stride[axis]) < kMostElements, "convolution: stride: expected less, for ",
              "offsets overflow: ", c.stride[axis], " cells that are ", c.input.spatial[axis],
              " elements apart");
}

// The arguments as numbers, with leading axes of size 1 up to three, and strides.
inline cpu::Convolution describe(const Tensor& input, const Tensor& weight, const Tensor& output,
                                 const Parameters& p) {
  cpu::Convolution c{};
  c.N = input.size(0);
  c.G = p.groups.expect_int();
  c.C = weight.size(1);
  c.K = weight.size(0) / c.G;
  c.input = {input.stride(0), c.C * input.stride(1), input.stride(1), {}};
  c.output = {output.stride(0), c.K * output.stride(1), output.stride(1), {}};
  c.weight = {c.K * weight.stride(0), weight.stride(0), weight.stride(1), {}};
  const int missing = cpu::kSpatial + 2 - static_cast<int>(input.dim());
  for (int axis = 0; axis < cpu::kSpatial; ++axis) {
    c.in[axis] = c.out[axis] = c.filter[axis] = c.stride[axis] = c.dilation[axis] = 1;
    if (axis < missing) continue;
    const int from = axis - missing;
    c.in[axis] = input.size(from + 2);
    c.out[axis] = output.size(from + 2);
    c.filter[axis] = weight.size(from + 2);
    c.stride[axis] = p.stride[from].expect_int();
    c.padding[axis] = p.padding_before[from].expect_int();
    c.dilation[axis] = p.dilation[from].expect_int();
    c.input.spatial[axis] = input.stride(from + 2);
    c.output.spatial[axis] = output.stride(from + 2);
    c.weight.spatial[axis] = weight.stride(from + 2);
    bound_axis(c, axis, p.padding_after[from].expect_int());
  }
  return c;
}

// Output cells first <= o < last of an axis, all of which meet the input in the taps first_tap <= t
// < last_tap, and padding in the others.
struct Stretch {
  int64_t first, last, first_tap, last_tap;
};

inline std::vector<Stretch> stretches(const cpu::Convolution& c, int axis) {
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

// f(part of the convolution, its offset in the input, in the weight and in the output) for regions
// of the output whose windows meet no padding along those axes; or f(c, 0, 0, 0) if it does not
// pay.
template <typename F>
void each_region(const cpu::Convolution& c, const Regions& pays, const F& f) {
  std::array<std::vector<Stretch>, cpu::kSpatial> axes;
  double inside = 1.0;  // of all products, those with the input
  size_t regions = 1;
  bool empty = false;
  for (int axis = 0; axis < cpu::kSpatial; ++axis) {
    if (axis >= pays.axes || c.padding[axis] == 0) {
      axes[axis] = {{0, c.out[axis], 0, c.filter[axis]}};
      continue;
    }
    axes[axis] = stretches(c, axis);
    int64_t met = 0;
    for (const Stretch& s : axes[axis]) {
      met += (s.last - s.first) * (s.last_tap - s.first_tap);
      empty = empty || s.last_tap == s.first_tap;
    }
    inside *= static_cast<double>(met) / static_cast<double>(c.out[axis] * c.filter[axis]);
    regions *= axes[axis].size();
  }
  const bool large = c.pixels() >= pays.pixels * static_cast<int64_t>(regions);
  if (empty || inside > pays.inside || regions > kMostRegions || !large) return f(c, 0, 0, 0);
  for (size_t index = 0; index < regions; ++index) {
    cpu::Convolution part = c;
    int64_t input = 0, weight = 0, output = 0;
    size_t rest = index;
    for (int axis = 0; axis < cpu::kSpatial; ++axis) {
      const Stretch& s = axes[axis][rest % axes[axis].size()];
      rest /= axes[axis].size();
      if (axis >= pays.axes) continue;
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

// f(one tap of the convolution, with the pixels whose windows it joins to a cell of the input; its
// offset in the input, in the weight and in the output) for all taps, if at most three quarters of
// the products are with such cells, and taps have some hundred pixels on the average; whether it
// was so. A tap that meets no cell has no pixels.
template <typename F>
bool each_tap(const cpu::Convolution& c, const F& f) {
  double inside = 1.0;
  std::array<std::vector<Stretch>, cpu::kSpatial> met;  // pixels, for each tap of an axis
  for (int axis = 0; axis < cpu::kSpatial; ++axis) {
    const int64_t stride = c.stride[axis];
    int64_t sum = 0;
    for (int64_t tap = 0; tap < c.filter[axis]; ++tap) {
      const int64_t before = c.padding[axis] - tap * c.dilation[axis];
      const int64_t first = before > 0 ? cpu::divide_up(before, stride) : 0;
      const int64_t end = c.in[axis] + before;  // of the cells, seen from the first pixel's tap
      const int64_t last = end > 0 ? std::min(c.out[axis], cpu::divide_up(end, stride)) : 0;
      met[axis].push_back({first, std::max(first, last), tap, tap + 1});
      sum += met[axis].back().last - first;
    }
    inside *= static_cast<double>(sum) / static_cast<double>(c.out[axis] * c.filter[axis]);
  }
  constexpr double kPixels = 256.0;
  const bool small = inside * static_cast<double>(c.pixels()) < kPixels;
  if (c.taps() == 1 || inside > 0.75 || small) return false;
  for (int64_t index = 0; index < c.taps(); ++index) {
    cpu::Convolution part = c;
    int64_t input = 0, weight = 0, output = 0, rest = index;
    for (int axis = cpu::kSpatial - 1; axis >= 0; --axis) {
      const Stretch& s = met[axis][rest % c.filter[axis]];
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
  return true;
}

// One axis of the input gradient, at the input cells phase, phase + stride, phase + 2 stride, ...:
// the filter taps that reach them, and the stride-1 convolution over grad_output that they form.
struct Phase {
  int64_t cells, taps, first_tap, tap_step, padding, dilation;
};

inline Phase input_gradient_phase(const cpu::Convolution& c, int axis, int64_t phase) {
  const int64_t stride = c.stride[axis], dilation = c.dilation[axis];
  const int64_t step = stride / std::gcd(stride, dilation);
  const int64_t at = phase + c.padding[axis];
  Phase result{};
  result.cells = (c.in[axis] - phase + stride - 1) / stride;
  result.tap_step = step;
  // Input cell i meets output cell (i + padding - tap * dilation) / stride, when that is whole.
  while (result.first_tap < step && (at - result.first_tap * dilation) % stride != 0) {
    ++result.first_tap;
  }
  if (result.first_tap == step || result.first_tap >= c.filter[axis]) return result;
  result.taps = (c.filter[axis] - 1 - result.first_tap) / step + 1;
  result.dilation = dilation * step / stride;
  result.padding =
      (result.taps - 1) * result.dilation - (at - result.first_tap * dilation) / stride;
  return result;
}

// Phases of an axis that have a cell of the input.
inline int64_t phases_of(const cpu::Convolution& c, int axis) {
  return std::min(c.stride[axis], c.in[axis]);
}

// The input gradient is a convolution of grad_output with the filters flipped and their two
// channel axes exchanged; where the forward pass strides, one such convolution for each phase.
// `phases_cover` says whether these write every cell of the result.
inline bool phases_cover(const cpu::Convolution& c) {
  for (int axis = 0; axis < cpu::kSpatial; ++axis) {
    for (int64_t phase = 0; phase < phases_of(c, axis); ++phase) {
      if (input_gradient_phase(c, axis, phase).taps == 0) return false;
    }
  }
  return true;
}

template <typename T, typename R, typename Forward>
void input_gradient_by_phases(const cpu::Convolution& c, const T* grad_output, const T* weight,
                              R* grad_input, const Tensor& result, const Forward& forward) {
  const int64_t phases = phases_of(c, 0) * phases_of(c, 1) * phases_of(c, 2);
  for (int64_t index = 0; index < phases; ++index) {
    cpu::Convolution g = c;
    g.C = c.K;
    g.K = c.C;
    g.input = c.output;
    g.output = c.input;
    g.weight.k = c.weight.c;
    g.weight.c = c.weight.k;
    const T* filter = weight;
    R* cells = grad_input;
    bool empty = false;
    int64_t rest = index;
    for (int axis = cpu::kSpatial - 1; axis >= 0; --axis) {
      const int64_t phase = rest % phases_of(c, axis);
      rest /= phases_of(c, axis);
      const Phase part = input_gradient_phase(c, axis, phase);
      empty = empty || part.taps == 0;
      g.in[axis] = c.out[axis];
      g.out[axis] = part.cells;
      g.filter[axis] = part.taps;
      g.stride[axis] = 1;
      g.padding[axis] = part.padding;
      g.dilation[axis] = part.dilation;
      const int64_t last_tap = part.first_tap + (part.taps - 1) * part.tap_step;
      if (part.taps > 0) filter += last_tap * c.weight.spatial[axis];
      g.weight.spatial[axis] = -part.tap_step * c.weight.spatial[axis];
      cells += phase * c.input.spatial[axis];
      g.output.spatial[axis] = c.stride[axis] * c.input.spatial[axis];
    }
    if (!empty) forward(g, grad_output, filter, nullptr, cells, result);
  }
}

}  // namespace cnn_ext
