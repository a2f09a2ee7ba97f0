// Winograd's convolution F(m x m, r x r) with m + r = 7: m x m output cells of one channel for 36
// multiplications where the direct sum takes m^2 r^2 (Winograd 1980; Lavin and Gray 2016). Filters
// and tiles are carried to 6 x 6 cells, multiplied as 36 matrix products over the channels, and the
// sums carried back. Included by isa/ (see vec.h).
//
// The points are 0, +-sqrt(1/2), +-sqrt(2) and infinity: float32 errors half those of the
// textbook's 0, +-1, +-2. As m + r is the same for all, one transform of input tiles serves 3 x 3
// filters (m = 4), 5 x 5 filters (m = 2) and their weight gradients, where the r cells are the
// outputs and the gradient's m x m tile plays the filter. docs/convolution.md derives it.
#pragma once

#include "../../gemm.h"

constexpr int kSide = 6;  // cells of a transformed tile along each axis
static_assert(kSide * kSide == kTileCells);
constexpr int64_t kStripCells = kStripTiles * 4 + 2;

// One axis of the transforms, over vectors of channels. `spread` is B^T d, `evaluate` G g, and
// `collect` A^T s.

template <typename T>
struct Points {
  static constexpr T kNear = T(0.70710678118654752440), kFar = T(1.41421356237309504880);
};

template <typename T, typename V>
inline void spread(const V* d, V* to) {
  using P = Points<T>;
  const V near_even = d[4] - T(2) * d[2], near_odd = d[3] - T(2) * d[1];
  const V far_even = d[4] - T(0.5) * d[2], far_odd = d[3] - T(0.5) * d[1];
  const V first = d[0] - T(2.5) * d[2] + d[4], last = d[1] - T(2.5) * d[3] + d[5];
  to[0] = first;
  to[1] = near_even + P::kNear * near_odd;
  to[2] = near_even - P::kNear * near_odd;
  to[3] = far_even + P::kFar * far_odd;
  to[4] = far_even - P::kFar * far_odd;
  to[5] = last;
}

template <typename T, int Count, typename V>
inline void evaluate(const V* g, V* to) {
  using P = Points<T>;
  V near_even = g[0], near_odd = g[1], far_even = g[0], far_odd = g[1];
  if constexpr (Count > 2) {
    near_even += T(0.5) * g[2];
    far_even += T(2) * g[2];
  }
  if constexpr (Count > 3) {
    near_odd += T(0.5) * g[3];
    far_odd += T(2) * g[3];
  }
  if constexpr (Count > 4) {
    near_even += T(0.25) * g[4];
    far_even += T(4) * g[4];
  }
  near_even *= T(-2) / T(3);
  far_even *= T(1) / T(6);
  const V first = g[0], last = g[Count - 1];
  to[0] = first;
  to[1] = near_even - (P::kNear * T(2) / T(3)) * near_odd;
  to[2] = near_even + (P::kNear * T(2) / T(3)) * near_odd;
  to[3] = far_even + (P::kFar / T(6)) * far_odd;
  to[4] = far_even - (P::kFar / T(6)) * far_odd;
  to[5] = last;
}

template <typename T, int Count, typename V>
inline void collect(const V* s, V* to) {
  using P = Points<T>;
  const V near_sum = s[1] + s[2], near_difference = P::kNear * (s[1] - s[2]);
  const V far_sum = s[3] + s[4], far_difference = P::kFar * (s[3] - s[4]);
  const V last = s[5];
  to[0] = s[0] + near_sum + far_sum;
  to[1] = near_difference + far_difference;
  if constexpr (Count > 2) to[2] = T(0.5) * near_sum + T(2) * far_sum;
  if constexpr (Count > 3) to[3] = T(0.5) * near_difference + T(2) * far_difference;
  if constexpr (Count > 4) to[4] = T(0.25) * near_sum + T(4) * far_sum;
  to[Count - 1] += last;
}

// Lays out blocks of so many tiles, from `begin` to `end`.
template <typename T>
void lay_blocks(const Convolution& shape, int64_t block, Winograd& plan) {
  constexpr int64_t kLanes = Vec<T>::kLanes, kCols = Tile<T>::kCols;
  plan.block = block;
  plan.blocks = divide_up(plan.end - plan.begin, block);
  plan.panels = divide_up(shape.K, kCols);
  // Some elements more than the data take: 36 streams must not fall into the same cache sets.
  plan.filter_cell = shape.C * kCols + kLanes;
  plan.channel_row = round_up(shape.C, kLanes) + kLanes;
  plan.channel_cell = plan.block * plan.channel_row + kLanes;
  plan.panel_cell = plan.block * kCols + kLanes;
  plan.sums_cell = shape.C * kCols + kLanes;
}

