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

#include "../../gemm.h"
#include "../pack.h"

// Accumulators, and the vectors and broadcast elements that meet in them, fill the register file.
template <typename T>
struct BandTile {
  static constexpr int64_t kWidest = kBandVectors * Vec<T>::kLanes;

  static constexpr int vectors(int filters) {
    int count = kBandVectors;
    while (kBandVectors % count != 0 || count * filters > kBandSums) --count;
    return count;
  }
};

// The distinct phases that the taps of an axis fall into, and where a tap lies in its phase.
struct PhasedAxis {
  int64_t stride, dilation, slots, reach;

  // `whole`: as if the stride were one.
  PhasedAxis(const Convolution& shape, int axis, bool whole = false)
      : stride(whole ? 1 : shape.stride[axis]), dilation(shape.dilation[axis]) {
    int64_t a = stride, b = dilation % stride;
    while (b != 0) {
      const int64_t rest = a % b;
      a = b;
      b = rest;
    }
    slots = stride / a < shape.filter[axis] ? stride / a : shape.filter[axis];
    reach = (shape.filter[axis] - 1) * dilation / stride;
  }
  int64_t slot(int64_t tap) const { return tap % slots; }
  int64_t phase(int64_t slot) const { return slot * dilation % stride; }
  int64_t cell(int64_t tap) const { return tap * dilation / stride; }
};

inline bool innermost(const Convolution& shape, const Band& band) {
  return band.along_filters && shape.input.c == 1;
}

// Whether rows are copied as they are: some tap sees every column.
inline bool whole_rows(const Convolution& shape, const Band& band) {
  return innermost(shape, band) && PhasedAxis(shape, 2).slots == shape.stride[2];
}

// Where the cells of a band lie, once rows and channels are decided.
inline void lay_band(const Convolution& shape, Band& band) {
  const bool whole = whole_rows(shape, band), cells = innermost(shape, band);
  const PhasedAxis y(shape, 1), x(shape, 2, whole);
  band.cell = cells ? band.channels : 1;
  band.step = band.cell * (whole ? shape.stride[2] : 1);
  band.pitch = (shape.out[2] - 1) * band.step / band.cell + 1 + x.reach;
  band.plane = (band.rows + y.reach) * band.pitch * band.cell;
  const int64_t planes = shape.filter[0] * y.slots * x.slots * band.plane;
  band.channel = cells ? 1 : planes;
  band.size = cells ? planes : band.channels * planes;
}

// What does not depend on the pass. At least `cells` cells to a row block, where there are so many,
// and at most `steps` of the sum to a block of channels. Filters come in units of `unit`.
template <typename T>
Band plan_rows(const Convolution& shape, int64_t cells, int64_t steps, int64_t bytes,
               int64_t unit) {
  constexpr int64_t kLanes = Vec<T>::kLanes;
  const PhasedAxis y(shape, 1), x(shape, 2);
  const int64_t planes = shape.filter[0] * y.slots * x.slots;
  const int64_t most = bytes / static_cast<int64_t>(sizeof(T));
  Band band{};
  band.pitch = shape.out[2] + x.reach;
  int64_t rows = most / (shape.C * planes * band.pitch) - y.reach;
  if (rows < divide_up(cells, band.pitch)) rows = divide_up(cells, band.pitch);
  band.row_blocks = divide_up(shape.out[1], rows);
  band.rows = divide_up(shape.out[1], band.row_blocks);
  band.row_blocks = divide_up(shape.out[1], band.rows);
  const int64_t map = planes * (band.rows + y.reach) * band.pitch;
  band.channels = most / map;
  // Few channels in two blocks would be two visits to the sums for little.
  constexpr int64_t kWhole = kGradientBandBytes / static_cast<int64_t>(sizeof(T));
  if (shape.reduction() <= steps && shape.C * map <= kWhole) band.channels = shape.C;
  if (band.channels * shape.taps() > steps) band.channels = steps / shape.taps();
  // Where they are innermost in memory, whole vectors of channels are turned at once.
  const bool fits = kLanes * shape.taps() <= steps && kLanes * map <= kWhole;
  if (shape.input.c == 1 && band.channels < kLanes && fits) band.channels = kLanes;
  if (band.channels < 1) band.channels = 1;
  if (band.channels > shape.C) band.channels = shape.C;
  band.blocks = divide_up(shape.C, band.channels);
  band.channels = divide_up(shape.C, band.blocks);
  band.blocks = divide_up(shape.C, band.channels);
  // Whichever leaves less of its vectors idle; a tie goes to what the output is contiguous in.
  const int64_t useful = band.rows * shape.out[2], summed = band.rows * band.pitch;
  const int64_t filters = useful * round_up(shape.K, unit);
  const int64_t wide = shape.K * round_up(summed, 2 * kLanes);
  band.along_filters = shape.output.spatial[2] == 1 ? 16 * wide >= 17 * filters : wide >= filters;
  lay_band(shape, band);
  return band;
}

