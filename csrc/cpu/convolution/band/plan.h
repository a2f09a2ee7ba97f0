// How direct convolution is cut into bands, and the layout of a band. Included by isa/ (see vec.h).
#pragma once

#include "../../gemm.h"

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