// Cuts the tiles of the whole batch into blocks of about `most_tiles`, which are rows of the
// products; where there are as many blocks as threads, each thread gets as many.
template <typename T>
Winograd plan_winograd(const Convolution& shape, int64_t most_tiles, int64_t threads) {
  Winograd plan{};
  lay_tiles(shape, plan);
  plan.end = plan.tiles();
  int64_t blocks = divide_up(plan.tiles(), round_up(most_tiles, Tile<T>::kRows));
  if (blocks >= threads) blocks = round_up(blocks, threads);
  lay_blocks<T>(shape, divide_up(plan.tiles(), blocks), plan);
  return plan;
}

// The same for a part of a weight gradient. Tiles are added to its sums `step` at a time whatever
// the block, so that the blocks do not change a sum. Steps and blocks are equal in all parts.
template <typename T>
Winograd plan_winograd_gradient(const Convolution& shape, int64_t most_tiles, int64_t part,
                                int64_t parts) {
  Winograd plan{};
  lay_tiles(shape, plan);
  plan.begin = part * plan.tiles() / parts;
  plan.end = (part + 1) * plan.tiles() / parts;
  const int64_t longest = divide_up(plan.tiles(), parts), steps = divide_up(longest, kTileBlock);
  plan.step = divide_up(longest, steps);
  const int64_t in_block = (most_tiles + plan.step / 2) / plan.step;
  const int64_t blocks = divide_up(steps, in_block > 1 ? in_block : 1);
  lay_blocks<T>(shape, divide_up(steps, blocks) * plan.step, plan);
  return plan;
}

// How many vectors hold so many channels.
template <typename T>
int64_t vectors(int64_t channels) {
  return divide_up(channels, Vec<T>::kLanes);
}

// The images of a batch on the plane of tiles: one feature map of one group.
struct Plane {
  const TileAxis* axis;
  int64_t N, size[2], n, y, x, c;  // sizes and strides
};

template <typename T>
inline Plane plane_of(const Convolution& shape, const Winograd& plan, bool output) {
  const FeatureMapStrides& s = output ? shape.output : shape.input;
  const int64_t* size = output ? shape.out : shape.in;
  return {plan.axis, shape.N, {size[1], size[2]}, s.n, s.spatial[1], s.spatial[2], s.c};
}

// A cell's place along one axis: its image there, and its index in that image or how far it is from
// the next image's first cell.
struct Place {
  int64_t image, index;
};

inline Place place_on(const TileAxis& axis, int64_t cell) {
  const int64_t image = cell < 0 ? -1 : cell / axis.period;
  return {image, cell - image * axis.period};
}

// One row of cells of `lanes` channels, from the plane to strip[cell][lane] or back; cells outside
// the images read zero and are not written.
template <typename T, bool Write>
inline void move_row(const Plane& plane, int64_t y, int64_t x, int64_t cells, int64_t lanes,
                     std::conditional_t<Write, T*, const T*> map,
                     std::conditional_t<Write, const T*, T*> strip) {
  constexpr int64_t kLanes = Vec<T>::kLanes;
  const Place row = place_on(plane.axis[0], y);
  const bool inside =
      row.image >= 0 && row.image < plane.axis[0].images && row.index < plane.size[0];
  for (int64_t j = 0; j < cells;) {
    const Place at = place_on(plane.axis[1], x + j);
    const int64_t image = row.image * plane.axis[1].images + at.image;
    const bool here = inside && at.image >= 0 && at.image < plane.axis[1].images &&
                      at.index < plane.size[1] && image < plane.N;
    int64_t length = (here ? plane.size[1] : plane.axis[1].period) - at.index;
    if (length > cells - j) length = cells - j;
    if (here) {
      auto* first = map + image * plane.n + row.index * plane.y + at.index * plane.x;
      if constexpr (Write) {
        scatter_lanes(strip + j * kLanes, kLanes, length, first, plane.c, lanes, plane.x);
      } else {
        gather_lanes(first, plane.c, lanes, plane.x, length, strip + j * kLanes, kLanes);
      }
    } else if constexpr (!Write) {
      for (int64_t i = 0; i < length; ++i) Vec<T>::zero().store(strip + (j + i) * kLanes);
    }
    j += length;
  }
}

