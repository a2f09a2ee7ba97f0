// The weight gradient of depthwise convolution and of narrow groups. Included by isa/ (see vec.h).
#pragma once

#include "filters.h"
#include "rows.h"

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
