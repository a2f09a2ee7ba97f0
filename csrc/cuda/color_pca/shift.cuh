// Adds one colour to every pixel of an image (Krizhevsky, Sutskever and Hinton 2012, section 4.1),
// and its transpose, the sum of all pixels. The shifts are computed on the device, so that nothing
// waits for them; to the last bit as the CPU computes them.
#pragma once

#include "../../cpu/color_pca/geometry.h"
#include "../launch.cuh"

namespace cnn_ext::cuda {

// What becomes of a byte: x + add - subtract, saturated, of which one is zero; or, where a sum
// comes near a tie, the sum in float64, rounded.
struct ByteRule {
  uint8_t add, subtract, near_tie;
};

struct ShiftParameters {
  const double* eigenvectors;  // (C, C), columns
  const double* eigenvalues;   // (C)
  const double* alphas;        // (images or 1, C)
  int64_t C, count;            // count: of shifts
  double* shifts;              // (images or 1, C)
  ByteRule* rules;             // the same; or null
};

__device__ inline double clamped(double value, double low, double high) {
  return value < low ? low : (value > high ? high : value);
}

// To nearest, ties to even; what is no number becomes 0.
__device__ inline uint8_t rounded_byte(double value) {
  return value == value ? static_cast<uint8_t>(clamped(rint(value), 0, 255)) : 0;
}

__device__ inline ByteRule byte_rule(double shift) {
  const double by = __dmul_rn(255, shift);
  const bool number = by == by;
  const double nearest = number ? rint(clamped(by, -256, 256)) : -256;
  ByteRule rule;
  rule.add = static_cast<uint8_t>(clamped(nearest, 0, 255));
  rule.subtract = static_cast<uint8_t>(clamped(-nearest, 0, 255));
  // A sum within 2^-45 of a tie is rounded on to it.
  rule.near_tie = number && fabs(fabs(by - rint(by)) - 0.5) < 0x1p-40;
  return rule;
}

// eigenvectors @ (alphas * eigenvalues), one thread a shift.
__global__ inline void __launch_bounds__(kThreads) color_shifts(const ShiftParameters p) {
  const int64_t index = thread_index();
  if (index >= p.count) return;
  const int64_t image = index / p.C, c = index % p.C;
  double shift = 0;
  for (int64_t k = 0; k < p.C; ++k) {
    const double along = __dmul_rn(p.alphas[image * p.C + k], p.eigenvalues[k]);
    shift = __dadd_rn(shift, __dmul_rn(p.eigenvectors[c * p.C + k], along));
  }
  p.shifts[index] = shift;
  if (p.rules != nullptr) p.rules[index] = byte_rule(shift);
}

template <typename T>
struct ColorShift {
  const T* input;
  T* output;
  const double* shifts;  // (shift_rows, cycle)
  const ByteRule* rules;
  int64_t shift_rows;  // rows that have shifts of their own, before they repeat
  cpu::ColorRows layout;
  int64_t packs;  // accesses for a row
};

template <typename T>
__device__ inline T shifted(T x, const ColorShift<T>& p, int64_t at) {
  using Sum = typename Accumulator<T>::type;
  return static_cast<T>(static_cast<Sum>(x) + static_cast<Sum>(p.shifts[at]));
}
__device__ inline uint8_t shifted(uint8_t x, const ColorShift<uint8_t>& p, int64_t at) {
  const ByteRule rule = p.rules[at];
  if (rule.near_tie) return rounded_byte(__dadd_rn(x, __dmul_rn(255, p.shifts[at])));
  const int sum = x + rule.add - rule.subtract;
  return static_cast<uint8_t>(sum < 0 ? 0 : (sum > 255 ? 255 : sum));
}

// One thread, kWidth neighbouring cells of a row. kWidth divides the length of a row, or is one.
template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads) add_shift(const ColorShift<T> p) {
  const int64_t index = thread_index();
  const int64_t row = divide(index, p.packs);
  if (row >= p.layout.rows) return;
  const int64_t within = (index - row * p.packs) * kWidth;
  const int64_t at = row * p.layout.length + within;
  const int64_t cycle = p.layout.cycle;
  const int64_t shifts = (row - divide(row, p.shift_rows) * p.shift_rows) * cycle;
  int64_t channel = cycle == 1 ? 0 : within - divide(within, cycle) * cycle;
  Pack<T, kWidth> cells = load<T, kWidth>(p.input + at);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) {
    cells.cells[i] = shifted(cells.cells[i], p, shifts + channel);
    if (++channel == cycle) channel = 0;
  }
  store(p.output + at, cells);
}

// --------------------------------------------------------------------------- sums over pixels

constexpr int64_t kSumPixels = 16 * 1024;  // of a block

template <typename T>
struct ColorSums {
  const T* input;
  int64_t C, pixels;
  int64_t image_stride, channel_stride, pixel_stride;  // in elements
  int64_t rows, chunks;                                // images * C; blocks for one of them
  double* parts;                                       // (rows, chunks)
};

// One block, one chunk of the pixels of one channel of one image.
template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads) sum_pixels(const ColorSums<T> p) {
  const int64_t row = blockIdx.x / p.chunks, chunk = blockIdx.x % p.chunks;
  const T* const x = p.input + row / p.C * p.image_stride + row % p.C * p.channel_stride;
  const int64_t begin = chunk * kSumPixels;
  const int64_t end = begin + kSumPixels < p.pixels ? begin + kSumPixels : p.pixels;
  double sum = 0;
  for (int64_t i = begin + threadIdx.x * kWidth; i < end; i += kThreads * kWidth) {
    const Pack<T, kWidth> cells = load<T, kWidth>(x + i * p.pixel_stride);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) sum += static_cast<double>(cells.cells[j]);
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) p.parts[blockIdx.x] = sum;
}

template <typename Result>
__global__ void __launch_bounds__(kThreads)
    join_sums(const double* parts, int64_t rows, int64_t chunks, Result* result) {
  const int64_t row = thread_index();
  if (row >= rows) return;
  double sum = 0;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) sum += parts[row * chunks + chunk];
  result[row] = static_cast<Result>(sum);
}

}  // namespace cnn_ext::cuda
