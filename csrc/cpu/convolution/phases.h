// The input gradient as convolutions of stride 1 over the gradient of the output: one for the input
// cells of each phase of the stride. No torch.
#pragma once

#include <algorithm>
#include <numeric>

#include "problem.h"

namespace cnn_ext::cpu {

// One axis of the input gradient, at the input cells phase, phase + stride, phase + 2 stride, ...:
// the filter taps that reach them, and the stride-1 convolution over grad_output that they form.
struct Phase {
  int64_t cells, taps, first_tap, tap_step, padding, dilation;
};

inline Phase input_gradient_phase(const Convolution& c, int axis, int64_t phase) {
  const int64_t stride = c.stride[axis], dilation = c.dilation[axis];
  const int64_t step = stride / std::gcd(stride, dilation);
  const int64_t at = phase + c.padding[axis];
  Phase result{};
  result.cells = (c.in[axis] - phase + stride - 1) / stride;
  result.tap_step = step;
  // Input cell i meets output cell (i + padding - tap * dilation) / stride, when that is whole.
  const int64_t taps = std::min(step, c.filter[axis]);
  while (result.first_tap < taps && (at - result.first_tap * dilation) % stride != 0) {
    ++result.first_tap;
  }
  if (result.first_tap == taps) return result;
  result.taps = (c.filter[axis] - 1 - result.first_tap) / step + 1;
  result.dilation = dilation * step / stride;
  result.padding =
      (result.taps - 1) * result.dilation - (at - result.first_tap * dilation) / stride;
  return result;
}

// Phases of an axis that have a cell of the input.
inline int64_t phases_of(const Convolution& c, int axis) {
  return std::min(c.stride[axis], c.in[axis]);
}

// The input gradient is a convolution of grad_output with the filters flipped and their two
// channel axes exchanged; where the forward pass strides, one such convolution for each phase.
// `phases_cover` says whether these write every cell of the result.
inline bool phases_cover(const Convolution& c) {
  for (int axis = 0; axis < kSpatial; ++axis) {
    for (int64_t phase = 0; phase < phases_of(c, axis); ++phase) {
      if (input_gradient_phase(c, axis, phase).taps == 0) return false;
    }
  }
  return true;
}

// f(that convolution, its offset in the weight and in the input gradient) for every phase that a
// tap reaches.
template <typename F>
void each_phase(const Convolution& c, const F& f) {
  const int64_t phases = phases_of(c, 0) * phases_of(c, 1) * phases_of(c, 2);
  for (int64_t index = 0; index < phases; ++index) {
    Convolution g = c;
    g.C = c.K;
    g.K = c.C;
    g.input = c.output;
    g.output = c.input;
    g.weight.k = c.weight.c;
    g.weight.c = c.weight.k;
    int64_t filter = 0, cells = 0;
    bool empty = false;
    int64_t rest = index;
    for (int axis = kSpatial - 1; axis >= 0; --axis) {
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
    if (!empty) f(g, filter, cells);
  }
}

}  // namespace cnn_ext::cpu
