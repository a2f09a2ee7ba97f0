// Direct convolution: some rows of the input at a time are copied, zero-padded and sorted by the
// phases of the stride, to a band in the cache, and every tap of every filter reads the band at an
// offset of its own. No patch is ever packed: that is what few channels, few filters and strides
// need. Vectors run along the pixels of the band. Included by isa/ (see vec.h).
//
// In a band, output cell (p, q) of a row block is cell j = p * pitch + q, and tap (c, t, r, s) of
// it is band[offset(c, t, r, s) + j], whatever stride and dilation are. Where vectors run along the
// filters and channels are innermost in memory, rows whose every column is seen are copied as they
// are, not sorted, and pixels are a stride apart. There are two kernels:
//
// - along the cells, for few filters: all rows of a block are one long row; its cells q >= Q, pitch
//   - Q of each row, are computed and forgotten;
// - along the filters, whose panels are packed: a tile has the pixels, broadcast from the band, as
//   rows and filters as columns. The weight gradient has patch entries as rows and sums over
//   pixels.
#pragma once

#include "fill.h"

// offsets[(c, tap)] of the steps of a block of `channels`.
inline void band_offsets(const Convolution& shape, const Band& band, int64_t channels,
                         int32_t* offsets) {
  const PhasedAxis y(shape, 1), x(shape, 2, whole_rows(shape, band));
  for (int64_t c = 0; c < channels; ++c) {
    Tap tap(shape, 0);
    for (int64_t t = 0; t < shape.taps(); ++t, tap.next(shape)) {
      const int64_t plane = (tap.at[0] * y.slots + y.slot(tap.at[1])) * x.slots + x.slot(tap.at[2]);
      const int64_t cell = y.cell(tap.at[1]) * band.pitch + x.cell(tap.at[2]);
      *offsets++ = static_cast<int32_t>(c * band.channel + plane * band.plane + cell * band.cell);
    }
  }
}

// Filters x cells of a tile: to[filter][cell] = or += filters[step][filter] * band[offset + cell].
// Sums start from bias[filter], where there is one, or zero.
template <typename T, int Filters>
void band_tile(int64_t steps, const int32_t* offsets, const T* band, const T* filters,
               const T* bias, bool accumulate, T* to, int64_t to_row) {
  using V = Vec<T>;
  constexpr int kLanes = V::kLanes;
  constexpr int kVectors = BandTile<T>::vectors(Filters);
  V sum[Filters][kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < Filters; ++i) {
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) sum[i][v] = V::zero();
  }
  for (int64_t step = 0; step < steps; ++step) {
    const T* from = band + offsets[step];
    V cells[kVectors];
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) cells[v] = V::load(from + v * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < Filters; ++i) {
      const V weight = V::broadcast(filters[i]);
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) sum[i][v] = sum[i][v].fused_add(weight, cells[v]);
    }
    filters += Filters;
  }
#pragma GCC unroll 16
  for (int i = 0; i < Filters; ++i) {
    const V more = bias == nullptr ? V::zero() : V::broadcast(bias[i]);
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) {
      T* cell = to + i * to_row + v * kLanes;
      sum[i][v].lanes += accumulate ? V::load(cell).lanes : more.lanes;
      sum[i][v].store(cell);
    }
  }
}

// All cells of a band for one panel of filters, along the cells.
template <typename T, int Filters>
void panel_along_cells(const Band& band, int64_t steps, const int32_t* offsets, const T* cells,
                       const T* filters, const T* bias, bool accumulate, T* to) {
  constexpr int kVectors = BandTile<T>::vectors(Filters);
  for (int64_t j = 0; j < band.rows * band.pitch; j += kVectors * Vec<T>::kLanes) {
    band_tile<T, Filters>(steps, offsets, cells + j, filters, bias, accumulate, to + j,
                          band.sums_row);
  }
}

