// Depthwise convolution: one channel and one filter to a group, so that there is no product of
// matrices to speak of, and vectors run along the groups. A few rows of the source are kept in the
// cache, zero-padded, as [vector of groups][row][column][lane]; each is copied there once, from any
// layout, and every tap reads them at an offset of its own. Included by isa/ (see vec.h).
//
// Where groups are innermost on both sides, in whole vectors, nothing is copied: taps read the
// source where it lies, and cells at the edges have lists of taps of their own.
//
// The input gradient is the same with the roles exchanged: its source is the gradient of the
// output, and where the forward pass strides, result cells that are a stride apart have taps of
// their own.
#pragma once

#include "../pack.h"
#include "narrow_groups.h"

// Quotient and remainder that round down; b > 0.
inline int64_t divide_down(int64_t a, int64_t b) { return a >= 0 ? a / b : -divide_up(-a, b); }
inline int64_t remainder_down(int64_t a, int64_t b) { return a - divide_down(a, b) * b; }

// Vectors of neighbouring groups, two at a time where registers allow.

// The two maps of a pass: where cells are read, and where they are written.
struct DepthwisePass {
  const Convolution& c;
  bool gradient;  // of the input
  const int64_t* source() const { return gradient ? c.out : c.in; }
  const int64_t* result() const { return gradient ? c.in : c.out; }
  const FeatureMapStrides& from() const { return gradient ? c.output : c.input; }
  const FeatureMapStrides& to() const { return gradient ? c.input : c.output; }
  // From the source cells of a result cell to those of the next that has the same taps.
  int64_t step(int axis) const { return gradient ? 1 : c.stride[axis]; }
  int64_t extent(int axis) const { return (c.filter[axis] - 1) * c.dilation[axis]; }

  // The first and the last source cell that a result cell meets; the last is before the first where
  // the cell lies between those.
  int64_t first(int axis, int64_t at) const {
    if (!gradient) return at * c.stride[axis] - c.padding[axis];
    return divide_down(at + c.padding[axis] - extent(axis) + c.stride[axis] - 1, c.stride[axis]);
  }
  int64_t last(int axis, int64_t at) const {
    if (!gradient) return first(axis, at) + extent(axis);
    return divide_down(at + c.padding[axis], c.stride[axis]);
  }
  // Whether tap t of a result cell meets a source cell, and which.
  bool meets(int axis, int64_t at, int64_t t, int64_t& cell) const {
    if (!gradient) {
      cell = first(axis, at) + t * c.dilation[axis];
      return true;
    }
    const int64_t from = at + c.padding[axis] - t * c.dilation[axis];
    cell = divide_down(from, c.stride[axis]);
    return cell * c.stride[axis] == from;
  }
};

// Elements of a tap's packed filters: a vector for each step of the sum.
template <typename T>
int64_t depthwise_tap(const Depthwise& cut) {
  const bool paired = !std::is_same_v<T, Sum<T>> && cut.width > 1;
  return (paired ? cut.width / 2 : cut.width) * Vec<Sum<T>>::kLanes;
}

// Cuts the rows of a map into about so many blocks.
inline void cut_rows(Depthwise& cut, int64_t rows, int64_t blocks) {
  cut.rows = divide_up(rows, blocks < rows ? blocks : rows);
  cut.row_blocks = divide_up(rows, cut.rows);
}

template <typename T>
Depthwise plan_depthwise(const Convolution& shape, bool gradient) {
  constexpr int64_t kLanes = Vec<Sum<T>>::kLanes;
  const Convolution c = groups_of_one(shape);
  const DepthwisePass pass{c, gradient};
  const int64_t* result = pass.result();
  Depthwise cut{};
  cut.gradient = gradient;
  cut.width = shape.C;
  cut.column_blocks = divide_up(result[2], kDepthwiseColumns);
  cut.columns = divide_up(result[2], cut.column_blocks);
  cut.column_blocks = divide_up(result[2], cut.columns);
  cut.pitch = gradient ? (cut.columns - 1 + pass.extent(2)) / c.stride[2] + 2
                       : (cut.columns - 1) * c.stride[2] + pass.extent(2) + 1;
  constexpr int64_t kLine = 64 / sizeof(Sum<T>);
  const int64_t all = divide_up(c.G, kLanes);
  const bool innermost = pass.from().g == 1;
  cut.in_place = innermost && pass.to().g == 1 && c.G % kLanes == 0;
  const int64_t most = (innermost ? kDepthwiseGroupBytes : kDepthwiseBytes) / sizeof(Sum<T>);
  for (cut.at_once = kRowsAtOnce;; cut.at_once /= 2) {
    const int64_t more = cut.at_once - 1;
    cut.ring = gradient ? (pass.extent(1) + more) / c.stride[1] + 1
                        : pass.extent(1) + more * c.stride[1] + 1;
    cut.plane = cut.ring * cut.pitch * kLanes;
    // An odd number of cache lines: vectors are copied side by side, and must not share a set.
    cut.vector = (divide_up(c.filter[0] * cut.plane, kLine) | 1) * kLine;
    if (cut.at_once == 1 || cut.vector * (innermost ? all : 1) <= most) break;
  }
  cut.weights = c.taps() * depthwise_tap<T>(cut);
  cut.vectors = cut.in_place ? kDepthwiseFilters / cut.weights : most / cut.vector;
  if (cut.vectors < 1) cut.vectors = 1;
  if (cut.vectors > all) cut.vectors = all;
  cut.blocks = divide_up(all, cut.vectors);
  // No group is cut in two, nor vectors that are multiplied together.
  int64_t together = divide_up(cut.width, kLanes);
  if (cut.in_place && together < kVectorsAtOnce) together = kVectorsAtOnce;
  cut.vectors = round_up(divide_up(all, cut.blocks), together);
  cut.blocks = divide_up(all, cut.vectors);
  cut.lines = cut.at_once * cut.columns * kLanes;
  cut.slack = kPixelsAtOnce * pass.step(2) * kLanes;
  if (cut.in_place) cut.vector = cut.lines = cut.slack = 0;
  cut.splits = parts_of_sum(shape, cut.blocks, kPartRows * result[2]);
  cut_rows(cut, result[1], divide_up(cut.splits, c.N * result[0] * cut.column_blocks));
  if (cut.splits > cut.maps(c)) cut.splits = power_of_two_below(cut.maps(c));
  return cut;
}

