// The weight gradient of direct convolution: every filter's row of gradients times the band at
// every offset, cell by cell, in vectors of partial sums. Included by isa/ (see vec.h).
#pragma once

#include "band.h"

// Where the rows of a tile's gradients and cells lie.
struct BandRows {
  int64_t rows, length, pitch;            // cells of a row, and from row to row of the band
  int64_t gradient_filter, gradient_row;  // strides; rows are zero beyond `length`
};

// sums[filter][entry] += the products of filters' gradients and entries' cells. Row by row, and the
// last vector of each masked: a cell beyond is none of the filter's, and may be NaN.
template <typename T, int Filters>
void gradient_tile(const BandRows& at, const T* gradients, const T* band, const int32_t* offsets,
                   T* sums, int64_t sums_row) {
  using V = Vec<T>;
  constexpr int kLanes = V::kLanes, kEntries = kBandGradientEntries;
  V sum[Filters][kEntries];
#pragma GCC unroll 8
  for (int i = 0; i < Filters; ++i) {
#pragma GCC unroll 8
    for (int e = 0; e < kEntries; ++e) sum[i][e] = V::zero();
  }
  const int64_t whole = at.length / kLanes * kLanes;
  const auto mask = V::Mask::range(0, at.length - whole);
  for (int64_t row = 0; row < at.rows; ++row) {
    const T* from[kEntries];
#pragma GCC unroll 8
    for (int e = 0; e < kEntries; ++e) from[e] = band + offsets[e] + row * at.pitch;
    const T* gradient = gradients + row * at.gradient_row;
    for (int64_t j = 0; j < at.length; j += kLanes) {
      V cells[kEntries];
#pragma GCC unroll 8
      for (int e = 0; e < kEntries; ++e) {
        cells[e] = j < whole ? V::load(from[e] + j) : V::load(from[e] + j, mask);
      }
#pragma GCC unroll 8
      for (int i = 0; i < Filters; ++i) {
        const V g = V::load(gradient + i * at.gradient_filter + j);
#pragma GCC unroll 8
        for (int e = 0; e < kEntries; ++e) sum[i][e] = sum[i][e].fused_add(g, cells[e]);
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < Filters; ++i) {
#pragma GCC unroll 8
    for (int e = 0; e < kEntries; ++e) {
      T* to = sums + i * sums_row + e * kLanes;
      sum[i][e].lanes += V::load(to).lanes;
      sum[i][e].store(to);
    }
  }
}

template <typename T>
void gradient_tile(int64_t count, const BandRows& at, const T* gradients, const T* band,
                   const int32_t* offsets, T* sums, int64_t sums_row) {
  using Function = void (*)(const BandRows&, const T*, const T*, const int32_t*, T*, int64_t);
#if CNN_EXT_VECTOR_REGISTERS == 32
  static constexpr Function kByCount[] = {gradient_tile<T, 1>, gradient_tile<T, 2>,
                                          gradient_tile<T, 3>, gradient_tile<T, 4>,
                                          gradient_tile<T, 5>, gradient_tile<T, 6>};
#else
  static constexpr Function kByCount[] = {gradient_tile<T, 1>, gradient_tile<T, 2>,
                                          gradient_tile<T, 3>, gradient_tile<T, 4>};
#endif
  kByCount[count - 1](at, gradients, band, offsets, sums, sums_row);
}

template <typename T>
BandGradient plan_band_gradient(const Convolution& shape) {
  constexpr int64_t kLanes = Vec<T>::kLanes, kCols = Tile<T>::kCols;
  BandGradient cut{};
  Band& band = cut.band;
  band = plan_rows<T>(shape, kBandCells, kBandSteps, kGradientBandBytes, kLanes);
  if (!band.along_filters) {
    band = plan_rows<T>(shape, kGradientCells, kBandSteps, kGradientBandBytes, kLanes);
    band.along_filters = false;
  }
  band.panel = kCols;
  band.panels = divide_up(shape.K, kCols);
  const int64_t width = band.along_filters ? band.panels * kCols : shape.K * kLanes;
  int64_t channels = kAccumulators / (shape.taps() * width);
  if (channels > band.channels) channels = band.channels;
  if (channels < 1) channels = 1;
  cut.chunks = divide_up(shape.C, channels);
  cut.splits = parts_of_sum(shape, shape.G * cut.chunks, kBandPartPixels);
  const int64_t bands = shape.N * shape.out[0] * band.row_blocks;
  if (cut.splits > bands) cut.splits = power_of_two_below(bands);
  return cut;
}

// Gives each thread as many tasks, by cutting the channels into more chunks, and lays out what a
// task holds.
template <typename T>
void schedule_band_gradient(const Convolution& shape, BandGradient& cut, int64_t threads) {
  constexpr int64_t kLanes = Vec<T>::kLanes, kCols = Tile<T>::kCols;
  Band& band = cut.band;
  const int64_t tasks = cut.tasks(shape.G);
  cut.chunks = divide_up(cut.chunks * round_up(tasks, threads), tasks);
  if (cut.chunks > shape.C) cut.chunks = shape.C;
  band.channels = divide_up(shape.C, cut.chunks);
  band.blocks = cut.chunks = divide_up(shape.C, band.channels);
  lay_band(shape, band);
  const int64_t side = band.along_filters ? Tile<T>::kRows : kBandGradientEntries;
  cut.entries = round_up(band.channels * shape.taps(), side);
  cut.gradient_row = band.along_filters ? kCols : round_up(shape.out[2], kLanes);
  cut.gradient_panel = band.rows * (band.along_filters ? shape.out[2] * kCols : cut.gradient_row);
  cut.sums = cut.entries * (band.along_filters ? band.panels * kCols : shape.K * kLanes);
}

template <typename T>
int64_t band_gradient_workspace(const Convolution& shape, const BandGradient& cut) {
  const int64_t panels = cut.band.along_filters ? cut.band.panels : shape.K;
  return round_up(cut.band.size + Vec<T>::kLanes, 16) + round_up(panels * cut.gradient_panel, 16) +
         cut.sums;
}

// Adds the products of a band along the cells: sums[filter][entry][lane].
template <typename T>
void add_along_cells(const Convolution& shape, const BandGradient& cut, const T* grad_output,
                     int64_t rows, const T* cells, const int32_t* offsets, int64_t entries,
                     T* gradients, T* sums) {
  constexpr int64_t kFilters = kBandGradientFilters;
  constexpr int64_t kEntries = kBandGradientEntries;
  const FeatureMapStrides& s = shape.output;
  const int64_t sums_row = cut.entries * Vec<T>::kLanes;
  for (int64_t row = 0; row < rows; ++row) {
    copy_planar(grad_output + row * s.spatial[1], s.c, s.spatial[2], int64_t{0}, shape.out[2],
                cut.gradient_row, shape.K, gradients + row * cut.gradient_row, cut.gradient_panel);
  }
  const BandRows at{rows, shape.out[2], cut.band.pitch, cut.gradient_panel, cut.gradient_row};
  for (int64_t e = 0; e < entries; e += kEntries) {
    for (int64_t k = 0; k < shape.K; k += kFilters) {
      gradient_tile<T>(shape.K - k < kFilters ? shape.K - k : kFilters, at,
                       gradients + k * cut.gradient_panel, cells, offsets + e,
                       sums + k * sums_row + e * Vec<T>::kLanes, sums_row);
    }
  }
}

// Adds the products of a band along the filters: sums[panel][entry][filter].
template <typename T>
void add_along_filters(const Convolution& shape, const BandGradient& cut, const T* grad_output,
                       int64_t rows, const T* cells, const int32_t* offsets, int64_t entries,
                       T* gradients, T* sums) {
  constexpr int64_t kRows = Tile<T>::kRows, kCols = Tile<T>::kCols, kLanes = Vec<T>::kLanes;
  const FeatureMapStrides& s = shape.output;
  const int64_t Q = shape.out[2];
  int32_t pixels[kPanelSteps];
  Finish<T> finish;
  finish.accumulate = true;
  for (int64_t panel = 0; panel < cut.band.panels; ++panel) {
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t half = 0; half < kCols; half += kLanes) {
        const int64_t k = panel * kCols + half;
        int64_t lanes = shape.K - k < kLanes ? shape.K - k : kLanes;
        if (lanes < 0) lanes = 0;
        gather_lanes(grad_output + row * s.spatial[1] + k * s.c, s.c, lanes, s.spatial[2], Q,
                     gradients + panel * cut.gradient_panel + row * Q * kCols + half, kCols);
      }
    }
  }
  for (int64_t first = 0; first < rows * Q; first += kPanelSteps) {
    const int64_t count = rows * Q - first < kPanelSteps ? rows * Q - first : kPanelSteps;
    int64_t row = first / Q, q = first % Q;
    for (int64_t i = 0; i < count; ++i) {
      pixels[i] = static_cast<int32_t>(row * cut.band.pitch * cut.band.cell + q * cut.band.step);
      if (++q == Q) {
        q = 0;
        ++row;
      }
    }
    for (int64_t panel = 0; panel < cut.band.panels; ++panel) {
      const T* from = gradients + panel * cut.gradient_panel + first * kCols;
      const bool narrow = shape.K - panel * kCols <= kLanes;
      const int64_t tiles = divide_up(entries, narrow ? 2 * kRows : kRows);
      const auto product = narrow ? multiply_gathered<T, 1> : multiply_gathered<T, 2>;
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const int64_t e = tile * entries / tiles, here = (tile + 1) * entries / tiles - e;
        const T* entry[2 * kRows];
        for (int64_t i = 0; i < here; ++i) entry[i] = cells + offsets[e + i];
        product(here, count, entry, pixels, from, sums + (panel * cut.entries + e) * kCols, finish);
      }
    }
  }
}