template <typename T>
Band plan_band(const Convolution& shape) {
  Band band = plan_rows<T>(shape, kBandCells, kPanelSteps, kBandBytes, Vec<T>::kLanes);
  const int64_t pixels = band.rows * shape.out[2], cells = band.rows * band.pitch;
  band.panel = band.along_filters ? Tile<T>::kCols : kBandFilters;
  band.panels = divide_up(shape.K, band.panel);
  band.sums_row = band.along_filters ? Tile<T>::kCols : round_up(cells, BandTile<T>::kWidest);
  band.panel_sums = band.sums_row * (band.along_filters ? pixels : band.panel);
  // Where output cells of a row lie apart, filters are transposed to them a vector at a time.
  const bool apart = shape.output.spatial[2] != 1 && shape.out[2] > 1;
  band.all_sums = band.blocks > 1 || (apart && !band.along_filters);
  return band;
}

template <typename T>
int64_t band_workspace(const Band& band) {
  return round_up(band.size, 16) + BandTile<T>::kWidest +
         (band.all_sums ? band.panels : 1) * band.panel_sums;
}

// Filters first <= k < last of panel `index`. Along the cells panels are as equal as can be.
struct FilterRange {
  int64_t first, last;
  int64_t count() const { return last - first; }
};

inline FilterRange panel_filters(const Convolution& shape, const Band& band, int64_t index) {
  if (!band.along_filters) {
    return {index * shape.K / band.panels, (index + 1) * shape.K / band.panels};
  }
  const int64_t first = index * band.panel;
  return {first, first + band.panel < shape.K ? first + band.panel : shape.K};
}

// Elements that a panel of filters takes for each step, packed.
inline int64_t panel_width(const Band& band, const FilterRange& filters) {
  return band.along_filters ? band.panel : filters.count();
}

template <typename T>
int64_t band_filters(const Convolution& shape, const Band& band) {
  const int64_t width = band.along_filters ? band.panels * band.panel : shape.K;
  return shape.G * width * shape.reduction();
}

// Filters of one group as the tiles read them: [panel][step][filter of the panel].
template <typename T>
void pack_band_filters(const ConvolutionForward<T>& p, const Band& band, int64_t g) {
  const Convolution& shape = p.shape;
  T* to = p.packed + g * band_filters<T>(shape, band) / shape.G;
  for (int64_t panel = 0; panel < band.panels; ++panel) {
    const FilterRange k = panel_filters(shape, band, panel);
    const int64_t width = panel_width(band, k);
    for (int64_t c = 0; c < shape.C; ++c) {
      Tap tap(shape, 0);
      for (int64_t t = 0; t < shape.taps(); ++t, tap.next(shape), to += width) {
        const T* from = p.weight + g * shape.weight.g + c * shape.weight.c;
        for (int axis = 0; axis < kSpatial; ++axis) {
          from += tap.at[axis] * shape.weight.spatial[axis];
        }
        for (int64_t i = 0; i < width; ++i) {
          to[i] = i < k.count() ? from[(k.first + i) * shape.weight.k] : T(0);
        }
      }
    }
  }
}

// to[c * to_channel + j] = from[c * from_channel + j * step] for c < channels and first <= j <
// last, zero for the other j < length.
template <typename T>
inline void copy_planar(const T* from, int64_t from_channel, int64_t step, int64_t first,
                        int64_t last, int64_t length, int64_t channels, T* to, int64_t to_channel) {
  constexpr int64_t kLanes = Vec<T>::kLanes;
  if (from_channel != 1 || channels == 1 || first >= last) {
    return copy_rows(from, from_channel, step, first, last, length, channels, to, to_channel);
  }
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t j = 0; j < first; ++j) to[c * to_channel + j] = T(0);
    for (int64_t j = last; j < length; ++j) to[c * to_channel + j] = T(0);
  }
  int64_t c = 0;
  for (; c + kLanes <= channels; c += kLanes) {
    scatter_lanes(from + c + first * step, step, last - first, to + c * to_channel + first,
                  to_channel, kLanes, int64_t{1});
  }
  for (int64_t j = first; j < last; ++j) {
    for (int64_t i = c; i < channels; ++i) to[i * to_channel + j] = from[i + j * step];
  }
}

