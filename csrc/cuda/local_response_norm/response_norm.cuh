// Local response normalisation and its gradient (Krizhevsky, Sutskever and Hinton 2012,
// section 3.3):
//
//   y = x s^-beta,   s = k + a (sum of x^2 over the window)
//   dx = g s^-beta - 2 a beta x (sum of g x s^(-beta - 1) over the transposed window)
//
// A window reaches size / 2 cells before a cell and (size - 1) / 2 behind it; the transposed one is
// its mirror image. Three kernels share the work, and add in the same order:
//
//   columns   neighbouring filters in NCHW, size 3 or 5: a thread walks through the maps with its
//             windows in registers
//   rows      neighbouring filters in channels_last: pixels, all their maps, in shared memory
//   cells     everything else: a thread reads the window of its cell; the gradient takes two passes
#pragma once

#include "../../cpu/local_response_norm/geometry.h"
#include "../launch.cuh"

namespace cnn_ext::cuda {

using cpu::Power;

constexpr int kWindowAxes = 3;

template <typename T>
struct ResponseNorm {
  using Sum = typename Accumulator<T>::type;

  const T* input;
  const T* grad_output;  // null: forward
  T* output;             // or the gradient
  Sum k, a, beta;        // a: alpha, divided by the window's cells or not
  Power power;
  int64_t size;  // of the window along each axis

  // columns and rows: (outer, maps, inner), contiguous
  int64_t outer, maps, inner;
  int64_t walk, walks;  // maps that a thread of `columns` walks through; threads for all of them
  int64_t pixels;       // that a block of `rows` takes

  // cells: the axes that the window extends along
  int axes;
  int64_t cells, extent[kWindowAxes], step[kWindowAxes];
  Sum* terms;   // going backwards: g x s^(-beta - 1), and
  Sum* powers;  // s^-beta, of every cell
};

// The rounded square: never part of a fused operation, so that all kernels add the same numbers.
__device__ inline float square(float x) { return __fmul_rn(x, x); }
__device__ inline double square(double x) { return __dmul_rn(x, x); }

__device__ inline float inverse_root(float s) { return rsqrtf(s); }
__device__ inline double inverse_root(double s) { return rsqrt(s); }
__device__ inline float root(float s) { return sqrtf(s); }
__device__ inline double root(double s) { return sqrt(s); }
__device__ inline float raised(float s, float power) { return powf(s, power); }
__device__ inline double raised(double s, double power) { return pow(s, power); }
__device__ inline float fused(float a, float b, float c) { return fmaf(a, b, c); }
__device__ inline double fused(double a, double b, double c) { return fma(a, b, c); }

// s^-beta
template <typename Sum>
__device__ Sum negative_power(Sum s, Power power, Sum beta) {
  if (power == Power::other) return raised(s, -beta);
  if (power == Power::one) return Sum(1) / s;
  const Sum inverse = inverse_root(s);
  return power == Power::half ? inverse : inverse * root(inverse);
}

// ------------------------------------------------------------------------------------- columns

// Puts `value` behind the others, of which the first falls out.
template <int kLength, typename Value>
__device__ inline void push(Value (&ring)[kLength], Value value) {
#pragma unroll
  for (int i = 0; i + 1 < kLength; ++i) ring[i] = ring[i + 1];
  ring[kLength - 1] = value;
}

template <int kLength, typename Value>
__device__ inline Value ring_sum(const Value (&ring)[kLength]) {
  Value sum = ring[0];
#pragma unroll
  for (int i = 1; i < kLength; ++i) sum += ring[i];
  return sum;
}

// Where a thread of `columns` works: kWidth pixels, maps first to last.
template <typename T, int kWidth>
struct Walk {
  int64_t start, first, last;
  bool any;