// Shares out the rows of a forward pass or an input gradient.
template <typename T>
void schedule_depthwise(const Convolution& shape, Depthwise& cut, int64_t threads) {
  const Convolution c = groups_of_one(shape);
  const int64_t* result = DepthwisePass{c, cut.gradient}.result();
  const int64_t tasks = c.N * result[0] * cut.blocks * cut.column_blocks;
  cut_rows(cut, result[1], threads == 1 ? 1 : divide_up(4 * threads, tasks));
}

// Of a forward pass or an input gradient, and of a weight gradient.
template <typename T>
int64_t depthwise_workspace(const Convolution& c, const Depthwise& cut) {
  const int64_t sums = cut.vectors * c.taps() * cut.width * Vec<Sum<T>>::kLanes;
  return cut.vectors * (cut.vector + cut.lines) + cut.slack + sums;
}

// A task's share of the maps.
struct DepthwiseBlock {
  int64_t g, vectors;  // the first of its groups, and how many vectors they take
  int64_t full;        // of these; the last one may not be
  int64_t n, depth, p0, p1, q0, q1;

  // Map `index` of those that a block of groups has.
  DepthwiseBlock(const DepthwisePass& pass, const Depthwise& cut, int64_t kLanes, int64_t block,
                 int64_t index) {
    const int64_t* result = pass.result();
    const int64_t all = divide_up(pass.c.G, kLanes), first = block * cut.vectors;
    g = first * kLanes;
    vectors = all - first < cut.vectors ? all - first : cut.vectors;
    full = (pass.c.G - g) / kLanes < vectors ? (pass.c.G - g) / kLanes : vectors;
    last_lanes = pass.c.G - g - full * kLanes;
    all_lanes = kLanes;
    q0 = index % cut.column_blocks * cut.columns;
    q1 = q0 + cut.columns < result[2] ? q0 + cut.columns : result[2];
    index /= cut.column_blocks;
    p0 = index % cut.row_blocks * cut.rows;
    p1 = p0 + cut.rows < result[1] ? p0 + cut.rows : result[1];
    index /= cut.row_blocks;
    depth = index % result[0];
    n = index / result[0];
  }
  int64_t lanes(int64_t v) const { return v < full ? all_lanes : last_lanes; }
  int64_t channels() const { return full * all_lanes + (full < vectors ? last_lanes : 0); }

 private:
  int64_t all_lanes, last_lanes;
};

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

// Vectors of neighbouring groups.
template <typename T, int Vectors>
struct Neighbours {
  using V = Vec<Sum<T>>;
  V at[Vectors];

  static Neighbours load(const T* from) {
    Neighbours v;
#pragma GCC unroll 2
    for (int i = 0; i < Vectors; ++i) v.at[i] = get(from + i * V::kLanes);
    return v;
  }
  static Neighbours load_sums(const Sum<T>* from) {
    Neighbours v;
#pragma GCC unroll 2
    for (int i = 0; i < Vectors; ++i) v.at[i] = V::load(from + i * V::kLanes);
    return v;
  }
  void store(T* to) const {
#pragma GCC unroll 2
    for (int i = 0; i < Vectors; ++i) put(at[i], to + i * V::kLanes);
  }
};

// Where a channel's numbers are in what is packed for each vector of them, `step` elements apart.
template <typename T>
int64_t depthwise_place(const Convolution&, int64_t, int64_t g, int64_t step) {
  constexpr int64_t kLanes = Vec<Sum<T>>::kLanes;
  return g / kLanes * step + g % kLanes;
}

#if defined(CNN_EXT_BFLOAT16)

// Two neighbours of bfloat16 are 32 bits: the even groups are a vector, and the odd.
template <>
struct Neighbours<BFloat16, 2> {
  using V = Vec<float>;
  V at[2];

  static Neighbours load(const BFloat16* from) {
    const __m512i bits = _mm512_loadu_si512(from);
    const __m512i odd = _mm512_and_si512(bits, _mm512_set1_epi32(static_cast<int>(0xffff0000)));
    return {{{reinterpret_cast<V::Lanes>(_mm512_slli_epi32(bits, 16))},
             {reinterpret_cast<V::Lanes>(odd)}}};
  }
  static Neighbours load_sums(const float* from) {
    const auto even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const auto odd = _mm512_or_si512(even, _mm512_set1_epi32(1));
    const __m512 a = _mm512_loadu_ps(from), b = _mm512_loadu_ps(from + 16);
    return {{{reinterpret_cast<V::Lanes>(_mm512_permutex2var_ps(a, even, b))},
             {reinterpret_cast<V::Lanes>(_mm512_permutex2var_ps(a, odd, b))}}};
  }
  void store(BFloat16* to) const {
    const __m512i even = _mm512_cvtepu16_epi32(rounded(at[0]));
    const __m512i odd = _mm512_slli_epi32(_mm512_cvtepu16_epi32(rounded(at[1])), 16);
    _mm512_storeu_si512(to, _mm512_or_si512(even, odd));
  }
};

