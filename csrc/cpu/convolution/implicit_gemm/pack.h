// Packing for implicit GEMM: patches and filters as the panels that the micro-kernel reads.
// Included by isa/ (see vec.h).
#pragma once

#include "../pack.h"

// A number as an entry of the sum. Where those are pairs it must be one of bfloat16's; its
// neighbour is zero. (Not for bfloat16 that is paired later, which has no such entries.)
template <typename T>
inline T entry_of(Sum<T> value) {
  if constexpr (std::is_same_v<T, Sum<T>>) {
    return value;
  } else {
    uint32_t bits;
    __builtin_memcpy(&bits, &value, sizeof bits);
    return static_cast<T>(bits >> 16);
  }
}

// Patch entries first <= r < last of every run, entry by entry:
// to[panel of the pixel][r][pixel within the panel], `panel` pixels and `steps` entries to a panel.
// The entry after the last channel of the last tap, if asked for, is the constant 1 of the bias.
template <typename T>
void pack_entries(const Convolution& shape, const T* input, const Run* runs, int64_t count,
                  int64_t first, int64_t last, int64_t panel, int64_t steps, T* to) {
  const int64_t real_last = last < shape.reduction() ? last : shape.reduction();
  for (const Run* run = runs; run < runs + count; ++run) {
    T* column = to + (run->column / panel) * steps * panel + run->column % panel;
    int64_t index = first / shape.C;
    for (Tap tap(shape, index); index * shape.C < real_last; ++index, tap.next(shape)) {
      const TapRange range = tap_range(shape, index, first, real_last);
      const Contact contact = meet(shape, *run, tap);
      const T* from = input + contact.offset + range.c0 * shape.input.c;
      copy_rows(from, shape.input.c, contact.step, contact.first, contact.last, run->length,
                range.c1 - range.c0, column + range.r0 * panel, panel);
    }
    if (last > real_last) {
      T* row = column + (real_last - first) * panel;
      for (int64_t j = 0; j < run->length; ++j) row[j] = entry_of<T>(1);
    }
  }
}

// The same entries pixel by pixel: to[pixel][r], `stride` elements from pixel to pixel.
template <typename T>
void pack_pixels(const Convolution& shape, const T* input, const Run* runs, int64_t count,
                 int64_t first, int64_t last, int64_t stride, T* to) {
  const int64_t real_last = last < shape.reduction() ? last : shape.reduction();
  for (const Run* run = runs; run < runs + count; ++run) {
    int64_t index = first / shape.C;
    for (Tap tap(shape, index); index * shape.C < real_last; ++index, tap.next(shape)) {
      const TapRange range = tap_range(shape, index, first, real_last);
      const Contact contact = meet(shape, *run, tap);
      const int64_t channels = range.c1 - range.c0;
      const T* from = input + contact.offset + range.c0 * shape.input.c;
      T* row = to + run->column * stride + range.r0;
      // Before, within and after the input; only within it is there anything to read.
      copy_rows(from, 0, 1, 0, 0, channels, contact.first, row, stride);
      const T* inside = from + contact.first * contact.step;
      const int64_t pixels = contact.last - contact.first;
      if (shape.input.c == 1) {
        copy_rows(inside, contact.step, 1, 0, channels, channels, pixels,
                  row + contact.first * stride, stride);
      } else {
        transpose(inside, contact.step, shape.input.c, pixels, channels,
                  row + contact.first * stride, stride);
      }
      copy_rows(from, 0, 1, 0, 0, channels, run->length - contact.last, row + contact.last * stride,
                stride);
    }
    if (last > real_last) {
      T* row = to + run->column * stride + (real_last - first);
      for (int64_t j = 0; j < run->length; ++j, row += stride) *row = entry_of<T>(1);
    }
  }
}

// The bias of a panel, packed behind the filters.
template <typename T>
Sum<T>* bias_panel(const GemmForward<T>& p, int64_t g, int64_t panel) {
  static_assert(sizeof(Sum<T>) == sizeof(T));
  const Blocking& cut = p.blocking;
  const int64_t panels = p.shape.G * cut.panels;
  return reinterpret_cast<Sum<T>*>(p.packed) +
         (panels * cut.blocks * cut.block + g * cut.panels + panel) * cut.panel;
}

// Where entry r of a panel's filters is packed: of filter i, i * row elements further on.
template <typename T>
struct PackedPanel {
  const Blocking& cut;
  T* first;        // of the first block
  int64_t blocks;  // elements from block to block
  int64_t row;

  PackedPanel(const GemmForward<T>& p, int64_t g, int64_t panel) : cut(p.blocking) {
    first = p.packed + (g * cut.blocks * cut.panels + panel) * cut.panel * cut.block;
    blocks = cut.panels * cut.panel * cut.block;
    row = cut.pixels_on_rows ? 1 : cut.block;
  }
  T* entry(int64_t r) const {
    const int64_t block = r / cut.block, here = r % cut.block;
    return first + block * blocks + here * (cut.pixels_on_rows ? cut.panel : 1);
  }
};

