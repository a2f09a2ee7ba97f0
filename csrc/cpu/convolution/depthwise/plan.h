// How depthwise convolution is cut into tasks, and which cells of the source a result cell meets.
// Included by isa/ (see vec.h).
#pragma once

#include "../pack.h"

// Quotient and remainder that round down; b > 0.
inline int64_t divide_down(int64_t a, int64_t b) { return a >= 0 ? a / b : -divide_up(-a, b); }
inline int64_t remainder_down(int64_t a, int64_t b) { return a - divide_down(a, b) * b; }

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

// Cuts `all` vectors into about so many blocks. No group is cut in two, nor vectors that are
// multiplied together.
template <typename T>
void cut_vectors(Depthwise& cut, int64_t all, int64_t blocks) {
  int64_t together = divide_up(cut.width, Vec<Sum<T>>::kLanes);
  if (cut.in_place && together < kVectorsAtOnce) together = kVectorsAtOnce;
  cut.vectors = round_up(divide_up(all, blocks), together);
  cut.blocks = divide_up(all, cut.vectors);
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
  cut_vectors<T>(cut, all, cut.blocks);
  cut.lines = cut.at_once * cut.columns * kLanes;
  cut.slack = kPixelsAtOnce * pass.step(2) * kLanes;
  if (cut.in_place) cut.vector = cut.lines = cut.slack = 0;
  cut.splits = parts_of_sum(shape, cut.blocks, kPartRows * result[2]);
  int64_t row_blocks = divide_up(cut.splits, c.N * result[0] * cut.column_blocks);
  if (cut.in_place) {
    const int64_t cells = c.stride[1] * c.in[2] + c.out[2];  // of both maps, to a row of the result
    int64_t rows = kDepthwiseSlab / (cells * cut.vectors * kLanes);
    if (rows < kRowsAtOnce) rows = kRowsAtOnce;
    if (row_blocks * rows < result[1]) row_blocks = divide_up(result[1], rows);
  }
  cut_rows(cut, result[1], row_blocks);
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

// Cuts the vectors of a weight gradient, where its parts are fewer than the threads.
template <typename T>
void schedule_depthwise_gradient(const Convolution& shape, Depthwise& cut, int64_t threads) {
  if (cut.blocks * cut.splits >= threads) return;
  const int64_t all = divide_up(groups_of_one(shape).G, Vec<Sum<T>>::kLanes);
  const int64_t blocks = divide_up(threads, cut.splits);
  cut_vectors<T>(cut, all, blocks < all ? blocks : all);
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