// Neighbouring tiles of a block, at most kStripTiles: the tile of the block that is first, and
// where its first output cell lies on the plane.
struct TileRun {
  int64_t first, count, y, x;
};

// The run that starts with tile `first` of block `block`.
inline TileRun tile_run(const Winograd& plan, int64_t block, int64_t first) {
  const int64_t index = plan.begin + block * plan.block + first;
  const int64_t across = index % plan.axis[1].tiles, down = index / plan.axis[1].tiles;
  int64_t count = plan.axis[1].run - across % plan.axis[1].run;
  const int64_t in_block = plan.block - first, in_plan = plan.end - index;
  if (count > in_block) count = in_block;
  if (count > in_plan) count = in_plan;
  if (count > kStripTiles) count = kStripTiles;
  return {first, count, plan.axis[0].origin(down, plan.m), plan.axis[1].origin(across, plan.m)};
}

inline int64_t tiles_in_block(const Winograd& plan, int64_t block) {
  const int64_t left = plan.end - plan.begin - block * plan.block;
  return left < plan.block ? left : plan.block;
}

// ---------------------------------------------------------------------------------------------
// Filters
// ---------------------------------------------------------------------------------------------

// Channels of a vector of filters that are gathered at once: 5 x 5 of them fill half of L1.
template <int R>
constexpr int64_t kFilterSteps = R == 3 ? 16 : 8;

// Where the taps of square filters lie, whose lanes are filters.
struct SquareFilters {
  int64_t side, taps, lane, step, row, cell;  // step: from channel to channel

  explicit SquareFilters(const Convolution& c)
      : side(c.filter[1]),
        taps(side * side),
        lane(c.weight.k),
        step(c.weight.c),
        row(c.weight.spatial[1]),
        cell(c.weight.spatial[2]) {}
  int64_t at(int64_t tap) const { return tap / side * row + tap % side * cell; }
};

// Filters of one vector of lanes, for channels c <= j < c + steps: staged[step][tap][lane].
template <typename T>
inline void gather_filters(const Convolution& shape, const T* weight, int64_t lanes, int64_t steps,
                           T* staged) {
  constexpr int64_t kLanes = Vec<T>::kLanes;
  const SquareFilters f(shape);
  const int64_t taps = f.taps;
  if (f.lane != 1 && f.row == f.side * f.cell && (f.cell == 1 || f.cell == -1)) {
    const T* first = f.cell == 1 ? weight : weight - (taps - 1);
    if (f.step == taps) {
      gather_lanes(first, f.lane, lanes, 1, steps * taps, staged, kLanes);
    } else {
      for (int64_t i = 0; i < steps; ++i) {
        gather_lanes(first + i * f.step, f.lane, lanes, 1, taps, staged + i * taps * kLanes,
                     kLanes);
      }
    }
    if (f.cell == 1) return;
    for (int64_t i = 0; i < steps; ++i) {  // rotated by half a turn
      T* cells = staged + i * taps * kLanes;
      for (int64_t tap = 0; tap < taps / 2; ++tap) {
        const Vec<T> a = Vec<T>::load(cells + tap * kLanes);
        Vec<T>::load(cells + (taps - 1 - tap) * kLanes).store(cells + tap * kLanes);
        a.store(cells + (taps - 1 - tap) * kLanes);
      }
    }
    return;
  }
  for (int64_t tap = 0; tap < taps; ++tap) {
    gather_lanes(weight + f.at(tap), f.lane, lanes, f.step, steps, staged + tap * kLanes,
                 taps * kLanes);
  }
}

// The reverse, to the weight gradient.
template <typename T>
inline void scatter_filters(const Convolution& shape, const T* staged, int64_t lanes, int64_t steps,
                            T* weight) {
  constexpr int64_t kLanes = Vec<T>::kLanes;
  const SquareFilters f(shape);
  if (f.lane != 1 && f.cell == 1 && f.row == f.side && f.step == f.taps) {
    return scatter_lanes(staged, kLanes, steps * f.taps, weight, f.lane, lanes, 1);
  }
  for (int64_t tap = 0; tap < f.taps; ++tap) {
    scatter_lanes(staged + tap * kLanes, f.taps * kLanes, steps, weight + f.at(tap), f.lane, lanes,
                  f.step);
  }
}

