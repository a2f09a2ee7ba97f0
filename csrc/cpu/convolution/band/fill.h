// Direct convolution: packed panels of filters, rows copied to a band, and images by the phases of
// a stride. Included by isa/ (see vec.h).
#pragma once

#include "../pack.h"
#include "plan.h"

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