template <>
inline int64_t depthwise_place<BFloat16>(const Convolution& c, int64_t width, int64_t g,
                                         int64_t step) {
  if (width > 1 || g / 32 * 32 + 32 > c.G) return g / 16 * step + g % 16;
  return (g / 32 * 2 + g % 2) * step + g % 32 / 2;
}

#endif

// The filters of channels g0 <= g < g1 as [vector of groups][tap][lane].
template <typename T>
void pack_depthwise_filters(const ConvolutionForward<T>& p, int64_t g0, int64_t g1) {
  constexpr int64_t kLanes = Vec<Sum<T>>::kLanes;
  const FilterStrides& s = p.shape.weight;
  const int64_t taps = p.shape.taps();
  for (int64_t g = g0; g < g1; ++g) {
    Sum<T>* to = p.packed + depthwise_place<T>(p.shape, 1, g, taps * kLanes);
    Tap tap(p.shape, 0);
    for (int64_t t = 0; t < taps; ++t, tap.next(p.shape), to += kLanes) {
      const T* weight = p.weight + g * s.g;
      for (int axis = 0; axis < kSpatial; ++axis) weight += tap.at[axis] * s.spatial[axis];
      *to = g < p.shape.G ? get_one(weight) : 0;
    }
  }
}

// to[tap * to_row + i] = from[its cell, i * lane_step] for i < lanes.
template <typename T>
void gather_taps(const Convolution& c, const T* from, int64_t lane_step, int64_t lanes, T* to,
                 int64_t to_row) {
  if (step_of_taps(c) == 1) return transpose(from, 1, lane_step, c.taps(), lanes, to, to_row);
  Tap tap(c, 0);
  for (int64_t t = 0; t < c.taps(); ++t, tap.next(c), to += to_row) {
    const T* cell = from;
    for (int axis = 0; axis < kSpatial; ++axis) cell += tap.at[axis] * c.weight.spatial[axis];
    transpose(cell, 0, lane_step, 1, lanes, to, 0);
  }
}

// Those of wider groups as [vector of the result's channels][tap][step][lane].
template <typename T>
void pack_group_filters(const ConvolutionForward<T>& p, const Depthwise& cut, int64_t g0,
                        int64_t g1) {
  constexpr int64_t kLanes = Vec<Sum<T>>::kLanes;
  const Convolution& c = p.shape;
  const FilterStrides& s = c.weight;
  const int64_t taps = c.taps(), tap_step = depthwise_tap<T>(cut), steps = tap_step / kLanes;
  const int64_t members = cut.width / steps;  // of a step
  const int64_t lane_step = cut.gradient ? s.c : s.k, sum_step = cut.gradient ? s.k : s.c;
  // Lanes whose weights are evenly apart.
  const bool all = cut.width >= kLanes || s.g == cut.width * lane_step;
  const int64_t even = all ? kLanes : cut.width;
  for (int64_t i = g0 / kLanes * cut.weights; i < g1 / kLanes * cut.weights; ++i) p.packed[i] = 0;
  for (int64_t i = g0; i < g1 && i < c.G; i += even) {
    const int64_t lanes = c.G - i < even ? c.G - i : even;
    const T* const from = p.weight + i / cut.width * s.g + i % cut.width * lane_step;
    Sum<T>* const to = p.packed + i / kLanes * taps * tap_step + i % kLanes;
    for (int64_t m = 0; m < cut.width; ++m) {
      if constexpr (std::is_same_v<T, Sum<T>>) {
        gather_taps(c, from + m * sum_step, lane_step, lanes, to + m * kLanes, tap_step);
      } else {
        T cells[kDirectTaps * kLanes];
        gather_taps(c, from + m * sum_step, lane_step, lanes, cells, kLanes);
        for (int64_t t = 0; t < taps; ++t) {
          char* const pair = reinterpret_cast<char*>(to + t * tap_step + m / members * kLanes) +
                             m % members * sizeof(T);
          for (int64_t lane = 0; lane < lanes; ++lane) {
            __builtin_memcpy(pair + lane * sizeof *to, cells + t * kLanes + lane, sizeof(T));
          }
        }
      }
    }
  }
}

// Vectors first <= i < last.
template <typename T>
void pack_depthwise(const ConvolutionForward<T>& p, const Depthwise& cut, int64_t first,
                    int64_t last) {
  constexpr int64_t kLanes = Vec<Sum<T>>::kLanes;
  if (cut.width > 1) return pack_group_filters(p, cut, first * kLanes, last * kLanes);
  pack_depthwise_filters(p, first * kLanes, last * kLanes);
}