// Filters whose taps lie together but not their channels, as in NCHW: squares of taps and whatever
// the vectors run along, filters or channels, are turned.
template <typename T>
void pack_taps(const GemmForward<T>& p, int64_t g, int64_t k, int64_t filters,
               const PackedPanel<T>& to) {
  using V = Vec<T>;
  constexpr int64_t kLanes = V::kLanes;
  const Convolution& shape = p.shape;
  const FilterStrides& s = shape.weight;
  const int64_t taps = shape.taps(), step = step_of_taps(shape);
  const bool along_filters = p.blocking.pixels_on_rows;
  const int64_t lane_step = along_filters ? s.k : s.c;
  const int64_t all_lanes = along_filters ? filters : shape.C;
  const int64_t others = along_filters ? shape.C : filters;
  for (int64_t other = 0; other < others; ++other) {
    for (int64_t lane0 = 0; lane0 < all_lanes; lane0 += kLanes) {
      const int64_t lanes = all_lanes - lane0 < kLanes ? all_lanes - lane0 : kLanes;
      const int64_t c = along_filters ? other : lane0, i = along_filters ? lane0 : other;
      const T* const from = p.weight + g * s.g + (k + i) * s.k + c * s.c;
      for (int64_t t0 = 0; t0 < taps; t0 += kLanes) {
        const int64_t here = taps - t0 < kLanes ? taps - t0 : kLanes;
        // Backwards, the last of these taps is the first in memory.
        const T* const first = step > 0 ? from + t0 : from - (t0 + here - 1);
        T cells[kLanes * kLanes];
        gather_lanes(first, lane_step, lanes, 1, here, cells, kLanes);
        for (int64_t j = 0; j < here; ++j) {
          const T* const row = cells + (step > 0 ? j : here - 1 - j) * kLanes;
          const int64_t r = (t0 + j) * shape.C + c;
          if (along_filters) {
            V::load(row).store(to.entry(r) + i);
          } else if (r / to.cut.block == (r + lanes - 1) / to.cut.block) {
            copy_rows(row, 0, 1, 0, lanes, lanes, 1, to.entry(r) + i * to.row, 0);
          } else {
            for (int64_t lane = 0; lane < lanes; ++lane) to.entry(r + lane)[i * to.row] = row[lane];
          }
        }
      }
    }
  }
}

// Filters of a panel in the order of the patch entries, block by block; the bias, if there is one,
// is the last entry. What a panel lacks is zero.
template <typename T>
void pack_filters(const GemmForward<T>& p, int64_t g, int64_t panel) {
  const Convolution& shape = p.shape;
  const Blocking& cut = p.blocking;
  const FilterStrides& s = shape.weight;
  const PackedPanel<T> to(p, g, panel);
  const int64_t k = panel * cut.panel;
  const int64_t filters = shape.K - k < cut.panel ? shape.K - k : cut.panel;
  if (p.bias != nullptr) {
    for (int64_t i = 0; i < cut.panel; ++i) {
      bias_panel(p, g, panel)[i] = i < filters ? p.bias[g * shape.K + k + i] : Sum<T>(0);
    }
  }
  for (int64_t block = 0; block < cut.blocks; ++block) {
    T* const cells = to.entry(block * cut.block);
    for (int64_t i = 0; i < cut.panel * cut.block; ++i) cells[i] = T(0);
  }
  const bool apart = s.c != 1 && !(cut.pixels_on_rows && s.k == 1);
  if (apart && shape.taps() > 1 && step_of_taps(shape) != 0) {
    pack_taps(p, g, k, filters, to);
  } else {
    for (int64_t block = 0; block < cut.blocks; ++block) {
      const int64_t first = block * cut.block;
      const int64_t last =
          first + cut.block < shape.reduction() ? first + cut.block : shape.reduction();
      int64_t index = first / shape.C;
      for (Tap tap(shape, index); index * shape.C < last; ++index, tap.next(shape)) {
        const TapRange range = tap_range(shape, index, first, last);
        const T* from = p.weight + g * s.g + k * s.k + range.c0 * s.c;
        for (int axis = 0; axis < kSpatial; ++axis) from += tap.at[axis] * s.spatial[axis];
        const int64_t channels = range.c1 - range.c0;
        T* const here = to.entry(first + range.r0);
        if (!cut.pixels_on_rows) {
          transpose(from, s.k, s.c, filters, channels, here, to.row);
          continue;
        }
        constexpr int64_t kLanes = Vec<T>::kLanes;
        for (int64_t i = 0; i < filters; i += kLanes) {
          gather_lanes(from + i * s.k, s.k, filters - i < kLanes ? filters - i : kLanes, s.c,
                       channels, here + i, cut.panel);
        }
      }
    }
  }
  if (cut.bias_entry) {
    for (int64_t i = 0; i < filters; ++i) {
      to.entry(cut.reduction - 1)[i * to.row] = entry_of<T>(p.bias[g * shape.K + k + i]);
    }
  }
}