// The transformed filters of one panel, for channels first <= c < last: to[cell][c -
// first][filter].
template <typename T, int R>
void evaluate_filters(const WinogradForward<T>& p, int64_t g, int64_t panel, int64_t first,
                      int64_t last, T* to, int64_t to_cell) {
  using V = typename Vec<T>::Lanes;
  constexpr int64_t kLanes = Vec<T>::kLanes, kCols = Tile<T>::kCols;
  const Convolution& shape = p.shape;
  alignas(64) T staged[kFilterSteps<R> * R * R * kLanes];
  for (int64_t half = 0; half < kCols; half += kLanes) {
    const int64_t k = panel * kCols + half;
    int64_t lanes = shape.K - k < kLanes ? shape.K - k : kLanes;
    if (lanes < 0) lanes = 0;
    const T* weight = p.weight + g * shape.weight.g + k * shape.weight.k;
    for (int64_t c = first; c < last; c += kFilterSteps<R>) {
      const int64_t steps = last - c < kFilterSteps<R> ? last - c : kFilterSteps<R>;
      gather_filters(shape, weight + c * shape.weight.c, lanes, steps, staged);
      for (int64_t j = 0; j < steps; ++j) {
        V down[kSide][R];
        for (int s = 0; s < R; ++s) {
          V column[R], result[kSide];
          for (int t = 0; t < R; ++t) {
            column[t] = Vec<T>::load(staged + ((j * R + t) * R + s) * kLanes).lanes;
          }
          evaluate<T, R>(column, result);
          for (int t = 0; t < kSide; ++t) down[t][s] = result[t];
        }
        T* cell = to + (c + j - first) * kCols + half;
        for (int t = 0; t < kSide; ++t) {
          V result[kSide];
          evaluate<T, R>(down[t], result);
          for (int s = 0; s < kSide; ++s, cell += to_cell) Vec<T>{result[s]}.store(cell);
        }
      }
    }
  }
}

template <typename T>
void transform_filters(const WinogradForward<T>& p, int64_t g, int64_t panel, int64_t first,
                       int64_t last, T* to, int64_t to_cell) {
  if (p.plan.r == 3) return evaluate_filters<T, 3>(p, g, panel, first, last, to, to_cell);
  evaluate_filters<T, 5>(p, g, panel, first, last, to, to_cell);
}

// The transformed filters of panels first <= i < last, counted over all groups, to p.filters.
template <typename T>
void winograd_filters(const WinogradForward<T>& p, int64_t first, int64_t last) {
  CNN_EXT_CHECK_TASKS(first, last, p.shape.G * p.plan.panels);
  const Winograd& plan = p.plan;
  for (int64_t i = first; i < last; ++i) {
    transform_filters(p, i / plan.panels, i % plan.panels, 0, p.shape.C,
                      p.filters + i * kTileCells * plan.filter_cell, plan.filter_cell);
  }
}

// ---------------------------------------------------------------------------------------------
// Tiles of the input, of the output gradient and of the output
// ---------------------------------------------------------------------------------------------