// to[i * to_step] = bias + the sum over the taps of weight * from[tap + i * step], for i < Pixels,
// of neighbouring vectors.
template <typename T, int Pixels, int Vectors>
inline __attribute__((always_inline)) void depthwise_vectors(
    const DepthwiseTap* taps, int64_t tap_count, const T* from, int64_t step, const Sum<T>* weights,
    int64_t weights_step, const Sum<T>* bias, bool relu, T* to, int64_t to_step) {
  using V = Vec<Sum<T>>;
  using Cells = Neighbours<T, Vectors>;
  Cells sum[Pixels], start;
#pragma GCC unroll 2
  for (int v = 0; v < Vectors; ++v) start.at[v] = V::zero();
  if (bias != nullptr) start = Cells::load_sums(bias);
#pragma GCC unroll 8
  for (int i = 0; i < Pixels; ++i) sum[i] = start;
  for (const DepthwiseTap* tap = taps; tap < taps + tap_count; ++tap) {
    V weight[Vectors];
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; ++v) weight[v] = V::load(weights + v * weights_step + tap->weight);
    const T* cell = from + tap->cells;
#pragma GCC unroll 8
    for (int i = 0; i < Pixels; ++i) {
      const Cells cells = Cells::load(cell + i * step);
#pragma GCC unroll 2
      for (int v = 0; v < Vectors; ++v) {
        sum[i].at[v] = sum[i].at[v].fused_add(weight[v], cells.at[v]);
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < Pixels; ++i) {
#pragma GCC unroll 2
    for (int v = 0; relu && v < Vectors; ++v) sum[i].at[v] = sum[i].at[v].rectified();
    sum[i].store(to + i * to_step);
  }
}

// The same of any number of vectors.
template <typename T, int Pixels>
void depthwise_pixels(const DepthwiseRun<T>& run) {
  constexpr int64_t kLanes = Vec<Sum<T>>::kLanes, kAtOnce = kVectorsAtOnce * kLanes;
  const Sum<T>*weights = run.weights, *bias = run.bias;
  const T* from = run.from;
  T* to = run.to;
  int64_t vectors = run.channels / kLanes;
  for (; vectors >= kVectorsAtOnce; vectors -= kVectorsAtOnce, from += kAtOnce, to += kAtOnce) {
    depthwise_vectors<T, Pixels, kVectorsAtOnce>(run.taps, run.tap_count, from, run.step, weights,
                                                 run.weights_vector, bias, run.relu, to,
                                                 run.to_step);
    weights += kVectorsAtOnce * run.weights_vector;
    if (bias != nullptr) bias += kAtOnce;
  }
  if (vectors > 0) {
    depthwise_vectors<T, Pixels, 1>(run.taps, run.tap_count, from, run.step, weights,
                                    run.weights_vector, bias, run.relu, to, run.to_step);
  }
}

// Tasks first <= i < last of a cut in place.
template <typename T>
void depthwise_in_place(const ConvolutionForward<T>& p, const Depthwise& cut, int64_t first,
                        int64_t last) {
  constexpr int64_t kLanes = Vec<Sum<T>>::kLanes;
  const Convolution& c = p.shape;
  const DepthwisePass pass{c, cut.gradient};
  const int64_t phases = cut.gradient ? c.stride[2] : 1, tap_step = depthwise_tap<T>(cut);
  const int64_t from_step = pass.step(2) * pass.from().spatial[2];
  const int64_t from_row = pass.step(1) * pass.from().spatial[1];
  const int64_t to_step = phases * pass.to().spatial[2], to_row = pass.to().spatial[1];
  DepthwiseTap list[kDirectTaps], inner[kDirectTaps], edge[kDirectTaps];
  int64_t columns[kDirectTaps];
  static constexpr RunKernel<T> kDepthwise[kPixelsAtOnce] = {
      depthwise_pixels<T, 1>, depthwise_pixels<T, 2>, depthwise_pixels<T, 3>,
      depthwise_pixels<T, 4>, depthwise_pixels<T, 5>, depthwise_pixels<T, 6>,
      depthwise_pixels<T, 7>, depthwise_pixels<T, 8>};
  const RunKernel<T>* by_pixels =
      cut.width == 1 ? kDepthwise : group_kernels<T>(cut.width).by_pixels;
  DepthwiseRun<T> run{};
  run.from_vector = run.to_vector = kLanes;
  run.weights_vector = cut.weights;
  run.relu = c.relu;
  for (int64_t task = first; task < last; ++task) {
    const DepthwiseBlock at(pass, cut, kLanes, task / cut.maps(c), task % cut.maps(c));
    const T* const source = p.input + at.n * pass.from().n + at.g;
    T* const map = p.output + at.n * pass.to().n + at.depth * pass.to().spatial[0] + at.g;
    run.weights = p.packed + at.g / kLanes * cut.weights;
    run.bias = p.bias == nullptr ? nullptr : p.bias + at.g;
    run.channels = at.channels();
    for (int64_t y = at.p0, next; y < at.p1; y = next) {
      next = rows_alike(pass, y, at.p1);
      for (int64_t phase = 0; phase < phases && phase < at.q1 - at.q0; ++phase) {
        const int64_t q = at.q0 + phase, cells = divide_up(at.q1 - q, phases);
        const DepthwiseReach reach =
            depthwise_taps_in_place(pass, tap_step, at.depth, y, q, cells, list, columns);
        T* const to = map + y * to_row + q * pass.to().spatial[2];
        run.taps = inner;
        run.tap_count = reach.count;
        for (int64_t t = 0; t < reach.count; ++t) inner[t] = list[t];
        run.triples = cut.width > 1 ? put_triples_first(inner, reach.count, from_step) : 0;
        run.step = from_step;
        run.to_step = to_step;
        for (int64_t row = 0; row < next - y; ++row) {
          run.from = source + row * from_row + reach.first * from_step;
          run.to = to + row * to_row + reach.first * to_step;
          convolve_run(by_pixels, run, reach.last - reach.first);
        }
        // The edges, down the rows.
        run.taps = edge;
        run.triples = 0;
        run.step = from_row;
        run.to_step = to_row;
        for (int64_t j = 0; j < cells; ++j) {
          if (j == reach.first && reach.first < reach.last) j = reach.last;
          if (j == cells) break;
          run.tap_count = taps_inside(pass, list, columns, reach.count, j, edge);
          run.from = source + j * from_step;
          run.to = to + j * to_step;
          convolve_run(by_pixels, run, next - y);
        }
      }
    }
  }
}

// to[j * to_step] = bias + the sum over the taps of weight * cells[j * step], for j < count. Not
// inlined, or the variables of its caller would take its registers.
template <typename T>
__attribute__((noinline)) void depthwise_cells(const DepthwiseTap* taps, int64_t tap_count,
                                               const T* cells, int64_t step, const T* weights,
                                               Vec<T> bias, bool relu, int64_t count, T* to,
                                               int64_t to_step) {
  using V = Vec<T>;
  for (int64_t j = 0; j < count; j += kPixelsAtOnce) {
    V sum[kPixelsAtOnce];
#pragma GCC unroll 8
    for (int i = 0; i < kPixelsAtOnce; ++i) sum[i] = bias;
    for (const DepthwiseTap* tap = taps; tap < taps + tap_count; ++tap) {
      const V weight = V::load(weights + tap->weight);
      const T* from = cells + tap->cells + j * step;
#pragma GCC unroll 8
      for (int i = 0; i < kPixelsAtOnce; ++i) {
        sum[i] = sum[i].fused_add(weight, V::load(from + i * step));
      }
    }
    if (relu) {
#pragma GCC unroll 8
      for (int i = 0; i < kPixelsAtOnce; ++i) sum[i] = sum[i].rectified();
    }
#pragma GCC unroll 8
    for (int i = 0; i < kPixelsAtOnce; ++i) {
      if (j + i < count) sum[i].store(to + (j + i) * to_step);
    }
  }
}

// The same of any other cut, whose rows are kept in the workspace.
template <typename T>
void depthwise_by_rows(const ConvolutionForward<T>& p, const Depthwise& cut, int64_t first,
                       int64_t last, T* workspace) {
  using V = Vec<T>;
  constexpr int64_t kLanes = V::kLanes;
  const Convolution& c = p.shape;
  const DepthwisePass pass{c, cut.gradient};
  const FeatureMapStrides& s = pass.to();
  const int64_t phases = cut.gradient ? c.stride[2] : 1, tap_step = depthwise_tap<T>(cut);
  const int64_t step = pass.step(2) * kLanes, taps = c.taps();
  T* const lines = workspace + cut.vectors * cut.vector + cut.slack;
  for (int64_t i = 0; i < cut.vectors * cut.vector + cut.slack; ++i) workspace[i] = T(0);
  DepthwiseTap list[kRowsAtOnce][kDirectTaps];
  for (int64_t task = first; task < last; ++task) {
    const DepthwiseBlock at(pass, cut, kLanes, task % cut.blocks, task / cut.blocks);
    DepthwiseRows<T> rows(pass, cut, at, p.input, workspace);
    // Full vectors of groups that lie together are written where they belong.
    const int64_t in_place = s.g == 1 ? at.full : 0, columns = at.q1 - at.q0;
    for (int64_t y = at.p0; y < at.p1; y += cut.at_once) {
      const int64_t count = at.p1 - y < cut.at_once ? at.p1 - y : cut.at_once;
      rows.go_to(y, y + count);
      T* const to = p.output + at.n * s.n + at.g * s.g + at.depth * s.spatial[0] +
                    y * s.spatial[1] + at.q0 * s.spatial[2];
      for (int64_t phase = 0; phase < phases && phase < columns; ++phase) {
        // The source cells of a phase follow one another.
        int64_t met[kRowsAtOnce];
        for (int64_t i = 0; i < count; ++i) {
          met[i] = depthwise_taps(rows, tap_step, y + i, at.q0 + phase, list[i]);
        }
        for (int64_t i = 0; cut.width > 1 && i < count; ++i) {
          const int64_t triples = put_triples_first(list[i], met[i], step);
          DepthwiseRun<T> run{list[i], met[i], triples, workspace, cut.vector, step};
          run.weights = p.packed + at.g / kLanes * cut.weights;
          run.weights_vector = cut.weights;
          run.bias = p.bias == nullptr ? nullptr : p.bias + at.g;
          run.relu = c.relu;
          const int64_t cells = divide_up(columns - phase, phases);
          const RunKernel<T>* by_pixels = group_kernels<T>(cut.width).by_pixels;
          if (in_place > 0) {
            run.channels = in_place * kLanes;
            run.to = to + i * s.spatial[1] + phase * s.spatial[2];
            run.to_vector = kLanes;
            run.to_step = phases * s.spatial[2];
            convolve_run(by_pixels, run, cells);
          }
          run.channels = at.channels() - in_place * kLanes;
          run.from += in_place * cut.vector;
          run.weights += in_place * run.weights_vector;
          if (p.bias != nullptr) run.bias += in_place * kLanes;
          run.to = lines + in_place * cut.lines + (i * columns + phase) * kLanes;
          run.to_vector = cut.lines;
          run.to_step = phases * kLanes;
          convolve_run(by_pixels, run, cells);
        }
        for (int64_t v = 0; cut.width == 1 && v < at.vectors; ++v) {
          T* const row = v < in_place ? to + v * kLanes : lines + v * cut.lines;
          const int64_t cell = v < in_place ? s.spatial[2] : kLanes;
          const int64_t next_row = v < in_place ? s.spatial[1] : columns * kLanes;
          const int64_t g = at.g + v * kLanes;
          V bias = V::zero();
          if (p.bias != nullptr) bias = V::load(p.bias + g, V::Mask::range(0, at.lanes(v)));
          for (int64_t i = 0; i < count; ++i) {
            depthwise_cells<T>(list[i], met[i], workspace + v * cut.vector, step,
                               p.packed + g * taps, bias, c.relu,
                               divide_up(columns - phase, phases),
                               row + i * next_row + phase * cell, phases * cell);
          }
        }
      }
      const bool one = s.spatial[1] == columns * s.spatial[2];  // the rows follow one another
      for (int64_t v = in_place; v < at.vectors; ++v) {
        for (int64_t i = 0; i < (one ? 1 : count); ++i) {
          scatter_lanes(lines + v * cut.lines + i * columns * kLanes, kLanes,
                        one ? count * columns : columns, to + v * kLanes * s.g + i * s.spatial[1],
                        s.g, at.lanes(v), s.spatial[2]);
        }
      }
    }
  }
}

// Tasks first <= i < last. For the input gradient p.input is that of the output, and p.output that
// of the input. workspace: depthwise_workspace elements. bfloat16 is served in place alone.
template <typename T>
void depthwise(const ConvolutionForward<T>& p, const Depthwise& cut, int64_t first, int64_t last,
               Sum<T>* workspace) {
  CNN_EXT_CHECK_TASKS(first, last, cut.tasks(p.shape));
  CNN_EXT_CHECK_ALIGNED(workspace);
  if (cut.in_place) return depthwise_in_place(p, cut, first, last);
  if constexpr (std::is_same_v<T, Sum<T>>) depthwise_by_rows(p, cut, first, last, workspace);
}

// sums[tap] += the sum over a row of gradients * cells, for `Taps` taps of neighbouring vectors of
// groups, whose sums are sums_step apart.
template <typename T, int Vectors, int Taps>
void add_products(const DepthwiseTap* taps, const T* gradients, int64_t gradient_step,
                  int64_t count, const T* cells, int64_t step, Sum<T>* sums, int64_t sums_step) {
  using V = Vec<Sum<T>>;
  V sum[Taps][Vectors];
  const T* from[Taps];
#pragma GCC unroll 16
  for (int t = 0; t < Taps; ++t) {
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; ++v) sum[t][v] = V::zero();
    from[t] = cells + taps[t].cells;
  }
  for (int64_t j = 0, at = 0; j < count; ++j, at += step, gradients += gradient_step) {
    const auto gradient = Neighbours<T, Vectors>::load(gradients);
#pragma GCC unroll 16
    for (int t = 0; t < Taps; ++t) {
      const auto cell = Neighbours<T, Vectors>::load(from[t] + at);
#pragma GCC unroll 2
      for (int v = 0; v < Vectors; ++v) {
        sum[t][v] = sum[t][v].fused_add(gradient.at[v], cell.at[v]);
      }
    }
  }
#pragma GCC unroll 16
  for (int t = 0; t < Taps; ++t) {
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; ++v) {
      Sum<T>* const to = sums + v * sums_step + taps[t].weight;
      sum[t][v].lanes += V::load(to).lanes;
      sum[t][v].store(to);
    }
  }
}