// to[j * to_cell + c] = from[j * step + c] for c < channels and first <= j < last, zero for the
// other j < length.
template <typename T>
inline void copy_interleaved(const T* from, int64_t step, int64_t first, int64_t last,
                             int64_t length, int64_t channels, T* to, int64_t to_cell) {
  for (int64_t i = 0; i < first * to_cell; ++i) to[i] = T(0);
  if (step == channels && to_cell == channels) {
    copy_cells(from + first * step, (last - first) * channels, to + first * to_cell);
  } else {
    for (int64_t j = first; j < last; ++j) copy_cells(from + j * step, channels, to + j * to_cell);
  }
  for (int64_t i = last * to_cell; i < length * to_cell; ++i) to[i] = T(0);
}

// The band of channels c0 <= c < c1 for the rows of block `row_block` of output plane `depth`.
template <typename T>
void fill_band(const Convolution& shape, const Band& band, const T* input, int64_t depth,
               int64_t row_block, int64_t c0, int64_t c1, T* to) {
  const PhasedAxis y(shape, 1), x(shape, 2, whole_rows(shape, band));
  const int64_t step = x.stride * shape.input.spatial[2];
  const int64_t p0 = row_block * band.rows;
  for (int64_t t = 0; t < shape.filter[0]; ++t) {
    const int64_t d = depth * shape.stride[0] + t * shape.dilation[0] - shape.padding[0];
    for (int64_t slot_y = 0; slot_y < y.slots; ++slot_y) {
      for (int64_t slot_x = 0; slot_x < x.slots; ++slot_x) {
        // Cells u of the phase read input column u * stride + at.
        const int64_t at = x.phase(slot_x) - shape.padding[2], stride = x.stride;
        int64_t first = at < 0 ? divide_up(-at, stride) : 0;
        int64_t last = at >= shape.in[2] ? 0 : divide_up(shape.in[2] - at, stride);
        if (last > band.pitch) last = band.pitch;
        for (int64_t i = 0; i < band.rows + y.reach; ++i, to += band.pitch * band.cell) {
          const int64_t h = (p0 + i) * y.stride + y.phase(slot_y) - shape.padding[1];
          const bool inside = d >= 0 && d < shape.in[0] && h >= 0 && h < shape.in[1];
          const T* from = input + c0 * shape.input.c + d * shape.input.spatial[0] +
                          h * shape.input.spatial[1] + at * shape.input.spatial[2];
          const bool any = inside && first < last;
          if (band.cell > 1) {
            copy_interleaved(from, step, any ? first : 0, any ? last : 0, band.pitch, c1 - c0, to,
                             band.cell);
          } else {
            copy_planar(from, shape.input.c, step, any ? first : 0, any ? last : 0, band.pitch,
                        c1 - c0, to, band.channel);
          }
        }
      }
    }
  }
}

// A band of all rows: the phases of channels c0 <= c < c1 as channels, of_phases' input.
inline Band band_of_phases(const Convolution& shape) {
  Band band{};
  band.rows = shape.out[1];
  band.channels = shape.C;
  lay_band(shape, band);
  return band;
}

template <typename T>
void split_phases(const Convolution& shape, const T* input, int64_t c0, int64_t c1, T* to) {
  const Band band = band_of_phases(shape);
  fill_band(shape, band, input, int64_t{0}, int64_t{0}, c0, c1, to + c0 * band.channel);
}

// The reverse; an input cell that no window reaches is zero.
template <typename T>
void join_phases(const Convolution& shape, const T* from, int64_t c0, int64_t c1, T* input) {
  const Band band = band_of_phases(shape);
  const int64_t rows = shape.out[1] + PhasedAxis(shape, 1).reach;
  const int64_t stride_y = shape.stride[1], stride_x = shape.stride[2];
  for (int64_t c = c0; c < c1; ++c) {
    for (int64_t h = 0; h < shape.in[1]; ++h) {
      const int64_t y = h + shape.padding[1];
      T* row = input + c * shape.input.c + h * shape.input.spatial[1];
      for (int64_t phase = 0; phase < stride_x; ++phase) {
        const T* cells = from + c * band.channel + (y % stride_y * stride_x + phase) * band.plane +
                         y / stride_y * band.pitch;
        // Cell u of the phase is column u * stride + at.
        const int64_t at = phase - shape.padding[2];
        for (int64_t u = at < 0 ? divide_up(-at, stride_x) : 0; u * stride_x + at < shape.in[2];
             ++u) {
          const bool reached = y / stride_y < rows && u < band.pitch;
          row[(u * stride_x + at) * shape.input.spatial[2]] = reached ? cells[u] : T(0);
        }
      }
    }
  }
}

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

// ---------------------------------------------------------------------------------------------
// The weight gradient: every filter's row of gradients times the band at every offset, cell by
// cell, in vectors of partial sums.
// ---------------------------------------------------------------------------------------------

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
