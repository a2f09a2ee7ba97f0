// Max-pooling on CUDA: a thread for every output cell, and for the gradient one for every input
// cell, which collects from the windows that it is the maximum of: no atomics, always in the same
// order.
#pragma once

#include "../../cpu/max_pool/geometry.h"
#include "../launch.cuh"

namespace cnn_ext::cuda {

// A cell of a dense map, in the order of the memory.
struct PoolCell {
  int64_t n, c, at[2];

  __device__ PoolCell(int64_t index, int64_t C, const int64_t* size, bool innermost) {
    if (innermost) c = next(index, C);
    at[1] = next(index, size[1]);
    at[0] = next(index, size[0]);
    if (!innermost) c = next(index, C);
    n = index;
  }
  template <typename Strides>
  __device__ int64_t map(const Strides& s) const {
    return n * s.n + c * s.c;
  }

 private:
  // The remainder; what is left is the quotient.
  __device__ static int64_t next(int64_t& index, int64_t size) {
    const int64_t quotient = divide(index, size), rest = index - quotient * size;
    index = quotient;
    return rest;
  }
};

// p.taps may be null.
template <typename T>
__global__ void max_pool(cpu::MaxPool<T> p, bool innermost, int64_t count) {
  using Number = typename Accumulator<T>::type;
  const int64_t index = thread_index();
  if (index >= count) return;
  const PoolCell cell(index, p.C, p.out, innermost);
  const T* const map = p.input + cell.map(p.from);
  Number best = -std::numeric_limits<Number>::infinity();
  int64_t tap = -1;
  for (int64_t r = 0; r < p.window[0]; ++r) {
    const int64_t y = cell.at[0] * p.stride[0] - p.padding[0] + r * p.dilation[0];
    if (y < 0 || y >= p.in[0]) continue;
    for (int64_t s = 0; s < p.window[1]; ++s) {
      const int64_t x = cell.at[1] * p.stride[1] - p.padding[1] + s * p.dilation[1];
      if (x < 0 || x >= p.in[1]) continue;
      const Number value = static_cast<Number>(map[y * p.from.spatial[0] + x * p.from.spatial[1]]);
      if (tap >= 0 && !(value > best) && value == value) continue;
      best = value;
      tap = r * p.window[1] + s;
    }
  }
  p.output[index] = static_cast<T>(best);
  if (p.taps != nullptr) {
    p.taps[index] = tap < 0 ? cpu::kNoTap : static_cast<uint8_t>(tap);
  }
}

// The output cell whose window has the input cell `at` as its cell `tap` along an axis, or -1.
template <typename T>
__device__ int64_t window_of(const cpu::MaxPool<T>& p, int axis, int64_t at, int64_t tap) {
  const int64_t from = at + p.padding[axis] - tap * p.dilation[axis];
  if (from < 0) return -1;
  const int64_t window = divide(from, p.stride[axis]);
  return window * p.stride[axis] == from && window < p.out[axis] ? window : -1;
}

template <typename T>
__global__ void max_pool_gradient(cpu::MaxPoolGradient<T> g, bool innermost, int64_t count) {
  const int64_t index = thread_index();
  if (index >= count) return;
  const cpu::MaxPool<T>& p = g.pool;
  const PoolCell cell(index, p.C, p.in, innermost);
  const int64_t map = cell.map(p.to);
  typename Accumulator<T>::type sum = 0;
  for (int64_t r = 0; r < p.window[0]; ++r) {
    const int64_t y = window_of(p, 0, cell.at[0], r);
    if (y < 0) continue;
    for (int64_t s = 0; s < p.window[1]; ++s) {
      const int64_t x = window_of(p, 1, cell.at[1], s);
      if (x < 0) continue;
      const int64_t window = map + y * p.to.spatial[0] + x * p.to.spatial[1];
      if (p.taps[window] != r * p.window[1] + s) continue;
      sum += static_cast<typename Accumulator<T>::type>(g.grad_output[window]);
    }
  }
  g.input_gradient[index] = static_cast<T>(sum);
}

}  // namespace cnn_ext::cuda
