// Convolution of few pixels with many filters, such as a dense layer's: the filters are the larger
// factor, so that they are read once, where they lie, and neither factor is packed. Included by
// isa/ (see vec.h).
#pragma once

#include "../../gemm.h"
#include "../pack.h"

// sums[q * kDenseFilters + i] = the inner product of pixel q and filter i.
template <typename T, int Pixels>
void inner_products(int64_t channels, const T* const* filters, const T* x, int64_t pixel_step,
                    Sum<T>* sums) {
  using V = Vec<T>;
  using S = Vec<Sum<T>>;
  constexpr int kSums = static_cast<int>(round_up(Pixels * kDenseFilters, S::kLanes));
  S sum[kSums];
#pragma GCC unroll 32
  for (int i = 0; i < kSums; ++i) sum[i] = S::zero();
  int64_t c = 0;
  for (; c + V::kLanes <= channels; c += V::kLanes) {
    V pixels[Pixels];
#pragma GCC unroll 4
    for (int q = 0; q < Pixels; ++q) pixels[q] = V::load(x + q * pixel_step + c);
#pragma GCC unroll 6
    for (int i = 0; i < kDenseFilters; ++i) {
      const V filter = V::load(filters[i] + c);
#pragma GCC unroll 4
      for (int q = 0; q < Pixels; ++q) {
        S& to = sum[q * kDenseFilters + i];
        to = add_product(to, filter, pixels[q]);
      }
    }
  }
  if (c < channels) {
    const auto mask = V::Mask::range(0, channels - c);
#pragma GCC unroll 6
    for (int i = 0; i < kDenseFilters; ++i) {
      const V filter = V::load(filters[i] + c, mask);
#pragma GCC unroll 4
      for (int q = 0; q < Pixels; ++q) {
        S& to = sum[q * kDenseFilters + i];
        to = add_product(to, filter, V::load(x + q * pixel_step + c, mask));
      }
    }
  }
  // Turned, a square of sums is a vector of them.
  for (int i = 0; i < kSums; i += S::kLanes) {
    transpose_square(sum + i);
    S total = sum[i];
#pragma GCC unroll 32
    for (int lane = 1; lane < S::kLanes; ++lane) total.lanes += sum[i + lane].lanes;
    total.store(sums + i);
  }
}

template <typename T, typename Less>
struct InnerProducts;
template <typename T, int... Less>
struct InnerProducts<T, std::integer_sequence<int, Less...>> {
  using Function = void (*)(int64_t, const T* const*, const T*, int64_t, Sum<T>*);
  static constexpr Function kByPixels[] = {inner_products<T, Less + 1>...};
};

// Filters first <= k < last of a convolution whose pixels and filters have their channels together.
template <typename T>
void dense(const ConvolutionForward<T>& p, int64_t first, int64_t last) {
  CNN_EXT_CHECK_TASKS(first, last, p.shape.K);
  using Pixels = std::make_integer_sequence<int, kDensePixels>;
  const Convolution& c = p.shape;
  const int64_t pixels = c.pixels(), from_step = c.input.spatial[2];
  const int64_t block = kPairs<T> ? c.C : kDenseChannels;  // of the pairs' sum, rounded once
  Sum<T> sums[kDenseFilters * kDensePixels + Vec<Sum<T>>::kLanes];
  for (int64_t c0 = 0; c0 < c.C; c0 += block) {
    const int64_t channels = c.C - c0 < block ? c.C - c0 : block;
    const bool done = c0 + channels == c.C;
    for (int64_t k0 = first; k0 < last; k0 += kDenseFilters) {
      const T* filters[kDenseFilters];
      const int64_t here = last - k0 < kDenseFilters ? last - k0 : kDenseFilters;
      for (int64_t i = 0; i < kDenseFilters; ++i) {
        filters[i] = p.weight + (k0 + (i < here ? i : 0)) * c.weight.k + c0;
      }
      for (int64_t q0 = 0; q0 < pixels; q0 += kDensePixels) {
        const int64_t side = pixels - q0 < kDensePixels ? pixels - q0 : kDensePixels;
        InnerProducts<T, Pixels>::kByPixels[side - 1](
            channels, filters, p.input + q0 * from_step + c0, from_step, sums);
        for (int64_t q = 0; q < side; ++q) {
          Result<T>* to = p.output + (q0 + q) * c.output.spatial[2] + k0 * c.output.c;
          for (int64_t i = 0; i < here; ++i, to += c.output.c) {
            Sum<T> sum = sums[q * kDenseFilters + i];
            if constexpr (std::is_same_v<Sum<T>, Result<T>>) sum += c0 > 0 ? *to : 0;
            if (done && p.bias != nullptr) sum += p.bias[k0 + i];
            if (done && c.relu && sum < 0) sum = 0;
            put(sum, to);
          }
        }
      }
    }
  }
}

// to[q][k] (+)= the sum of x[q][c] * filters[c][k] over so many channels c, for Pixels pixels q.
template <typename T, int Pixels, int Channels>
void add_channels(int64_t columns, const T* filters, int64_t channel_step, const T* x,
                  int64_t pixel_step, T* to, int64_t to_step, bool accumulate) {
  using V = Vec<T>;
  for (int64_t k = 0; k < columns; k += V::kLanes) {
    const bool whole = columns - k >= V::kLanes;
    V sum[Pixels];
#pragma GCC unroll 4
    for (int q = 0; q < Pixels; ++q) {
      sum[q] = accumulate ? V::load(to + q * to_step + k) : V::zero();
    }
    const T* row = filters + k;
#pragma GCC unroll 8
    for (int i = 0; i < Channels; ++i, row += channel_step) {
      const V cells = whole ? V::load(row) : V::load(row, V::Mask::range(0, columns - k));
#pragma GCC unroll 4
      for (int q = 0; q < Pixels; ++q) {
        sum[q] = sum[q].fused_add(V::broadcast(x[q * pixel_step + i]), cells);
      }
    }
#pragma GCC unroll 4
    for (int q = 0; q < Pixels; ++q) sum[q].store(to + q * to_step + k);
  }
}