// Transformed input tiles of a block: to[cell][tile][channel], channels first <= i < last in units
// of a vector.
template <typename T>
void winograd_input(const Convolution& shape, const Winograd& plan, const T* input, int64_t block,
                    int64_t first, int64_t last, T* to) {
  CNN_EXT_CHECK_TASKS(first, last, vectors<T>(shape.C));
  CNN_EXT_CHECK(0 <= block && block < plan.blocks);
  using V = typename Vec<T>::Lanes;
  constexpr int64_t kLanes = Vec<T>::kLanes;
  const Plane plane = plane_of<T>(shape, plan, false);
  const int64_t tiles = tiles_in_block(plan, block);
  alignas(64) T strip[kSide][kStripCells * kLanes];
  for (int64_t i = first; i < last; ++i) {
    const int64_t c = i * kLanes;
    const int64_t lanes = shape.C - c < kLanes ? shape.C - c : kLanes;
    for (int64_t tile = 0; tile < tiles;) {
      const TileRun run = tile_run(plan, block, tile);
      const int64_t cells = (run.count - 1) * plan.m + kSide;
      for (int row = 0; row < kSide; ++row) {
        move_row<T, false>(plane, run.y - shape.padding[1] + row, run.x - shape.padding[2], cells,
                           lanes, input + c * shape.input.c, strip[row]);
      }
      for (int64_t x = 0; x < cells; ++x) {
        V column[kSide], result[kSide];
        for (int row = 0; row < kSide; ++row) {
          column[row] = Vec<T>::load(strip[row] + x * kLanes).lanes;
        }
        spread<T>(column, result);
        for (int row = 0; row < kSide; ++row) Vec<T>{result[row]}.store(strip[row] + x * kLanes);
      }
      for (int64_t t = 0; t < run.count; ++t) {
        T* cell = to + (run.first + t) * plan.channel_row + c;
        for (int row = 0; row < kSide; ++row) {
          V across[kSide], result[kSide];
          for (int j = 0; j < kSide; ++j) {
            across[j] = Vec<T>::load(strip[row] + (t * plan.m + j) * kLanes).lanes;
          }
          spread<T>(across, result);
          for (int j = 0; j < kSide; ++j, cell += plan.channel_cell) Vec<T>{result[j]}.store(cell);
        }
      }
      tile += run.count;
    }
  }
}

// Sums of a block and a panel, from[cell][tile][filter], to output cells.
template <typename T, int M>
void collect_output(const WinogradForward<T>& p, int64_t g, int64_t block, int64_t panel,
                    const T* from) {
  using V = typename Vec<T>::Lanes;
  constexpr int64_t kLanes = Vec<T>::kLanes, kCols = Tile<T>::kCols;
  const Convolution& shape = p.shape;
  const Winograd& plan = p.plan;
  const Plane plane = plane_of<T>(shape, plan, true);
  const int64_t tiles = tiles_in_block(plan, block);
  alignas(64) T strip[M][kStripTiles * M * kLanes];
  for (int64_t half = 0; half < kCols; half += kLanes) {
    const int64_t k = panel * kCols + half;
    const int64_t lanes = shape.K - k < kLanes ? shape.K - k : kLanes;
    if (lanes <= 0) return;
    const V bias =
        p.bias == nullptr
            ? Vec<T>::zero().lanes
            : Vec<T>::load(p.bias + g * shape.K + k, Vec<T>::Mask::range(0, lanes)).lanes;
    T* output = p.output + g * shape.output.g + k * shape.output.c;
    const T* sums = from + half;
    for (int64_t tile = 0; tile < tiles;) {
      const TileRun run = tile_run(plan, block, tile);
      for (int64_t t = 0; t < run.count; ++t) {
        V down[M][kSide];
        const T* cell = sums + (run.first + t) * kCols;
        for (int j = 0; j < kSide; ++j) {
          V column[kSide], result[M];
          for (int row = 0; row < kSide; ++row) {
            column[row] = Vec<T>::load(cell + (row * kSide + j) * plan.panel_cell).lanes;
          }
          collect<T, M>(column, result);
          for (int row = 0; row < M; ++row) down[row][j] = result[row];
        }
        for (int row = 0; row < M; ++row) {
          V result[M];
          collect<T, M>(down[row], result);
          for (int j = 0; j < M; ++j) {
            const Vec<T> y{result[j] + bias};
            (shape.relu ? y.rectified() : y).store(strip[row] + (t * M + j) * kLanes);
          }
        }
      }
      for (int row = 0; row < M; ++row) {
        move_row<T, true>(plane, run.y + row, run.x, run.count * M, lanes, output, strip[row]);
      }
      tile += run.count;
    }
  }
}

