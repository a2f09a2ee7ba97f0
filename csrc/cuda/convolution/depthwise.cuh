// Depthwise convolution, one channel and one filter to each group, and its weight gradient: sums of
// as many products as a filter has taps, with nothing to share that a matrix multiplication could
// make use of.
#pragma once

#include "../../cpu/convolution/problem.h"
#include "../launch.cuh"

namespace cnn_ext::cuda {

template <typename T>
struct Depthwise {
  cpu::Convolution shape;
  const T* input;
  const T* weight;  // or grad_output
  const T* bias;    // (G), or null
  T* result;
  bool groups_fast;  // whether the output runs along the groups, as in channels_last
};

// One thread, one output cell.
template <typename T>
__global__ void __launch_bounds__(kThreads) depthwise(const Depthwise<T> p) {
  using Sum = typename Accumulator<T>::type;
  const cpu::Convolution& c = p.shape;
  const int64_t plane = c.out[0] * c.out[1] * c.out[2];
  int64_t index = thread_index();
  if (index >= c.N * c.G * plane) return;
  int64_t n, g, o[cpu::kSpatial];
  if (p.groups_fast) {
    const int64_t rest = divide(index, c.G);
    g = index - rest * c.G;
    n = divide(rest, plane);
    index = rest - n * plane;
  } else {
    const int64_t rest = divide(index, plane);
    n = divide(rest, c.G);
    g = rest - n * c.G;
    index -= rest * plane;
  }
  for (int axis = cpu::kSpatial - 1; axis >= 0; --axis) {
    const int64_t rest = divide(index, c.out[axis]);
    o[axis] = index - rest * c.out[axis];
    index = rest;
  }

  const T* const x = p.input + n * c.input.n + g * c.input.g;
  const T* const w = p.weight + g * c.weight.g;
  Sum sum = 0;
  for (int64_t t0 = 0; t0 < c.filter[0]; ++t0) {
    const int64_t i0 = o[0] * c.stride[0] - c.padding[0] + t0 * c.dilation[0];
    if (i0 < 0 || i0 >= c.in[0]) continue;
    for (int64_t t1 = 0; t1 < c.filter[1]; ++t1) {
      const int64_t i1 = o[1] * c.stride[1] - c.padding[1] + t1 * c.dilation[1];
      if (i1 < 0 || i1 >= c.in[1]) continue;
      for (int64_t t2 = 0; t2 < c.filter[2]; ++t2) {
        const int64_t i2 = o[2] * c.stride[2] - c.padding[2] + t2 * c.dilation[2];
        if (i2 < 0 || i2 >= c.in[2]) continue;
        sum +=
            static_cast<Sum>(
                x[i0 * c.input.spatial[0] + i1 * c.input.spatial[1] + i2 * c.input.spatial[2]]) *
            static_cast<Sum>(
                w[t0 * c.weight.spatial[0] + t1 * c.weight.spatial[1] + t2 * c.weight.spatial[2]]);
      }
    }
  }
  if (p.bias != nullptr) sum += static_cast<Sum>(p.bias[g]);
  p.result[n * c.output.n + g * c.output.g + o[0] * c.output.spatial[0] +
           o[1] * c.output.spatial[1] + o[2] * c.output.spatial[2]] = static_cast<T>(sum);
}

// One block, one cell of the weight gradient: a tap of a group, summed over every output cell.
template <typename T>
__global__ void __launch_bounds__(kThreads) depthwise_weight_gradient(const Depthwise<T> p) {
  using Sum = typename Accumulator<T>::type;
  const cpu::Convolution& c = p.shape;
  const int64_t taps = c.filter[0] * c.filter[1] * c.filter[2];
  const int64_t g = blockIdx.x / taps;
  int64_t rest = blockIdx.x - g * taps;
  int64_t tap[cpu::kSpatial], shift[cpu::kSpatial];
  for (int axis = cpu::kSpatial - 1; axis >= 0; --axis) {
    tap[axis] = rest % c.filter[axis];
    shift[axis] = tap[axis] * c.dilation[axis] - c.padding[axis];
    rest /= c.filter[axis];
  }

  const int64_t pixels = c.N * c.out[0] * c.out[1] * c.out[2];
  Sum sum = 0;
  for (int64_t pixel = threadIdx.x; pixel < pixels; pixel += kThreads) {
    int64_t left = pixel, input = g * c.input.g, output = g * c.output.g;
    bool inside = true;
    for (int axis = cpu::kSpatial - 1; axis >= 0; --axis) {
      const int64_t outer = divide(left, c.out[axis]);
      const int64_t o = left - outer * c.out[axis];
      const int64_t i = o * c.stride[axis] + shift[axis];
      inside = inside && i >= 0 && i < c.in[axis];
      input += i * c.input.spatial[axis];
      output += o * c.output.spatial[axis];
      left = outer;
    }
    if (!inside) continue;
    sum += static_cast<Sum>(p.input[input + left * c.input.n]) *
           static_cast<Sum>(p.weight[output + left * c.output.n]);
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) {
    p.result[g * c.weight.g + tap[0] * c.weight.spatial[0] + tap[1] * c.weight.spatial[1] +
             tap[2] * c.weight.spatial[2]] = static_cast<T>(sum);
  }
}

}  // namespace cnn_ext::cuda