template <typename T, int Channels, typename Less>
struct AddChannels;
template <typename T, int Channels, int... Less>
struct AddChannels<T, Channels, std::integer_sequence<int, Less...>> {
  using Function = void (*)(int64_t, const T*, int64_t, const T*, int64_t, T*, int64_t, bool);
  static constexpr Function kByPixels[] = {add_channels<T, Less + 1, Channels>...};
};

// Columns of the sums that a block holds.
template <typename T>
int64_t dense_columns(const Convolution& c) {
  const int64_t columns = round_up(kDenseSums / c.pixels(), 64);
  return columns < kDenseColumns ? columns : kDenseColumns;
}

// Filters first <= k < last of a convolution whose filters lie side by side, channel by channel.
// workspace: pixels() * dense_columns() elements.
template <typename T>
void dense_by_channels(const ConvolutionForward<T>& p, int64_t first, int64_t last, T* workspace) {
  CNN_EXT_CHECK_TASKS(first, last, p.shape.K);
  CNN_EXT_CHECK_ALIGNED(workspace);
  using Pixels = std::make_integer_sequence<int, kDensePixels>;
  using V = Vec<T>;
  const Convolution& c = p.shape;
  const int64_t pixels = c.pixels(), pixel_step = c.input.spatial[2];
  const int64_t most = dense_columns<T>(c);
  for (int64_t k0 = first; k0 < last; k0 += most) {
    const int64_t columns = last - k0 < most ? last - k0 : most;
    for (int64_t c0 = 0; c0 < c.C; c0 += kDenseBlock) {
      const int64_t c1 = c0 + kDenseBlock < c.C ? c0 + kDenseBlock : c.C;
      const bool done = c1 == c.C;
      for (int64_t i = c0, here; i < c1; i += here) {
        here = c1 - i < kDenseSteps ? 1 : kDenseSteps;
        for (int64_t q0 = 0; q0 < pixels; q0 += kDensePixels) {
          const int64_t side = pixels - q0 < kDensePixels ? pixels - q0 : kDensePixels;
          const auto add = here == 1 ? AddChannels<T, 1, Pixels>::kByPixels[side - 1]
                                     : AddChannels<T, kDenseSteps, Pixels>::kByPixels[side - 1];
          add(columns, p.weight + i * c.weight.c + k0, c.weight.c, p.input + q0 * pixel_step + i,
              pixel_step, workspace + q0 * most, most, i > c0);
        }
      }
      for (int64_t q = 0; q < pixels; ++q) {
        T* const to = p.output + q * c.output.spatial[2] + k0;
        for (int64_t k = 0; k < columns; k += V::kLanes) {
          const int64_t lanes = columns - k < V::kLanes ? columns - k : V::kLanes;
          const auto mask = V::Mask::range(0, lanes);
          V sum = V::load(workspace + q * most + k);
          if (c0 > 0) sum.lanes += V::load(to + k, mask).lanes;
          if (done && p.bias != nullptr) sum.lanes += V::load(p.bias + k0 + k, mask).lanes;
          if (done && c.relu) sum = sum.rectified();
          sum.store(to + k, mask);
        }
      }
    }
  }
}

// Rows first <= k < last of the weight gradient of few pixels: a product with few steps, whose
// result is written once, tile by tile.
template <typename T>
void dense_weight_gradient(const ConvolutionWeightGradient<T>& p, int64_t first, int64_t last) {
  CNN_EXT_CHECK_TASKS(first, last, p.shape.K);
  CNN_EXT_CHECK(p.shape.pixels() <= kManyInputs);
  constexpr int64_t kRows = Tile<T>::kRows, kCols = Tile<T>::kCols;
  const Convolution& c = p.shape;
  const int64_t pixels = c.pixels(), step = c.input.spatial[2];
  const int64_t block = round_up(kDenseCells / pixels, kCols);
  T gradients[kManyInputs * kRows], last_cells[kManyInputs * kCols], tile[kRows * kCols];
  for (int64_t c0 = 0; c0 < c.C; c0 += block) {
    const int64_t c1 = c0 + block < c.C ? c0 + block : c.C;
    const int64_t rest = c1 % kCols;  // of the last block, beside whole tiles
    if (rest != 0) {
      copy_rows(p.input + c1 - rest, step, 1, 0, rest, kCols, pixels, last_cells, kCols);
    }
    for (int64_t k = first; k < last; k += kRows) {
      const int64_t rows = last - k < kRows ? last - k : kRows;
      copy_rows(p.grad_output + k, c.output.spatial[2], 1, 0, rows, rows, pixels, gradients, kRows);
      T* const to = p.grad_weight + k * c.weight.k;
      Finish<T> finish;
      finish.row = c.weight.k;
      for (int64_t i = c0; i + kCols <= c1; i += kCols) {
        multiply<T, true>(rows, pixels, gradients, kRows, p.input + i, step, to + i, finish);
      }
      if (rest != 0) {
        multiply<T, true>(rows, pixels, gradients, kRows, last_cells, kCols, tile, Finish<T>{});
        put_rows<T>(tile, rows, rest, to + c1 - rest, c.weight.k);
      }
    }
  }
}