// Transformed tiles of the output gradient, one panel of filters: to[cell][tile][filter]; filters
// that the panel lacks are zero.
template <typename T, int M>
void evaluate_gradient(const Convolution& shape, const Winograd& plan, const T* grad_output,
                       int64_t block, int64_t panel, T* to) {
  using V = typename Vec<T>::Lanes;
  constexpr int64_t kLanes = Vec<T>::kLanes, kCols = Tile<T>::kCols;
  const Plane plane = plane_of<T>(shape, plan, true);
  const int64_t tiles = tiles_in_block(plan, block);
  alignas(64) T strip[kSide][kStripTiles * M * kLanes];
  for (int64_t half = 0; half < kCols; half += kLanes) {
    const int64_t k = panel * kCols + half;
    int64_t lanes = shape.K - k < kLanes ? shape.K - k : kLanes;
    if (lanes < 0) lanes = 0;
    for (int64_t tile = 0; tile < tiles;) {
      const TileRun run = tile_run(plan, block, tile);
      for (int row = 0; row < M; ++row) {
        move_row<T, false>(plane, run.y + row, run.x, run.count * M, lanes,
                           grad_output + k * shape.output.c, strip[row]);
      }
      for (int64_t x = 0; x < run.count * M; ++x) {
        V column[M], result[kSide];
        for (int row = 0; row < M; ++row) {
          column[row] = Vec<T>::load(strip[row] + x * kLanes).lanes;
        }
        evaluate<T, M>(column, result);
        for (int row = 0; row < kSide; ++row) Vec<T>{result[row]}.store(strip[row] + x * kLanes);
      }
      for (int64_t t = 0; t < run.count; ++t) {
        T* cell = to + (run.first + t) * kCols + half;
        for (int row = 0; row < kSide; ++row) {
          V across[M], result[kSide];
          for (int j = 0; j < M; ++j) {
            across[j] = Vec<T>::load(strip[row] + (t * M + j) * kLanes).lanes;
          }
          evaluate<T, M>(across, result);
          for (int j = 0; j < kSide; ++j, cell += plan.panel_cell) Vec<T>{result[j]}.store(cell);
        }
      }
      tile += run.count;
    }
  }
}

// ---------------------------------------------------------------------------------------------
// The products
// ---------------------------------------------------------------------------------------------

// Panels whose products take turns, where their filters are there.
template <typename T>
constexpr int64_t kGroupPanels = kGroupFilters / Tile<T>::kCols;

// Elements from cell to cell of filters that are transformed on the way, a panel at a time.
template <typename T>
constexpr int64_t kOwnFilterCell = kChannelBlock * Tile<T>::kCols + Vec<T>::kLanes;

// Elements of workspace for `winograd_panels`, whether filters are there or not.
template <typename T>
int64_t winograd_workspace(const Winograd& plan) {
  return kTileCells * (kGroupPanels<T> * plan.panel_cell + kOwnFilterCell<T>);
}

// From the transformed tiles of a block to its output, for panels first <= i < last of a group:
// filters transformed where p.filters has none, multiplied, and collected.
template <typename T>
void winograd_panels(const WinogradForward<T>& p, int64_t g, int64_t block, int64_t first,
                     int64_t last, const T* tiles, T* workspace) {
  CNN_EXT_CHECK_TASKS(first, last, p.plan.panels);
  CNN_EXT_CHECK(0 <= block && block < p.plan.blocks);
  constexpr int64_t kRows = Tile<T>::kRows, kCols = Tile<T>::kCols;
  const Winograd& plan = p.plan;
  const int64_t count = tiles_in_block(plan, block), C = p.shape.C;
  const int64_t parts = divide_up(count, kRows);
  const bool transformed = p.filters != nullptr;
  const int64_t filter_cell = transformed ? plan.filter_cell : kOwnFilterCell<T>;
  const int64_t filters_size = kTileCells * filter_cell, sums_size = kTileCells * plan.panel_cell;
  T* const own_filters = workspace + kGroupPanels<T> * sums_size;
  const int64_t most = transformed ? kGroupPanels<T> : 1;
  // Filters that are there are read cell by cell; others are made, as many as stay in the cache.
  const int64_t step = transformed ? C : kChannelBlock;
  for (int64_t panel = first; panel < last; panel += most) {
    const int64_t panels = last - panel < most ? last - panel : most;
    const T* const filters =
        transformed ? p.filters + (g * plan.panels + panel) * filters_size : own_filters;
    for (int64_t c0 = 0; c0 < C; c0 += step) {
      const int64_t c1 = C - c0 < step ? C : c0 + step;
      if (!transformed) transform_filters(p, g, panel, c0, c1, own_filters, filter_cell);
      for (int64_t cell = 0; cell < kTileCells; ++cell) {
        for (int64_t part = 0; part < parts; ++part) {
          const int64_t t = part * count / parts, rows = (part + 1) * count / parts - t;
          const T* const from = tiles + cell * plan.channel_cell + t * plan.channel_row;
          for (int64_t i = 0; i < panels; ++i) {
            const T* const by = filters + i * filters_size + cell * filter_cell;
            T* const to = workspace + i * sums_size + cell * plan.panel_cell + t * kCols;
            for (int64_t c = c0; c < c1; c += kChannelBlock) {
              const int64_t channels = c1 - c < kChannelBlock ? c1 - c : kChannelBlock;
              Finish<T> finish;
              finish.accumulate = c > 0;
              multiply<T>(rows, channels, from + c, plan.channel_row, by + (c - c0) * kCols, kCols,
                          to, finish);
            }
          }
        }
      }
    }
    for (int64_t i = 0; i < panels; ++i) {
      if (plan.m == 4) {
        collect_output<T, 4>(p, g, block, panel + i, workspace + i * sums_size);
      } else {
        collect_output<T, 2>(p, g, block, panel + i, workspace + i * sums_size);
      }
    }
  }
}