template <typename T>
void panel_along_cells(int64_t count, const Band& band, int64_t steps, const int32_t* offsets,
                       const T* cells, const T* filters, const T* bias, bool accumulate, T* to) {
  using Function =
      void (*)(const Band&, int64_t, const int32_t*, const T*, const T*, const T*, bool, T*);
#if CNN_EXT_VECTOR_REGISTERS == 32
  static constexpr Function kByCount[] = {panel_along_cells<T, 1>, panel_along_cells<T, 2>,
                                          panel_along_cells<T, 3>, panel_along_cells<T, 4>,
                                          panel_along_cells<T, 5>, panel_along_cells<T, 6>,
                                          panel_along_cells<T, 7>, panel_along_cells<T, 8>};
#else
  static constexpr Function kByCount[] = {panel_along_cells<T, 1>, panel_along_cells<T, 2>,
                                          panel_along_cells<T, 3>, panel_along_cells<T, 4>,
                                          panel_along_cells<T, 5>, panel_along_cells<T, 6>};
#endif
  kByCount[count - 1](band, steps, offsets, cells, filters, bias, accumulate, to);
}

// All pixels of a band for one panel of `count` filters, along the filters: to[pixel][filter],
// finish.row elements from pixel to pixel.
template <typename T>
void panel_along_filters(const Convolution& shape, const Band& band, int64_t rows, int64_t steps,
                         const int32_t* offsets, const T* cells, const T* filters, int64_t count,
                         T* to, const Finish<T>& finish) {
  // A panel that fills only one vector leaves registers for twice the pixels.
  const bool narrow = count <= Vec<T>::kLanes;
  const int64_t side = narrow ? 2 * Tile<T>::kRows : Tile<T>::kRows;
  const int64_t pixels = rows * shape.out[2], tiles = divide_up(pixels, side);
  const auto product = narrow ? multiply_gathered<T, 1> : multiply_gathered<T, 2>;
  const T* row[2 * Tile<T>::kRows];
  const T* start = cells;  // of the pixel's row
  int64_t q = 0;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t here = (tile + 1) * pixels / tiles - tile * pixels / tiles;
    for (int64_t i = 0; i < here; ++i) {
      row[i] = start + q * band.step;
      if (++q == shape.out[2]) {
        q = 0;
        start += band.pitch * band.cell;
      }
    }
    product(here, steps, row, offsets, filters, to, finish);
    to += here * finish.row;
  }
}

// Sums along the cells of filters `k`, from[filter][cell], to rows p0 <= p < p1 of the output.
template <typename T>
void store_cells(const Convolution& shape, const Band& band, const T* from, FilterRange k,
                 int64_t p0, int64_t p1, T* output) {
  constexpr int64_t kLanes = Vec<T>::kLanes;
  const FeatureMapStrides& s = shape.output;
  const int64_t Q = shape.out[2], step = s.spatial[2];
  for (int64_t p = p0; p < p1; ++p, from += band.pitch) {
    T* row = output + k.first * s.c + p * s.spatial[1];
    if (s.c == 1 && k.count() > 1) {
      for (int64_t i = 0; i < k.count(); i += kLanes) {
        const int64_t lanes = k.count() - i < kLanes ? k.count() - i : kLanes;
        gather_lanes<T, true>(from + i * band.sums_row, band.sums_row, lanes, 1, Q, row + i, step);
      }
      continue;
    }
    for (int64_t i = 0; i < k.count(); ++i) {
      const T* cells = from + i * band.sums_row;
      if (step == 1 || Q == 1) {
        copy_cells(cells, Q, row + i * s.c);
      } else {
        for (int64_t j = 0; j < Q; ++j) row[i * s.c + j * step] = cells[j];
      }
    }
  }
}

// Sums along the filters, from[pixel][filter], likewise.
template <typename T>
void store_pixels(const Convolution& shape, const T* from, FilterRange k, const T* bias, int64_t p0,
                  int64_t p1, T* output) {
  using V = Vec<T>;
  constexpr int64_t kLanes = V::kLanes, kCols = Tile<T>::kCols;
  const FeatureMapStrides& s = shape.output;
  // Rows that follow one another are one long row.
  const bool even = s.spatial[1] == shape.out[2] * s.spatial[2];
  const int64_t Q = even ? (p1 - p0) * shape.out[2] : shape.out[2];
  T cells[kBandCells * kLanes];
  for (int64_t half = 0; half < k.count(); half += kLanes) {
    const int64_t lanes = k.count() - half < kLanes ? k.count() - half : kLanes;
    V more = V::zero();
    if (bias != nullptr) more = V::load(bias + half, V::Mask::range(0, lanes));
    for (int64_t p = p0; p < (even ? p0 + 1 : p1); ++p) {
      for (int64_t q = 0; q < Q; q += kBandCells) {
        const int64_t count = Q - q < kBandCells ? Q - q : kBandCells;
        const T* sums = from + ((p - p0) * Q + q) * kCols + half;
        for (int64_t j = 0; j < count; ++j) {
          const V y{V::load(sums + j * kCols).lanes + more.lanes};
          (shape.relu ? y.rectified() : y).store(cells + j * kLanes);
        }
        scatter_lanes(cells, kLanes, count,
                      output + (k.first + half) * s.c + p * s.spatial[1] + q * s.spatial[2], s.c,
                      lanes, s.spatial[2]);
      }
    }
  }
}

