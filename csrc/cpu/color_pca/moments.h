// Sums over pixels of colours and of their products, from which a covariance is made. Included by
// isa/.
//
// A block of pixels is laid out channel after channel in L1; from there every pair of channels is
// multiplied and summed. Bytes are summed exactly. Of floats, every block is centred on its own
// mean before it is multiplied, so that nothing is lost to cancellation, and blocks are joined by
// the update of Chan, Golub and LeVeque (1983).
#pragma once

#include "../vec.h"

// Pixels start <= i < start + count, channel after channel, each in kMomentPixels cells.
template <typename To, typename From>
inline void lay_channels(const From* __restrict x, int64_t C, int64_t channel_stride,
                         int64_t pixel_stride, int64_t count, To* __restrict cells) {
  for (int64_t c = 0; c < C; ++c) {
    const From* __restrict from = x + c * channel_stride;
    To* __restrict to = cells + c * kMomentPixels;
    if (pixel_stride == 1) {
      for (int64_t i = 0; i < count; ++i) to[i] = static_cast<To>(from[i]);
    } else if (pixel_stride == 3) {  // a stride known to the compiler becomes shuffles
      for (int64_t i = 0; i < count; ++i) to[i] = static_cast<To>(from[3 * i]);
    } else {
      for (int64_t i = 0; i < count; ++i) to[i] = static_cast<To>(from[pixel_stride * i]);
    }
  }
}

// At most 1024 products of bytes: below 2^27.
inline int32_t byte_product(int64_t count, const int16_t* __restrict a,
                            const int16_t* __restrict b) {
  int32_t sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += static_cast<int32_t>(a[i]) * b[i];
  return sum;
}
inline int32_t byte_sum(int64_t count, const int16_t* __restrict a) {
  int32_t sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += a[i];
  return sum;
}

// The pixels of a task.
template <typename From, typename Sum>
struct MomentChunk {
  const From* input;
  Sum* found;
  int64_t pixels;

  MomentChunk(const ColorMoments<From, Sum>& p, int64_t task) {
    const int64_t start = task % p.chunks * p.chunk;
    input = p.input + task / p.chunks * p.image_stride + start * p.pixel_stride;
    found = p.found + task * (p.C + p.C * p.C);
    pixels = p.pixels - start < p.chunk ? p.pixels - start : p.chunk;
    for (int64_t i = 0; i < p.C + p.C * p.C; ++i) found[i] = 0;
  }
};

inline int64_t moment_count(int64_t left) { return left < kMomentPixels ? left : kMomentPixels; }

// Tasks first <= i < last; the same in every table (T is not used). workspace: C kMomentPixels
// elements.
template <typename T>
void byte_moments(const ColorMoments<uint8_t, int64_t>& p, int64_t first, int64_t last,
                  int16_t* workspace) {
  const int64_t C = p.C;
  for (int64_t task = first; task < last; ++task) {
    const MomentChunk<uint8_t, int64_t> chunk(p, task);
    int64_t* const products = chunk.found + C;
    for (int64_t start = 0; start < chunk.pixels; start += kMomentPixels) {
      const int64_t count = moment_count(chunk.pixels - start);
      lay_channels(chunk.input + start * p.pixel_stride, C, p.channel_stride, p.pixel_stride, count,
                   workspace);
      for (int64_t a = 0; a < C; ++a) {
        const int16_t* const cells = workspace + a * kMomentPixels;
        chunk.found[a] += byte_sum(count, cells);
        for (int64_t b = 0; b <= a; ++b) {
          products[a * C + b] += byte_product(count, cells, workspace + b * kMomentPixels);
        }
      }
    }
    for (int64_t a = 0; a < C; ++a) {
      for (int64_t b = 0; b < a; ++b) products[b * C + a] = products[a * C + b];
    }
  }
}

// The sum of all lanes of four vectors.
inline double lane_sum(const Vec<double> (&sums)[4]) {
  const Vec<double> total = {(sums[0].lanes + sums[1].lanes) + (sums[2].lanes + sums[3].lanes)};
  double sum = 0;
  for (int i = 0; i < Vec<double>::kLanes; ++i) sum += total.lanes[i];
  return sum;
}

// The sum of a[i]. count, here and below: a multiple of 4 vectors.
inline double channel_sum(int64_t count, const double* a) {
  using V = Vec<double>;
  V sums[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
  for (int64_t i = 0; i < count; i += 4 * V::kLanes) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) sums[v].lanes += V::load(a + i + v * V::kLanes).lanes;
  }
  return lane_sum(sums);
}

// The sum of a[i] * b[i].
inline double channel_product(int64_t count, const double* a, const double* b) {
  using V = Vec<double>;
  V sums[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
  for (int64_t i = 0; i < count; i += 4 * V::kLanes) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      const int64_t at = i + v * V::kLanes;
      sums[v] = sums[v].fused_add(V::load(a + at), V::load(b + at));
    }
  }
  return lane_sum(sums);
}

// Takes the mean from the cells, and returns it.
inline double centre(int64_t count, int64_t padded, double* cells) {
  for (int64_t i = count; i < padded; ++i) cells[i] = 0;
  const double mean = channel_sum(padded, cells) / static_cast<double>(count);
  for (int64_t i = 0; i < count; ++i) cells[i] -= mean;
  return mean;
}

// Tasks first <= i < last. workspace: C kMomentPixels + C + C C elements.
template <typename T>
void color_moments(const ColorMoments<T, double>& p, int64_t first, int64_t last,
                   double* workspace) {
  const int64_t C = p.C;
  constexpr int64_t kStep = 4 * Vec<double>::kLanes;
  double* const mean = workspace + C * kMomentPixels;
  double* const products = mean + C;
  for (int64_t task = first; task < last; ++task) {
    const MomentChunk<T, double> chunk(p, task);
    for (int64_t start = 0; start < chunk.pixels; start += kMomentPixels) {
      const int64_t count = moment_count(chunk.pixels - start);
      const int64_t padded = (count + kStep - 1) / kStep * kStep;
      lay_channels(chunk.input + start * p.pixel_stride, C, p.channel_stride, p.pixel_stride, count,
                   workspace);
      for (int64_t a = 0; a < C; ++a) {
        double* const cells = workspace + a * kMomentPixels;
        mean[a] = centre(count, padded, cells);
        for (int64_t b = 0; b <= a; ++b) {
          products[a * C + b] = products[b * C + a] =
              channel_product(padded, cells, workspace + b * kMomentPixels);
        }
      }
      join_moments(C, static_cast<double>(start), static_cast<double>(count), mean, products,
                   chunk.found);
    }
  }
}