  __device__ explicit Walk(const ResponseNorm<T>& p) {
    const int64_t columns = p.inner / kWidth;
    const int64_t index = thread_index();
    const int64_t rest = divide(index, columns);
    const int64_t outer = divide(rest, p.walks);
    first = (rest - outer * p.walks) * p.walk;
    last = first + p.walk < p.maps ? first + p.walk : p.maps;
    start = outer * p.maps * p.inner + (index - rest * columns) * kWidth;
    any = outer < p.outer;
  }
};

template <typename T, int kSize, int kWidth>
__global__ void __launch_bounds__(kThreads) norm_columns(const ResponseNorm<T> p) {
  using Sum = typename Accumulator<T>::type;
  constexpr int kHalf = kSize / 2;
  const Walk<T, kWidth> walk(p);
  if (!walk.any) return;
  Sum cells[kWidth][kHalf + 1] = {}, squares[kWidth][kSize] = {};
  for (int64_t map = walk.first - 2 * kHalf; map < walk.last; ++map) {
    const int64_t ahead = map + kHalf;
    Pack<T, kWidth> next = {};
    if (ahead >= 0 && ahead < p.maps) {
      next = load<T, kWidth>(p.input + walk.start + ahead * p.inner);
    }
    Pack<T, kWidth> result;
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      const Sum x = static_cast<Sum>(next.cells[j]);
      push(cells[j], x);
      push(squares[j], square(x));
      const Sum s = fused(p.a, ring_sum(squares[j]), p.k);
      result.cells[j] = static_cast<T>(cells[j][0] * negative_power(s, p.power, p.beta));
    }
    if (map >= walk.first) store(p.output + walk.start + map * p.inner, result);
  }
}

template <typename T, int kSize, int kWidth>
__global__ void __launch_bounds__(kThreads) norm_gradient_columns(const ResponseNorm<T> p) {
  using Sum = typename Accumulator<T>::type;
  constexpr int kHalf = kSize / 2;
  const Walk<T, kWidth> walk(p);
  if (!walk.any) return;
  const Sum factor = Sum(-2) * p.a * p.beta;
  // Of maps map to map + h: x, and squares up to map + h; of maps map - 2 h to map: the terms; of
  // maps map - h to map: x and g s^-beta. A step finishes map - h.
  Sum ahead[kWidth][kHalf + 1] = {}, squares[kWidth][kSize] = {}, terms[kWidth][kSize] = {};
  Sum behind[kWidth][kHalf + 1] = {}, scaled[kWidth][kHalf + 1] = {};
  for (int64_t map = walk.first - 3 * kHalf; map < walk.last + kHalf; ++map) {
    const int64_t next_map = map + kHalf;
    Pack<T, kWidth> next = {}, g = {}, result;
    if (next_map >= 0 && next_map < p.maps) {
      next = load<T, kWidth>(p.input + walk.start + next_map * p.inner);
    }
    const bool within = map >= 0 && map < p.maps && map >= walk.first - kHalf;
    if (within) g = load<T, kWidth>(p.grad_output + walk.start + map * p.inner);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      const Sum x = static_cast<Sum>(next.cells[j]);
      push(ahead[j], x);
      push(squares[j], square(x));
      Sum term = 0, product = 0;
      if (within) {
        const Sum s = fused(p.a, ring_sum(squares[j]), p.k);
        product = static_cast<Sum>(g.cells[j]) * negative_power(s, p.power, p.beta);
        term = product * ahead[j][0] / s;
      }
      push(terms[j], term);
      push(behind[j], ahead[j][0]);
      push(scaled[j], product);
      result.cells[j] =
          static_cast<T>(fused(factor * behind[j][0], ring_sum(terms[j]), scaled[j][0]));
    }
    if (map >= walk.first + kHalf) {
      store(p.output + walk.start + (map - kHalf) * p.inner, result);
    }
  }
}

// ---------------------------------------------------------------------------------------- rows

constexpr int kRowCells = 1024;  // of a block's padded pixels