// Any number of taps, in parts as equal as can be.
template <typename T, int Vectors = 1>
void add_products(const DepthwiseTap* taps, int64_t tap_count, const T* gradients,
                  int64_t gradient_step, int64_t count, const T* cells, int64_t step, Sum<T>* sums,
                  int64_t sums_step = 0) {
  using Function = void (*)(const DepthwiseTap*, const T*, int64_t, int64_t, const T*, int64_t,
                            Sum<T>*, int64_t);
  static constexpr Function kByTaps[kTapsAtOnce] = {
      add_products<T, Vectors, 1>, add_products<T, Vectors, 2>, add_products<T, Vectors, 3>,
      add_products<T, Vectors, 4>, add_products<T, Vectors, 5>, add_products<T, Vectors, 6>,
      add_products<T, Vectors, 7>, add_products<T, Vectors, 8>, add_products<T, Vectors, 9>};
  const int64_t parts = divide_up(tap_count, kTapsAtOnce);
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t t0 = part * tap_count / parts, t1 = (part + 1) * tap_count / parts;
    kByTaps[t1 - t0 - 1](taps + t0, gradients, gradient_step, count, cells, step, sums, sums_step);
  }
}

// Vectors of neighbouring groups, as many as there are, whose sums are `sums_step` apart.
template <typename T>
void add_products_of_all(const DepthwiseTap* taps, int64_t tap_count, const T* gradients,
                         int64_t gradient_step, int64_t count, const T* cells, int64_t step,
                         Sum<T>* sums, int64_t sums_step, int64_t vectors) {
  constexpr int64_t kAtOnce = kVectorsAtOnce * Vec<Sum<T>>::kLanes;
  for (; vectors >= kVectorsAtOnce; vectors -= kVectorsAtOnce) {
    add_products<T, kVectorsAtOnce>(taps, tap_count, gradients, gradient_step, count, cells, step,
                                    sums, sums_step);
    gradients += kAtOnce;
    cells += kAtOnce;
    sums += kVectorsAtOnce * sums_step;
  }
  if (vectors > 0) {
    add_products<T, 1>(taps, tap_count, gradients, gradient_step, count, cells, step, sums,
                       sums_step);
  }
}