// Tasks first <= i < last. workspace: band_gradient_workspace elements, 64-byte aligned.
template <typename T>
void band_weight_gradient(const ConvolutionWeightGradient<T>& p, const BandGradient& cut,
                          int64_t first, int64_t last, T* workspace) {
  CNN_EXT_CHECK_TASKS(first, last, cut.tasks(p.shape.G));
  CNN_EXT_CHECK_ALIGNED(workspace);
  constexpr int64_t kLanes = Vec<T>::kLanes, kCols = Tile<T>::kCols;
  const Convolution& shape = p.shape;
  const Band& band = cut.band;
  const int64_t size = round_up(band.size + kLanes, 16);
  const int64_t panels = band.along_filters ? band.panels : shape.K;
  T* const cells = workspace;
  T* const gradients = cells + size;
  T* const sums = gradients + round_up(panels * cut.gradient_panel, 16);
  int32_t offsets[kBandSteps + kBandGradientEntries];
  const int64_t bands = shape.N * shape.out[0] * band.row_blocks;

  for (int64_t task = first; task < last; ++task) {
    const int64_t chunk = task % cut.chunks;
    const int64_t split = task / cut.chunks % cut.splits;
    const int64_t g = task / cut.chunks / cut.splits;
    const int64_t c0 = chunk * band.channels;
    const int64_t c1 = c0 + band.channels < shape.C ? c0 + band.channels : shape.C;
    const int64_t entries = (c1 - c0) * shape.taps();
    band_offsets(shape, band, c1 - c0, offsets);
    for (int64_t i = 0; i < kBandGradientEntries; ++i) {
      offsets[entries + i] = offsets[0];  // fills the last tile, to be forgotten
    }
    for (int64_t i = 0; i < cut.sums; ++i) sums[i] = T(0);

    for (int64_t b = split * bands / cut.splits; b < (split + 1) * bands / cut.splits; ++b) {
      const int64_t row_block = b % band.row_blocks, depth = b / band.row_blocks % shape.out[0];
      const int64_t n = b / band.row_blocks / shape.out[0];
      const int64_t p0 = row_block * band.rows;
      const int64_t rows = p0 + band.rows < shape.out[1] ? band.rows : shape.out[1] - p0;
      const FeatureMapStrides& s = shape.output;
      const T* from = p.grad_output + n * s.n + g * s.g + depth * s.spatial[0] + p0 * s.spatial[1];
      fill_band(shape, band, p.input + n * shape.input.n + g * shape.input.g, depth, row_block, c0,
                c1, cells);
      const auto add = band.along_filters ? add_along_filters<T> : add_along_cells<T>;
      add(shape, cut, from, rows, cells, offsets, entries, gradients, sums);
    }

    T* const result = p.grad_weight + split * p.split_stride + g * shape.weight.g;
    for (int64_t k = 0; k < shape.K; ++k) {
      Tap tap(shape, 0);
      int64_t c = c0;
      for (int64_t e = 0; e < entries; ++e) {
        T* to = result + k * shape.weight.k + c * shape.weight.c;
        for (int axis = 0; axis < kSpatial; ++axis) to += tap.at[axis] * shape.weight.spatial[axis];
        if (band.along_filters) {
          *to = sums[(k / kCols * cut.entries + e) * kCols + k % kCols];
        } else {
          const T* lanes = sums + (k * cut.entries + e) * kLanes;
          *to = T(0);
          for (int64_t i = 0; i < kLanes; ++i) *to += lanes[i];
        }
        tap.next(shape);
        if ((e + 1) % shape.taps() == 0) ++c;
      }
    }
  }
}