template <typename T>
__global__ void __launch_bounds__(kThreads) norm_rows(const ResponseNorm<T> p) {
  using Sum = typename Accumulator<T>::type;
  constexpr int kEach = kRowCells / kThreads;
  struct Memory {
    Sum squares[kRowCells], terms[kRowCells];
  };
  CNN_EXT_SHARED(Memory, memory);
  const int maps = static_cast<int>(p.maps), size = static_cast<int>(p.size);
  const int padded = maps + size - 1;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * p.pixels;
  const int pixels = static_cast<int>(p.outer - first < p.pixels ? p.outer - first : p.pixels);
  const int cells = pixels * maps;
  for (int i = threadIdx.x; i < kRowCells; i += kThreads) memory.squares[i] = memory.terms[i] = 0;
  __syncthreads();

  const auto place = [&](int each, int& cell, int& at) {  // in memory, and in a padded row
    cell = static_cast<int>(threadIdx.x) + each * kThreads;
    at = cell / maps * padded + cell % maps;
    return cell < cells;
  };
  Sum x[kEach], product[kEach];
  int cell, at;
#pragma unroll
  for (int each = 0; each < kEach; ++each) {
    if (!place(each, cell, at)) continue;
    x[each] = static_cast<Sum>(p.input[first * maps + cell]);
    memory.squares[at + size / 2] = square(x[each]);
  }
  __syncthreads();
#pragma unroll
  for (int each = 0; each < kEach; ++each) {
    if (!place(each, cell, at)) continue;
    Sum sum = memory.squares[at];
    for (int i = 1; i < size; ++i) sum += memory.squares[at + i];
    const Sum s = fused(p.a, sum, p.k);
    const Sum power = negative_power(s, p.power, p.beta);
    if (p.grad_output == nullptr) {
      p.output[first * maps + cell] = static_cast<T>(x[each] * power);
    } else {
      product[each] = static_cast<Sum>(p.grad_output[first * maps + cell]) * power;
      memory.terms[at + (size - 1) / 2] = product[each] * x[each] / s;
    }
  }
  if (p.grad_output == nullptr) return;
  __syncthreads();
  const Sum factor = Sum(-2) * p.a * p.beta;
#pragma unroll
  for (int each = 0; each < kEach; ++each) {
    if (!place(each, cell, at)) continue;
    Sum sum = memory.terms[at];
    for (int i = 1; i < size; ++i) sum += memory.terms[at + i];
    p.output[first * maps + cell] = static_cast<T>(fused(factor * x[each], sum, product[each]));
  }
}

// --------------------------------------------------------------------------------------- cells

// The sum of f(place) over the window of the cell at `index`, `before` cells before it.
template <typename T, typename F>
__device__ auto window_sum(const ResponseNorm<T>& p, int64_t index, int64_t before, const F& f) {
  int64_t low[kWindowAxes] = {0, 0, 0}, high[kWindowAxes] = {1, 1, 1};
  int64_t start = index;
  for (int axis = 0; axis < p.axes; ++axis) {
    const int64_t rest = divide(index, p.step[axis]);
    const int64_t at = rest - divide(rest, p.extent[axis]) * p.extent[axis];
    low[axis] = at - before > 0 ? at - before : 0;
    high[axis] = at - before + p.size < p.extent[axis] ? at - before + p.size : p.extent[axis];
    start -= at * p.step[axis];
  }
  decltype(f(start)) sum = 0;
  for (int64_t i = low[0]; i < high[0]; ++i) {
    for (int64_t j = low[1]; j < high[1]; ++j) {
      for (int64_t k = low[2]; k < high[2]; ++k) {
        sum += f(start + i * p.step[0] + j * p.step[1] + k * p.step[2]);
      }
    }
  }
  return sum;
}

// The output; or, going backwards, what the second pass needs.
template <typename T>
__global__ void __launch_bounds__(kThreads) norm_cells(const ResponseNorm<T> p) {
  using Sum = typename Accumulator<T>::type;
  const int64_t index = thread_index();
  if (index >= p.cells) return;
  const Sum sum = window_sum(p, index, p.size / 2,
                             [&](int64_t at) { return square(static_cast<Sum>(p.input[at])); });
  const Sum s = fused(p.a, sum, p.k);
  const Sum x = static_cast<Sum>(p.input[index]);
  const Sum power = negative_power(s, p.power, p.beta);
  if (p.grad_output == nullptr) {
    p.output[index] = static_cast<T>(x * power);
  } else {
    p.powers[index] = power;
    p.terms[index] = static_cast<Sum>(p.grad_output[index]) * power * x / s;
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) norm_gradient_cells(const ResponseNorm<T> p) {
  using Sum = typename Accumulator<T>::type;
  const int64_t index = thread_index();
  if (index >= p.cells) return;
  const Sum sum = window_sum(p, index, (p.size - 1) / 2, [&](int64_t at) { return p.terms[at]; });
  const Sum product = static_cast<Sum>(p.grad_output[index]) * p.powers[index];
  const Sum factor = Sum(-2) * p.a * p.beta;
  p.output[index] = static_cast<T>(fused(factor * static_cast<Sum>(p.input[index]), sum, product));
}

}  // namespace cnn_ext::cuda
