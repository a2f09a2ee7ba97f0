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

#include "filters.h"
#include "rows.h"

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