// Tasks first <= i < last: a block of rows of one map of one group. workspace: band_workspace.
template <typename T>
void convolve_bands(const ConvolutionForward<T>& p, const Band& band, int64_t first, int64_t last,
                    T* workspace) {
  CNN_EXT_CHECK_TASKS(first, last, band.tasks(p.shape));
  CNN_EXT_CHECK_ALIGNED(workspace);
  const Convolution& shape = p.shape;
  T* const cells = workspace;
  const int64_t size = round_up(band.size, 16) + BandTile<T>::kWidest;
  T* const sums = workspace + size;
  for (int64_t i = band.size; i < size; ++i) cells[i] = T(0);
  int32_t offsets[kBandSteps];
  band_offsets(shape, band, band.channels, offsets);
  for (int64_t task = first; task < last; ++task) {
    const int64_t row_block = task % band.row_blocks;
    const int64_t depth = task / band.row_blocks % shape.out[0];
    const int64_t g = task / band.row_blocks / shape.out[0] % shape.G;
    const int64_t n = task / band.row_blocks / shape.out[0] / shape.G;
    const T* input = p.input + n * shape.input.n + g * shape.input.g;
    const T* bias = p.bias == nullptr ? nullptr : p.bias + g * shape.K;
    T* output =
        p.output + n * shape.output.n + g * shape.output.g + depth * shape.output.spatial[0];
    const int64_t p0 = row_block * band.rows;
    const int64_t p1 = p0 + band.rows < shape.out[1] ? p0 + band.rows : shape.out[1];
    for (int64_t block = 0; block < band.blocks; ++block) {
      const int64_t c0 = block * band.channels;
      const int64_t c1 = c0 + band.channels < shape.C ? c0 + band.channels : shape.C;
      const int64_t steps = (c1 - c0) * shape.taps();
      const bool done = block == band.blocks - 1;
      fill_band(shape, band, input, depth, row_block, c0, c1, cells);
      const T* filters = p.packed + g * band_filters<T>(shape, band) / shape.G;
      for (int64_t panel = 0; panel < band.panels; ++panel) {
        const FilterRange k = panel_filters(shape, band, panel);
        const int64_t width = panel_width(band, k);
        const T* from = filters + width * c0 * shape.taps();
        const T* here = bias == nullptr ? nullptr : bias + k.first;
        T* const to = sums + (!band.all_sums       ? 0
                              : band.along_filters ? panel * band.panel_sums
                                                   : k.first * band.sums_row);
        if (band.along_filters) {
          Finish<T> finish;
          finish.accumulate = block > 0;
          const FeatureMapStrides& s = shape.output;
          const bool even = s.spatial[1] == shape.out[2] * s.spatial[2];
          const bool whole = k.count() == width || 2 * k.count() == width;
          if (s.c == 1 && whole && (even || p1 - p0 == 1)) {  // where it belongs
            finish.row = s.spatial[2];
            finish.bias = done ? here : nullptr;
            finish.relu = done && shape.relu;
            panel_along_filters(shape, band, p1 - p0, steps, offsets, cells, from, k.count(),
                                output + k.first + p0 * s.spatial[1], finish);
          } else {
            panel_along_filters(shape, band, p1 - p0, steps, offsets, cells, from, k.count(), to,
                                finish);
            if (done) store_pixels(shape, to, k, here, p0, p1, output);
          }
        } else {
          panel_along_cells(k.count(), band, steps, offsets, cells, from, here, block > 0, to);
          if (done && shape.relu) {
            rectify(static_cast<int>(k.count() * band.sums_row / (2 * Vec<T>::kLanes)), to);
          }
          if (done && !band.all_sums) store_cells(shape, band, to, k, p0, p1, output);
        }
        filters += width * shape.reduction();
      }
    }
    if (band.all_sums && !band.along_filters) {
      store_cells(shape, band, sums, {0, shape.K}, p0, p1, output);
    }
  }
}
