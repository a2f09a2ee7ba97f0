// Depthwise convolution: the rows of the source that are kept in the cache, and the taps that meet
// a cell of the result. Included by isa/ (see vec.h).
#pragma once

#include "narrow_groups.h"
#include "plan.h"

// to[v * to_vector + j * kLanes] = from[j * step + v * kLanes], a vector at a time.
template <typename T>
inline void turn(const T* from, int64_t step, int64_t count, int64_t vectors, T* to,
                 int64_t to_vector) {
  constexpr int64_t kLanes = Vec<T>::kLanes;
  for (int64_t j = 0; j < count; ++j, from += step, to += kLanes) {
    T* cell = to;
    for (int64_t v = 0; v < vectors; ++v, cell += to_vector) {
      Vec<T>::load(from + v * kLanes).store(cell);
    }
  }
}

// Keeps the source rows that some rows of the result meet.
template <typename T>
struct DepthwiseRows {
  const DepthwisePass& pass;
  const Depthwise& cut;
  const DepthwiseBlock& at;
  const T* source;
  T* cells;
  int64_t next;  // the first row that was not copied yet

  DepthwiseRows(const DepthwisePass& p, const Depthwise& d, const DepthwiseBlock& block,
                const T* from, T* to)
      : pass(p), cut(d), at(block), source(from), cells(to), next(p.first(1, block.p0)) {}

  T* row(int64_t v, int64_t t, int64_t y) const {
    return cells + v * cut.vector + t * cut.plane +
           remainder_down(y, cut.ring) * cut.pitch * Vec<T>::kLanes;
  }

  // Rows p0 <= p < p1 of the result, kRowsAtOnce at most.
  void go_to(int64_t p0, int64_t p1) {
    const int64_t first = pass.first(1, p0), last = pass.last(1, p1 - 1);
    for (next = next < first ? first : next; next <= last; ++next) copy(next);
  }

 private:
  void copy(int64_t y) const {
    constexpr int64_t kLanes = Vec<T>::kLanes;
    const FeatureMapStrides& s = pass.from();
    const int64_t* size = pass.source();
    const int64_t x = pass.first(2, at.q0);
    for (int64_t t = 0; t < pass.c.filter[0]; ++t) {
      int64_t d;
      if (!pass.meets(0, at.depth, t, d)) continue;
      int64_t begin = x < 0 ? -x : 0, end = size[2] - x < cut.pitch ? size[2] - x : cut.pitch;
      const bool inside = d >= 0 && d < size[0] && y >= 0 && y < size[1] && begin < end;
      if (!inside) begin = end = 0;
      const T* from = source + at.n * s.n + at.g * s.g + d * s.spatial[0] + y * s.spatial[1] +
                      (x + begin) * s.spatial[2];
      T* const to = row(0, t, y);
      for (int64_t v = 0; v < at.vectors; ++v) {
        T* cell = to + v * cut.vector;
        for (int64_t i = 0; i < begin * kLanes; ++i) cell[i] = T(0);
        for (int64_t i = end * kLanes; i < cut.pitch * kLanes; ++i) cell[i] = T(0);
      }
      int64_t v = 0;
      if (s.g == 1) {  // in the order of the memory
        v = at.full;
        turn(from, s.spatial[2], end - begin, v, to + begin * kLanes, cut.vector);
      }
      for (; v < at.vectors; ++v) {
        gather_lanes(from + v * kLanes * s.g, s.g, at.lanes(v), s.spatial[2], end - begin,
                     to + v * cut.vector + begin * kLanes, kLanes);
      }
    }
  }
};

// The taps of the result's cells q, q + stride, ... of row p, whose weights are `tap_step` elements
// apart; how many.
template <typename T>
int64_t depthwise_taps(const DepthwiseRows<T>& rows, int64_t tap_step, int64_t p, int64_t q,
                       DepthwiseTap* taps) {
  const DepthwisePass& pass = rows.pass;
  const Convolution& c = pass.c;
  const int64_t first = pass.first(2, rows.at.q0);
  DepthwiseTap* tap = taps;
  int64_t weight = 0, d, y, x;
  for (int64_t t = 0; t < c.filter[0]; ++t) {
    for (int64_t r = 0; r < c.filter[1]; ++r) {
      const bool meet = pass.meets(0, rows.at.depth, t, d) && pass.meets(1, p, r, y);
      for (int64_t s = 0; s < c.filter[2]; ++s, weight += tap_step) {
        if (!meet || !pass.meets(2, q, s, x)) continue;
        *tap++ = {rows.row(0, t, y) - rows.cells + (x - first) * Vec<T>::kLanes, weight};
      }
    }
  }
  return tap - taps;
}

// The same in place, in elements from cell (0, 0) of its maps; and the cells j first <= j < last of
// the row whose taps all lie inside the source.
struct DepthwiseReach {
  int64_t count, first, last;
};

// Whether tap column `x` of a row's first cell is inside the source for cell j.
inline bool inside(const DepthwisePass& pass, int64_t x, int64_t j) {
  const int64_t at = x + j * pass.step(2);
  return at >= 0 && at < pass.source()[2];
}

inline DepthwiseReach depthwise_taps_in_place(const DepthwisePass& pass, int64_t tap_step,
                                              int64_t depth, int64_t p, int64_t q, int64_t cells,
                                              DepthwiseTap* taps, int64_t* columns) {
  const Convolution& c = pass.c;
  const int64_t* size = pass.source();
  const FeatureMapStrides& from = pass.from();
  const int64_t step = pass.step(2);
  DepthwiseReach reach{0, 0, cells};
  int64_t weight = 0, d, y, x;
  for (int64_t t = 0; t < c.filter[0]; ++t) {
    for (int64_t r = 0; r < c.filter[1]; ++r) {
      const bool meet = pass.meets(0, depth, t, d) && pass.meets(1, p, r, y) && d >= 0 &&
                        d < size[0] && y >= 0 && y < size[1];
      for (int64_t s = 0; s < c.filter[2]; ++s, weight += tap_step) {
        if (!meet || !pass.meets(2, q, s, x)) continue;
        columns[reach.count] = x;
        taps[reach.count++] = {d * from.spatial[0] + y * from.spatial[1] + x * from.spatial[2],
                               weight};
        if (x < 0 && divide_up(-x, step) > reach.first) reach.first = divide_up(-x, step);
        const int64_t last = x >= size[2] ? 0 : divide_up(size[2] - x, step);
        if (last < reach.last) reach.last = last;
      }
    }
  }
  if (reach.first > cells) reach.first = cells;
  if (reach.last < reach.first) reach.last = reach.first;
  return reach;
}

// Rows y <= p < the result, at most `end`, that have the taps of row y, each a step further down.
inline int64_t rows_alike(const DepthwisePass& pass, int64_t y, int64_t end) {
  const bool steps = !pass.gradient || pass.c.stride[1] == 1;
  if (!steps || pass.first(1, y) < 0) return y + 1;
  int64_t last = y + 1;
  while (last < end && pass.last(1, last) < pass.source()[1]) ++last;
  return last;
}

// Of the taps of a row, those that are inside the source for cell j; how many.
inline int64_t taps_inside(const DepthwisePass& pass, const DepthwiseTap* taps,
                           const int64_t* columns, int64_t count, int64_t j, DepthwiseTap* to) {
  int64_t found = 0;
  for (int64_t t = 0; t < count; ++t) {
    if (inside(pass, columns[t], j)) to[found++] = taps[t];
  }
  return found;
}