// What a block adds to the sums of some panels for channels first <= c < last: sums[cell][c -
// first][filter], `sums_cell` elements from cell to cell, for each panel.
template <typename T>
void add_gradient_products(const Winograd& plan, int64_t count, int64_t panels, int64_t first,
                           int64_t last, const T* tiles, const T* gradients, T* sums,
                           int64_t sums_cell, bool accumulate) {
  constexpr int64_t kRows = Tile<T>::kRows, kCols = Tile<T>::kCols;
  const int64_t channels = last - first, parts = divide_up(channels, kRows);
  for (int64_t cell = 0; cell < kTileCells; ++cell) {
    for (int64_t t = 0; t < count; t += plan.step) {
      const int64_t here = count - t < plan.step ? count - t : plan.step;
      Finish<T> finish;
      finish.accumulate = accumulate || t > 0;
      for (int64_t part = 0; part < parts; ++part) {
        const int64_t c = part * channels / parts, rows = (part + 1) * channels / parts - c;
        const T* const from = tiles + cell * plan.channel_cell + t * plan.channel_row + first + c;
        for (int64_t i = 0; i < panels; ++i) {
          const T* const by = gradients + (i * kTileCells + cell) * plan.panel_cell + t * kCols;
          T* const to = sums + (i * kTileCells + cell) * sums_cell + c * kCols;
          multiply<T, true>(rows, here, from, plan.channel_row, by, kCols, to, finish);
        }
      }
    }
  }
}

// The sums of one panel, of which there are `parts` `part_stride` apart, to the weight gradient of
// channels first <= c < last.
template <typename T, int R>
void collect_weight(const WinogradWeightGradient<T>& p, int64_t g, int64_t panel, int64_t first,
                    int64_t last, const T* sums, int64_t sums_cell, int64_t parts,
                    int64_t part_stride) {
  using V = typename Vec<T>::Lanes;
  constexpr int64_t kLanes = Vec<T>::kLanes, kCols = Tile<T>::kCols;
  const Convolution& shape = p.shape;
  const FilterStrides& to = shape.weight;
  alignas(64) T staged[kFilterSteps<R> * R * R * kLanes];
  for (int64_t half = 0; half < kCols; half += kLanes) {
    const int64_t k = panel * kCols + half;
    const int64_t lanes = shape.K - k < kLanes ? shape.K - k : kLanes;
    if (lanes <= 0) return;
    for (int64_t c = first; c < last; c += kFilterSteps<R>) {
      const int64_t steps = last - c < kFilterSteps<R> ? last - c : kFilterSteps<R>;
      for (int64_t j = 0; j < steps; ++j) {
        const T* from = sums + (c + j - first) * kCols + half;
        V down[R][kSide];
        for (int s = 0; s < kSide; ++s) {
          V column[kSide], result[R];
          for (int t = 0; t < kSide; ++t) {
            const T* cell = from + (t * kSide + s) * sums_cell;
            column[t] = Vec<T>::load(cell).lanes;
            for (int64_t part = 1; part < parts; ++part) {
              column[t] += Vec<T>::load(cell + part * part_stride).lanes;
            }
          }
          collect<T, R>(column, result);
          for (int t = 0; t < R; ++t) down[t][s] = result[t];
        }
        for (int t = 0; t < R; ++t) {
          V result[R];
          collect<T, R>(down[t], result);
          for (int s = 0; s < R; ++s) {
            Vec<T>{result[s]}.store(staged + ((j * R + t) * R + s) * kLanes);
          }
        }
      }
      scatter_filters(shape, staged, lanes, steps, p.grad_weight + g * to.g + k * to.k + c * to.c);
    }
  }
}

