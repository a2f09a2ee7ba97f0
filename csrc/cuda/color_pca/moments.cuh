// Sums over pixels of colours and of their products, from which a covariance is made. Bytes are
// summed exactly. Of floats every block centres its pixels on their own mean before it multiplies
// them, so that nothing is lost to cancellation, and blocks are joined in their order by the update
// of Chan, Golub and LeVeque (1983).
#pragma once

#include "../../cpu/color_pca/geometry.h"
#include "../launch.cuh"

namespace cnn_ext::cuda {

constexpr int64_t kMomentPixels = 4096;  // of a block: what it reads again comes from the cache

// One block, one chunk of the pixels of one image; what it finds, as cpu::ColorMoments has it.
template <typename T, typename Sum>
__global__ void __launch_bounds__(kThreads) color_moments(const cpu::ColorMoments<T, Sum> p) {
  constexpr bool kCentred = !std::is_integral_v<T>;
  const int64_t image = blockIdx.x / p.chunks, chunk = blockIdx.x % p.chunks;
  const int64_t begin = chunk * p.chunk;
  const int64_t end = begin + p.chunk < p.pixels ? begin + p.chunk : p.pixels;
  const T* const x = p.input + image * p.image_stride;
  Sum* const means = p.found + static_cast<int64_t>(blockIdx.x) * (p.C + p.C * p.C);
  Sum* const products = means + p.C;
  const auto cell = [&](int64_t channel, int64_t pixel) {
    return static_cast<Sum>(x[channel * p.channel_stride + pixel * p.pixel_stride]);
  };
  for (int64_t a = 0; a < p.C; ++a) {
    Sum sum = 0;
    for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) sum += cell(a, i);
    sum = block_sum(sum);
    if (threadIdx.x == 0) means[a] = kCentred ? sum / static_cast<Sum>(end - begin) : sum;
  }
  __syncthreads();
  for (int64_t a = 0; a < p.C; ++a) {
    for (int64_t b = 0; b <= a; ++b) {
      const Sum mean_a = kCentred ? means[a] : 0, mean_b = kCentred ? means[b] : 0;
      Sum sum = 0;
      for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) {
        sum += (cell(a, i) - mean_a) * (cell(b, i) - mean_b);
      }
      sum = block_sum(sum);
      if (threadIdx.x == 0) products[a * p.C + b] = products[b * p.C + a] = sum;
    }
  }
}

// One thread, one pair of channels: (C,) means and (C, C) products from those of every task.
__global__ inline void __launch_bounds__(kThreads)
    join_moments(const double* found, int64_t tasks, int64_t C, int64_t pixels, int64_t chunk,
                 double* mean, double* products) {
  const int64_t index = thread_index();
  if (index >= C * C) return;
  const int64_t a = index / C, b = index % C;
  double mean_a = 0, mean_b = 0, product = 0, before = 0;
  int64_t start = 0;
  for (int64_t task = 0; task < tasks; ++task) {
    const double* const from = found + task * (C + C * C);
    const double count = static_cast<double>(chunk < pixels - start ? chunk : pixels - start);
    const double weight = count / (before + count);
    product += from[C + index] + before * weight * ((from[a] - mean_a) * (from[b] - mean_b));
    mean_a += weight * (from[a] - mean_a);
    mean_b += weight * (from[b] - mean_b);
    before += count;
    start = start + chunk < pixels ? start + chunk : 0;
  }
  products[index] = product;
  if (a == b) mean[a] = mean_a;
}

}  // namespace cnn_ext::cuda