// The same of rows that have the same taps, and of groups of any width.
template <typename T>
void add_products_of_rows(int64_t width, GroupProducts<T> p, const DepthwiseTap* taps) {
  if (width == 1) {
    for (int64_t row = 0; row < p.rows; ++row) {
      add_products_of_all(taps, p.tap_count, p.gradients + row * p.gradient_row, p.gradient_step,
                          p.count, p.cells + row * p.cells_row, p.step, p.sums, p.sums_vector,
                          p.vectors);
    }
    return;
  }
  DepthwiseTap list[kDirectTaps];
  for (int64_t t = 0; t < p.tap_count; ++t) list[t] = taps[t];
  p.taps = list;
  p.triples = put_triples_first(list, p.tap_count, p.step);
  group_kernels<T>(width).add_products(p);
}

// The sums of one share of the maps, in place: sums[v][tap][lane].
template <typename T>
void add_products_in_place(const ConvolutionWeightGradient<T>& p, const Depthwise& cut,
                           const DepthwisePass& pass, const DepthwiseBlock& at, Sum<T>* sums) {
  constexpr int64_t kLanes = Vec<Sum<T>>::kLanes;
  const Convolution& c = p.shape;
  const int64_t tap_step = cut.width * kLanes;
  const int64_t step = c.stride[2] * c.input.spatial[2], gradient_step = c.output.spatial[2];
  const int64_t source_row = c.stride[1] * c.input.spatial[1], gradient_row = c.output.spatial[1];
  const T* const source = p.input + at.n * c.input.n + at.g;
  DepthwiseTap list[kDirectTaps], edge[kDirectTaps];
  int64_t columns[kDirectTaps];
  const int64_t cells = at.q1 - at.q0;
  for (int64_t y = at.p0, next; y < at.p1; y = next) {
    next = rows_alike(pass, y, at.p1);
    const DepthwiseReach reach =
        depthwise_taps_in_place(pass, tap_step, at.depth, y, at.q0, cells, list, columns);
    const T* const gradients = p.grad_output + at.n * c.output.n + at.depth * c.output.spatial[0] +
                               y * gradient_row + at.q0 * gradient_step + at.g;
    GroupProducts<T> row{};
    row.tap_count = reach.count;
    row.gradients = gradients + reach.first * gradient_step;
    row.gradient_vector = row.cells_vector = kLanes;
    row.gradient_step = gradient_step;
    row.gradient_row = gradient_row;
    row.cells = source + reach.first * step;
    row.step = step;
    row.cells_row = source_row;
    row.count = reach.last - reach.first;
    row.rows = next - y;
    row.sums = sums;
    row.sums_vector = c.taps() * tap_step;
    row.vectors = at.vectors;
    if (row.count > 0) add_products_of_rows(cut.width, row, list);
    // The edges, down the rows.
    row.gradient_step = gradient_row;
    row.step = source_row;
    row.count = next - y;
    row.rows = 1;
    for (int64_t j = 0; j < cells; ++j) {
      if (j == reach.first && reach.first < reach.last) j = reach.last;
      if (j == cells) break;
      row.tap_count = taps_inside(pass, list, columns, reach.count, j, edge);
      row.gradients = gradients + j * gradient_step;
      row.cells = source + j * step;
      add_products_of_rows(cut.width, row, edge);
    }
  }
}