template <typename T>
void collect_weight(const WinogradWeightGradient<T>& p, int64_t g, int64_t panel, int64_t first,
                    int64_t last, const T* sums, int64_t sums_cell, int64_t parts,
                    int64_t part_stride) {
  const auto function = p.plan.r == 3 ? collect_weight<T, 3> : collect_weight<T, 5>;
  function(p, g, panel, first, last, sums, sums_cell, parts, part_stride);
}

// Transformed tiles of the output gradient of one panel.
template <typename T>
void winograd_gradient(const WinogradWeightGradient<T>& p, int64_t g, int64_t block, int64_t panel,
                       T* gradients) {
  const T* grad_output = p.grad_output + g * p.shape.output.g;
  if (p.plan.m == 4) {
    evaluate_gradient<T, 4>(p.shape, p.plan, grad_output, block, panel, gradients);
  } else {
    evaluate_gradient<T, 2>(p.shape, p.plan, grad_output, block, panel, gradients);
  }
}

// Adds the products of a block to the sums of one panel, sums[cell][channel][filter], or starts
// them where `accumulate` is false. gradients: 36 panel_cell elements.
template <typename T>
void winograd_gradient_panel(const WinogradWeightGradient<T>& p, int64_t g, int64_t block,
                             int64_t panel, const T* tiles, T* gradients, T* sums,
                             bool accumulate) {
  CNN_EXT_CHECK(0 <= block && block < p.plan.blocks && 0 <= panel && panel < p.plan.panels);
  winograd_gradient(p, g, block, panel, gradients);
  add_gradient_products(p.plan, tiles_in_block(p.plan, block), 1, 0, p.shape.C, tiles, gradients,
                        sums, p.plan.sums_cell, accumulate);
}

template <typename T>
void winograd_weight(const WinogradWeightGradient<T>& p, int64_t g, int64_t panel, const T* sums,
                     int64_t parts, int64_t part_stride) {
  collect_weight(p, g, panel, 0, p.shape.C, sums, p.plan.sums_cell, parts, part_stride);
}

template <typename T>
constexpr int64_t kOwnSumsCell = kWeightChannels * Tile<T>::kCols + Vec<T>::kLanes;

// Two panels take turns where tiles are so many that the cache holds neither's.
inline int64_t weight_panels(const Winograd& plan) { return plan.tiles() > kManyTiles ? 2 : 1; }

// Elements of workspace for `winograd_weight_panels`.
template <typename T>
int64_t winograd_weight_workspace(const Winograd& plan) {
  return weight_panels(plan) * kTileCells * (plan.panel_cell + kOwnSumsCell<T>);
}

// The weight gradient of panels first <= i < last of a group whose tiles are one block. Sums are
// complete at once: those of some channels, which stay in the cache.
template <typename T>
void winograd_weight_panels(const WinogradWeightGradient<T>& p, int64_t g, int64_t first,
                            int64_t last, const T* tiles, T* workspace) {
  CNN_EXT_CHECK_TASKS(first, last, p.plan.panels);
  CNN_EXT_CHECK(p.plan.blocks == 1);
  const Winograd& plan = p.plan;
  const int64_t most = weight_panels(plan), sums_size = kTileCells * kOwnSumsCell<T>;
  T* const gradients = workspace + most * sums_size;
  const int64_t C = p.shape.C, pieces = divide_up(C, kWeightChannels);
  for (int64_t panel = first; panel < last; panel += most) {
    const int64_t panels = last - panel < most ? last - panel : most;
    for (int64_t i = 0; i < panels; ++i) {
      winograd_gradient(p, g, 0, panel + i, gradients + i * kTileCells * plan.panel_cell);
    }
    for (int64_t piece = 0; piece < pieces; ++piece) {
      const int64_t c0 = piece * C / pieces, c1 = (piece + 1) * C / pieces;
      add_gradient_products(plan, tiles_in_block(plan, 0), panels, c0, c1, tiles, gradients,
                            workspace, kOwnSumsCell<T>, false);
      for (int64_t i = 0; i < panels; ++i) {
        collect_weight(p, g, panel + i, c0, c1, workspace + i * sums_size, kOwnSumsCell<T>, 1, 0);
      }
    }
  }
}
