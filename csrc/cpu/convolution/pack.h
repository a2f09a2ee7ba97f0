// Packing: patches of a feature map, and filters, into the contiguous panels that the micro-kernel
// reads. Padding becomes zeros here and nowhere else. Included by isa/ (see vec.h).
#pragma once

#include "../lanes.h"

// A stretch of output pixels in one row of one image, and where it stands in the block.
struct Run {
  int64_t column;  // its first pixel, counted from the first of the block
  int64_t length;
  int64_t n, out[kSpatial];  // of its first pixel
};

// The pixels first <= q < last of the batch as runs, none of which crosses a multiple of
// `boundary`. Returns how many; at most last - first.
inline int64_t cut_runs(const Convolution& shape, int64_t first, int64_t last, int64_t boundary,
                        Run* runs) {
  int64_t count = 0;
  for (int64_t q = first; q < last;) {
    Run& run = runs[count++];
    run.column = q - first;
    int64_t rest = q;
    for (int axis = kSpatial - 1; axis >= 0; --axis) {
      run.out[axis] = rest % shape.out[axis];
      rest /= shape.out[axis];
    }
    run.n = rest;
    const int64_t to_row_end = shape.out[2] - run.out[2];
    const int64_t to_boundary = boundary - run.column % boundary;
    run.length = last - q;
    if (run.length > to_row_end) run.length = to_row_end;
    if (run.length > to_boundary) run.length = to_boundary;
    q += run.length;
  }
  return count;
}

// Counts through the taps of a filter, the last axis fastest.
struct Tap {
  int64_t at[kSpatial];

  Tap(const Convolution& shape, int64_t index) {
    for (int axis = kSpatial - 1; axis >= 0; --axis) {
      at[axis] = index % shape.filter[axis];
      index /= shape.filter[axis];
    }
  }
  void next(const Convolution& shape) {
    for (int axis = kSpatial - 1; axis >= 0; --axis) {
      if (++at[axis] < shape.filter[axis]) return;
      at[axis] = 0;
    }
  }
};

// Where one tap meets the input along a run: pixels first <= j < last of the run read
// input[offset + j * step + c * stride of c]; the others lie in the padding.
struct Contact {
  int64_t offset, step, first, last;
};

inline Contact meet(const Convolution& shape, const Run& run, const Tap& tap) {
  Contact contact{run.n * shape.input.n, 0, 0, run.length};
  int64_t at = 0;
  for (int axis = 0; axis < kSpatial; ++axis) {
    at = run.out[axis] * shape.stride[axis] - shape.padding[axis] +
         tap.at[axis] * shape.dilation[axis];
    contact.offset += at * shape.input.spatial[axis];
    if (axis < kSpatial - 1 && (at < 0 || at >= shape.in[axis])) contact.last = 0;
  }
  // first: the least j with at + j * stride >= 0; last: the least with at + j * stride >= in.
  const int64_t stride = shape.stride[kSpatial - 1], in = shape.in[kSpatial - 1];
  contact.step = stride * shape.input.spatial[kSpatial - 1];
  if (at < 0) contact.first = (-at + stride - 1) / stride;
  if (at + (run.length - 1) * stride >= in) {
    const int64_t last = at >= in ? 0 : (in - at + stride - 1) / stride;
    if (contact.last > last) contact.last = last;
  }
  if (contact.first > contact.last) contact.first = contact.last = 0;
  return contact;
}

// Copies `rows` rows of `length` cells: to[i * to_row + j] = from[i * from_row + j * step] where
// first <= j < last, zero elsewhere.
template <typename T>
inline void copy_rows(const T* from, int64_t from_row, int64_t step, int64_t first, int64_t last,
                      int64_t length, int64_t rows, T* to, int64_t to_row) {
  using V = Vec<T>;
  if (step == 1) {
    for (int64_t j = 0; j < length; j += V::kLanes) {
      const int64_t count = length - j < V::kLanes ? length - j : V::kLanes;
      int64_t lower = first - j, upper = last - j;
      lower = lower < 0 ? 0 : lower > count ? count : lower;
      upper = upper < lower ? lower : upper > count ? count : upper;
      if (upper - lower == V::kLanes) {
        for (int64_t i = 0; i < rows; ++i)
          V::load(from + i * from_row + j).store(to + i * to_row + j);
        continue;
      }
      const auto read = V::Mask::range(lower, upper), written = V::Mask::range(0, count);
      for (int64_t i = 0; i < rows; ++i) {
        V::load(from + i * from_row + j, read).store(to + i * to_row + j, written);
      }
    }
    return;
  }
  for (int64_t i = 0; i < rows; ++i, from += from_row, to += to_row) {
    for (int64_t j = 0; j < first; ++j) to[j] = T(0);
    int64_t j = first;
    if (step == 2) j += copy_every<T, 2>(from + j * step, last - j, to + j);
    if (step == 4) j += copy_every<T, 4>(from + j * step, last - j, to + j);
    for (; j < last; ++j) to[j] = from[j * step];
    for (int64_t j = last; j < length; ++j) to[j] = T(0);
  }
}

// to[j * to_row + i] = from[j * from_row + i * from_column] for j < rows and i < columns.
template <typename T>
inline void transpose(const T* from, int64_t from_row, int64_t from_column, int64_t rows,
                      int64_t columns, T* to, int64_t to_row) {
  constexpr int64_t kLanes = Vec<T>::kLanes;
  for (int64_t i = 0; i < columns; i += kLanes) {
    const int64_t lanes = columns - i < kLanes ? columns - i : kLanes;
    gather_lanes<T, true>(from + i * from_column, from_column, lanes, from_row, rows, to + i,
                          to_row);
  }
}

// The part of the reduction first <= r < last that belongs to one tap: channels c0 <= c < c1.
struct TapRange {
  int64_t c0, c1, r0;  // r0: where it starts, counted from `first`
};

inline TapRange tap_range(const Convolution& shape, int64_t tap, int64_t first, int64_t last) {
  const int64_t start = tap * shape.C;
  const int64_t c0 = first > start ? first - start : 0;
  const int64_t c1 = last - start < shape.C ? last - start : shape.C;
  return {c0, c1, start + c0 - first};
}

// Whether elements that are counted through some axes, the innermost first, lie evenly in memory,
// and the step from each to the next: 0 if all of them are one element, as in an expanded tensor.
struct EvenStep {
  bool even = true, found = false;
  int64_t step = 0, next = 0;

  void add_axis(int64_t count, int64_t stride) {
    if (count == 1) return;
    if (!found) step = stride;
    if (found && stride != next) even = false;
    found = true;
    next = stride * count;
  }
};

// Whether a filter's taps follow one another in memory: 1 forwards, -1 backwards, otherwise 0.
inline int64_t step_of_taps(const Convolution& shape) {
  EvenStep taps;
  for (int axis = kSpatial - 1; axis >= 0; --axis) {
    taps.add_axis(shape.filter[axis], shape.weight.spatial[axis]);
  }
  return taps.even && (taps.step == 1 || taps.step == -1) ? taps.step : 0;
}