// The same of any other cut, whose rows are kept in the workspace.
template <typename T>
void add_products_by_rows(const ConvolutionWeightGradient<T>& p, const Depthwise& cut,
                          const DepthwisePass& pass, const DepthwiseBlock& at, T* workspace,
                          T* sums) {
  constexpr int64_t kLanes = Vec<T>::kLanes;
  const Convolution& c = p.shape;
  const FeatureMapStrides& s = c.output;
  const int64_t taps = c.taps(), step = c.stride[2] * kLanes, tap_step = cut.width * kLanes;
  T* const lines = workspace + cut.vectors * cut.vector + cut.slack;
  DepthwiseTap list[kRowsAtOnce][kDirectTaps];
  DepthwiseRows<T> rows(pass, cut, at, p.input, workspace);
  const int64_t in_place = s.g == 1 ? at.full : 0, columns = at.q1 - at.q0;
  for (int64_t y = at.p0; y < at.p1; y += cut.at_once) {
    const int64_t count = at.p1 - y < cut.at_once ? at.p1 - y : cut.at_once;
    rows.go_to(y, y + count);
    for (int64_t i = 0; i < count; ++i) depthwise_taps(rows, tap_step, y + i, at.q0, list[i]);
    const T* from = p.grad_output + at.n * s.n + at.g * s.g + at.depth * s.spatial[0] +
                    y * s.spatial[1] + at.q0 * s.spatial[2];
    const bool one = s.spatial[1] == columns * s.spatial[2];  // the rows follow one another
    for (int64_t v = 0; v < at.vectors; ++v) {
      T* const line = lines + v * cut.lines;
      const T* gradients = v < in_place ? from + v * kLanes : line;
      const int64_t cell = v < in_place ? s.spatial[2] : kLanes;
      const int64_t next_row = v < in_place ? s.spatial[1] : columns * kLanes;
      for (int64_t i = 0; v >= in_place && i < (one ? 1 : count); ++i) {
        gather_lanes(from + v * kLanes * s.g + i * s.spatial[1], s.g, at.lanes(v), s.spatial[2],
                     one ? count * columns : columns, line + i * columns * kLanes, kLanes);
      }
      for (int64_t i = 0; cut.width == 1 && i < count; ++i) {
        add_products(list[i], taps, gradients + i * next_row, cell, columns,
                     workspace + v * cut.vector, step, sums + v * taps * kLanes);
      }
    }
    for (int64_t i = 0; cut.width > 1 && i < count; ++i) {
      const int64_t triples = put_triples_first(list[i], taps, step);
      GroupProducts<T> row{};
      row.taps = list[i];
      row.tap_count = taps;
      row.triples = triples;
      row.gradients = from + i * s.spatial[1];
      row.gradient_vector = kLanes;
      row.gradient_step = s.spatial[2];
      row.cells = workspace;
      row.cells_vector = cut.vector;
      row.step = step;
      row.count = columns;
      row.rows = 1;
      row.sums = sums;
      row.sums_vector = taps * tap_step;
      row.vectors = in_place;
      const auto add = group_kernels<T>(cut.width).add_products;
      add(row);
      row.gradients = lines + in_place * cut.lines + i * columns * kLanes;
      row.gradient_vector = cut.lines;
      row.gradient_step = kLanes;
      row.cells += in_place * cut.vector;
      row.sums += in_place * row.sums_vector;
      row.vectors = at.vectors - in_place;
      add(row);
    }
  }
}

// The sums of a block of channels from g0, to their place.
template <typename T>
void store_depthwise_sums(const ConvolutionWeightGradient<T>& p, const Depthwise& cut,
                          int64_t split, int64_t g0, const Sum<T>* sums) {
  constexpr int64_t kLanes = Vec<Sum<T>>::kLanes;
  const Convolution& c = p.shape;
  const FilterStrides& s = c.weight;
  const int64_t taps = c.taps(), tap_step = cut.width * kLanes;
  const int64_t end = c.G - g0 < cut.vectors * kLanes ? c.G : g0 + cut.vectors * kLanes;
  Sum<T>* const to = p.grad_weight + split * p.split_stride;
  const bool in_order = std::is_same_v<T, Sum<T>> || cut.width > 1;  // of the lanes
  const int64_t filter = s.g / cut.width;
  if (in_order && step_of_taps(c) == 1 && (cut.width == 1 || filter == s.k)) {
    for (int64_t g = g0; g < end; g += kLanes, sums += taps * tap_step) {
      for (int64_t m = 0; m < cut.width; ++m) {
        scatter_lanes(sums + m * kLanes, tap_step, taps, to + g * filter + m * s.c, filter,
                      end - g < kLanes ? end - g : kLanes, 1);
      }
    }
    return;
  }
  for (int64_t g = g0; g < end; ++g) {
    const Sum<T>* sum = sums + depthwise_place<T>(c, cut.width, g, taps * tap_step) -
                        depthwise_place<T>(c, cut.width, g0, taps * tap_step);
    Tap tap(c, 0);
    for (int64_t t = 0; t < taps; ++t, tap.next(c), sum += tap_step) {
      Sum<T>* cell = to + g / cut.width * s.g + g % cut.width * s.k;
      for (int axis = 0; axis < kSpatial; ++axis) cell += tap.at[axis] * s.spatial[axis];
      for (int64_t m = 0; m < cut.width; ++m) cell[m * s.c] = sum[m * kLanes];
    }
  }
}

// Tasks first <= i < last: a block of groups, and 1 / splits of its maps.
template <typename T>
void depthwise_weight_gradient(const ConvolutionWeightGradient<T>& p, const Depthwise& cut,
                               int64_t first, int64_t last, Sum<T>* workspace) {
  CNN_EXT_CHECK_TASKS(first, last, cut.blocks * cut.splits);
  CNN_EXT_CHECK_ALIGNED(workspace);
  constexpr int64_t kLanes = Vec<Sum<T>>::kLanes;
  const Convolution& c = p.shape;
  const DepthwisePass pass{c, false};
  const int64_t taps = c.taps(), tap_step = cut.width * kLanes;
  Sum<T>* const sums = workspace + cut.vectors * (cut.vector + cut.lines) + cut.slack;
  for (int64_t task = first; task < last; ++task) {
    const int64_t block = task / cut.splits, split = task % cut.splits, maps = cut.maps(c);
    for (int64_t i = 0; i < cut.vectors * taps * tap_step; ++i) sums[i] = 0;
    for (int64_t map = split * maps / cut.splits; map < (split + 1) * maps / cut.splits; ++map) {
      const DepthwiseBlock at(pass, cut, kLanes, block, map);
      if (cut.in_place) {
        add_products_in_place(p, cut, pass, at, sums);
      } else if constexpr (std::is_same_v<T, Sum<T>>) {
        add_products_by_rows(p, cut, pass, at, workspace, sums);
      }
    }
    store_depthwise_sums(p, cut, split, block * cut.vectors * kLanes, sums);
  }
}
