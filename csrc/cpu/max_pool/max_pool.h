// Max-pooling. Where channels are innermost, vectors run along them; otherwise along the rows of a
// map, sorted by the phases of the stride: without taps first the maxima of a window's rows, then
// those of its columns; with taps cell by cell, in the order in which torch looks. NaN wins, as in
// torch. Included by isa/ (see vec.h).
#pragma once

#include "../lanes.h"

// The cells first <= t < last of a window, at `at` and `dilation` apart, that lie inside an axis.
struct PoolRange {
  int64_t first, last;

  PoolRange(int64_t at, int64_t dilation, int64_t window, int64_t in)
      : first(at < 0 ? divide_up(-at, dilation) : 0),
        last(at >= in ? 0 : divide_up(in - at, dilation)) {
    if (last > window) last = window;
  }

  bool empty() const { return first >= last; }
  bool covers(int64_t window) const { return first == 0 && last == window; }
};

template <typename T>
inline T lowest() {
  return -std::numeric_limits<T>::infinity();
}

typedef uint8_t BytesOfFloats __attribute__((vector_size(CNN_EXT_VECTOR_BYTES / sizeof(float))));
typedef uint8_t BytesOfDoubles __attribute__((vector_size(CNN_EXT_VECTOR_BYTES / sizeof(double))));

// The maxima of as many windows as a vector has lanes, and their taps. Lanes of comparisons are
// integers as wide as T.
template <typename T>
struct Winner {
  using V = Vec<T>;
  using Taps = decltype(typename V::Lanes{} < typename V::Lanes{});
  using Tap = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  using Bytes = std::conditional_t<sizeof(T) == 4, BytesOfFloats, BytesOfDoubles>;

  V most = V::broadcast(lowest<T>());
  Taps taps;  // set to those of windows whose cells are all -inf

  static Taps all(int64_t tap) { return Taps{} + static_cast<Tap>(tap); }

  void meet(V cell, Taps tap) {
    const Taps wins = (cell.lanes > most.lanes) | (cell.lanes != cell.lanes);
    most.lanes = wins ? cell.lanes : most.lanes;
    taps = wins ? tap : taps;
  }

  // The first `count` of them; what is loaded beyond is zero.
  static Taps load_taps(const uint8_t* from, int64_t count) {
    Bytes bytes = {};
    if (count >= V::kLanes) {
      __builtin_memcpy(&bytes, from, V::kLanes);
    } else {
      for (int64_t i = 0; i < count; ++i) bytes[i] = from[i];
    }
    return __builtin_convertvector(bytes, Taps);
  }
  void store_taps(uint8_t* to, int64_t count) const {
    const Bytes bytes = __builtin_convertvector(taps, Bytes);
    if (count >= V::kLanes) {
      __builtin_memcpy(to, &bytes, V::kLanes);
    } else {
      for (int64_t i = 0; i < count; ++i) to[i] = bytes[i];
    }
  }
};

// Cells of the padded row that the columns of the windows read, and of each of its phases.
template <typename T>
int64_t pool_row(const MaxPool<T>& p) {
  const int64_t reach = (p.window[1] - 1) * p.dilation[1];
  const int64_t read = (p.out[1] - 1) * p.stride[1] + reach + 1, held = p.padding[1] + p.in[1];
  return round_up(read > held ? read : held, Vec<T>::kLanes) + Vec<T>::kLanes;
}

// Cells of a phase of that row, with as many more as a vector may read beyond.
template <typename T>
int64_t pool_phase(const MaxPool<T>& p) {
  return divide_up(pool_row(p), p.stride[1]) + Vec<T>::kLanes;
}

// Rows of the input that the windows of an output row reach.
template <typename T>
int64_t pool_rows_reached(const MaxPool<T>& p) {
  return (p.window[0] - 1) * p.dilation[0] + 1;
}

// A padded row, a row of the output, and rows in phases: one without taps, a ring of those that the
// windows reach with them; then also where in the ring taps lie, and every window's first tap.
template <typename T>
int64_t max_pool_workspace(const MaxPool<T>& p) {
  if (p.innermost()) return 0;
  const int64_t row = pool_row(p), phases = pool_phase(p) * p.stride[1];
  if (!p.taps) return 2 * row + phases;
  return 2 * (kMostTaps + 1) + 3 * row + pool_rows_reached(p) * phases;
}

// The windows of one output pixel in `Vectors` vectors of channels, the last of them `lanes` wide.
// `from` is where the window starts; the taps inside are `rows` and `columns`.
template <typename T, int Vectors, bool Taps>
inline void pool_pixel(const MaxPool<T>& p, const T* from, PoolRange rows, PoolRange columns,
                       int64_t lanes, T* to, uint8_t* taps) {
  using V = Vec<T>;
  constexpr int kLast = Vectors - 1;
  const bool full = lanes == V::kLanes;
  const auto mask = V::Mask::range(0, lanes);
  const bool none = rows.empty() || columns.empty();
  const int64_t first = none ? kNoTap : rows.first * p.window[1] + columns.first;
  Winner<T> winners[Vectors];
  for (auto& winner : winners) winner.taps = Winner<T>::all(first);
  for (int64_t r = rows.first; r < rows.last; ++r) {
    const T* cell = from + r * p.dilation[0] * p.from.spatial[0] +
                    columns.first * p.dilation[1] * p.from.spatial[1];
    for (int64_t s = columns.first; s < columns.last; ++s) {
      const auto tap = Winner<T>::all(r * p.window[1] + s);
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) {
        const V here =
            v < kLast || full ? V::load(cell + v * V::kLanes) : V::load(cell + v * V::kLanes, mask);
        if constexpr (Taps) {
          winners[v].meet(here, tap);
        } else {
          winners[v].most = winners[v].most.maximum(here);
        }
      }
      cell += p.dilation[1] * p.from.spatial[1];
    }
  }
#pragma GCC unroll 4
  for (int v = 0; v < Vectors; ++v) {
    if (v < kLast || full) {
      winners[v].most.store(to + v * V::kLanes);
    } else {
      winners[v].most.store(to + v * V::kLanes, mask);
    }
    if constexpr (Taps) {
      winners[v].store_taps(taps + v * V::kLanes, v < kLast ? V::kLanes : lanes);
    }
  }
}

// A row of the output.
template <typename T, bool Taps>
void pool_pixels(const MaxPool<T>& p, int64_t row) {
  constexpr int kLanes = Vec<T>::kLanes;
  const int64_t n = row / p.out[0], y = row % p.out[0];
  const int64_t h = y * p.stride[0] - p.padding[0];
  const PoolRange rows(h, p.dilation[0], p.window[0], p.in[0]);
  for (int64_t x = 0; x < p.out[1]; ++x) {
    const int64_t w = x * p.stride[1] - p.padding[1];
    const PoolRange columns(w, p.dilation[1], p.window[1], p.in[1]);
    const T* from = p.input + n * p.from.n + h * p.from.spatial[0] + w * p.from.spatial[1];
    const int64_t at = n * p.to.n + y * p.to.spatial[0] + x * p.to.spatial[1];
    T* const to = p.output + at;
    uint8_t* const taps = Taps ? p.taps + at : nullptr;
    int64_t c = 0;
    for (; c + 4 * kLanes <= p.C; c += 4 * kLanes) {
      pool_pixel<T, 4, Taps>(p, from + c, rows, columns, kLanes, to + c, taps + c);
    }
    for (; c < p.C; c += kLanes) {
      const int64_t lanes = p.C - c < kLanes ? p.C - c : kLanes;
      pool_pixel<T, 1, Taps>(p, from + c, rows, columns, lanes, to + c, taps + c);
    }
  }
}

// to[j] = the maximum over the rows; a last vector that is not full overlaps the one before.
template <typename T>
inline void pool_rows(const T* from, int64_t step, int64_t rows, int64_t length, T* to) {
  using V = Vec<T>;
  for (int64_t j = 0; j < length; j += V::kLanes) {
    if (length < V::kLanes) {
      for (; j < length; ++j) {
        T most = from[j];
        for (int64_t r = 1; r < rows; ++r) {
          const T cell = from[r * step + j];
          if (cell > most || cell != cell) most = cell;
        }
        to[j] = most;
      }
      return;
    }
    const int64_t at = length - j < V::kLanes ? length - V::kLanes : j;
    V most = V::load(from + at);
    for (int64_t r = 1; r < rows; ++r) most = most.maximum(V::load(from + r * step + at));
    most.store(to + at);
  }
}

// Sorts a padded row by the phases of the stride, each `pitch` cells from the one before.
template <typename T>
inline void split_row(const T* row, int64_t stride, int64_t length, int64_t pitch, T* to) {
  for (int64_t phase = 0; phase < stride; ++phase, to += pitch) {
    const int64_t count = divide_up(length - phase, stride);
    int64_t j = 0;
    if (stride == 2) j = copy_every<T, 2>(row + phase, count, to);
    if (stride == 4) j = copy_every<T, 4>(row + phase, count, to);
    for (; j < count; ++j) to[j] = row[phase + j * stride];
  }
}

template <typename T>
void pool_map(const MaxPool<T>& p, const T* input, T* output, T* workspace) {
  using V = Vec<T>;
  const int64_t length = pool_row(p), pitch = pool_phase(p), stride = p.stride[1];
  T* const row = workspace;  // padded
  T* const line = row + length;
  T* const phases = line + length;  // of the row
  const int64_t phase_step = p.dilation[1] % stride, step = p.dilation[1] / stride;
  for (int64_t i = 0; i < length; ++i) row[i] = lowest<T>();
  for (int64_t y = 0; y < p.out[0]; ++y, output += p.to.spatial[0]) {
    const int64_t h = y * p.stride[0] - p.padding[0];
    const PoolRange rows(h, p.dilation[0], p.window[0], p.in[0]);
    if (!rows.empty()) {
      pool_rows(input + (h + rows.first * p.dilation[0]) * p.from.spatial[0],
                p.dilation[0] * p.from.spatial[0], rows.last - rows.first, p.in[1],
                row + p.padding[1]);
    } else {
      for (int64_t j = 0; j < p.in[1]; ++j) row[p.padding[1] + j] = lowest<T>();
    }
    if (stride > 1) split_row(row, stride, length, pitch, phases);
    const T* const from = stride > 1 ? phases : row;
    for (int64_t x = 0; x < p.out[1]; x += V::kLanes) {
      V most = V::load(from + x);
      int64_t phase = 0, cell = x;
      for (int64_t s = 1; s < p.window[1]; ++s) {
        phase += phase_step;
        cell += step;
        if (phase >= stride) {
          phase -= stride;
          ++cell;
        }
        most = most.maximum(V::load(from + phase * pitch + cell));
      }
      most.store(line + x);
    }
    copy_cells(line, p.out[1], output);
  }
}

// One row of windows. Their taps from number `tap` on lie at places[0 <= i < count] of `cells`;
// `Count` is that, or 0 if it is known only at run time.
template <typename T, int Count>
inline void pool_taps(const T* cells, const int64_t* places, int64_t count, int64_t tap,
                      const typename Winner<T>::Tap* starts, int64_t length, T* line,
                      uint8_t* taps) {
  using V = Vec<T>;
  const int64_t all = Count ? Count : count;
  for (int64_t x = 0; x < length; x += V::kLanes) {
    Winner<T> winner;
    __builtin_memcpy(&winner.taps, starts + x, sizeof winner.taps);
    winner.taps += static_cast<typename Winner<T>::Tap>(tap);
#pragma GCC unroll 9
    for (int64_t i = 0; i < all; ++i) {
      winner.meet(V::load(cells + places[i] + x), Winner<T>::all(tap + i));
    }
    winner.most.store(line + x);
    winner.store_taps(taps + x, length - x);
  }
}

// What the maps of a call share: every window's first tap in its row, kNoTap where a window lies in
// the padding alone. Whether there is such a one.
template <typename T>
bool first_taps(const MaxPool<T>& p, T* workspace) {
  using Tap = typename Winner<T>::Tap;
  Tap* const starts = reinterpret_cast<Tap*>(workspace + 2 * (kMostTaps + 1));
  bool gaps = false;
  for (int64_t x = 0; x < pool_row(p); ++x) {
    const PoolRange columns(x * p.stride[1] - p.padding[1], p.dilation[1], p.window[1], p.in[1]);
    starts[x] = columns.empty() ? kNoTap : static_cast<Tap>(columns.first);
    gaps = gaps || (columns.empty() && x < p.out[1]);
  }
  return gaps;
}

// The workspace holds the first taps.
template <typename T>
void pool_map_taps(const MaxPool<T>& p, bool gaps, const T* input, T* output, uint8_t* taps,
                   T* workspace) {
  using Tap = typename Winner<T>::Tap;
  const int64_t length = pool_row(p), pitch = pool_phase(p), stride = p.stride[1];
  const int64_t reached = pool_rows_reached(p), slot = stride * pitch;
  int64_t* const places = reinterpret_cast<int64_t*>(workspace);
  T* const after_places = workspace + 2 * (kMostTaps + 1);
  const Tap* const starts = reinterpret_cast<const Tap*>(after_places);
  T* const row = after_places + length;
  T* const line = row + length;
  T* const cells = line + length;
  for (int64_t i = 0; i < length; ++i) row[i] = lowest<T>();
  int64_t held = 0;  // rows of the input that the ring has held
  for (int64_t y = 0; y < p.out[0]; ++y, output += p.to.spatial[0], taps += p.to.spatial[0]) {
    const int64_t h = y * p.stride[0] - p.padding[0];
    const PoolRange rows(h, p.dilation[0], p.window[0], p.in[0]);
    if (held < h) held = h;
    for (; held < h + reached && held < p.in[0]; ++held) {
      copy_cells(input + held * p.from.spatial[0], p.in[1], row + p.padding[1]);
      split_row(row, stride, length, pitch, cells + held % reached * slot);
    }
    int64_t count = 0;
    for (int64_t r = rows.first; r < rows.last; ++r) {
      for (int64_t s = 0; s < p.window[1]; ++s) {
        const int64_t column = s * p.dilation[1];
        places[count++] =
            (h + r * p.dilation[0]) % reached * slot + column % stride * pitch + column / stride;
      }
    }
    const int64_t tap = rows.first * p.window[1];
    const auto run = count == 4   ? &pool_taps<T, 4>
                     : count == 9 ? &pool_taps<T, 9>
                                  : &pool_taps<T, 0>;
    run(cells, places, count, tap, starts, p.out[1], line, taps);
    for (int64_t x = 0; x < p.out[1] && (gaps || rows.empty()); ++x) {
      if (starts[x] == kNoTap || rows.empty()) taps[x] = kNoTap;
    }
    copy_cells(line, p.out[1], output);
  }
}

// Tasks first <= i < last. workspace: max_pool_workspace elements. Columns of input and output lie
// together, if channels do not.
template <typename T>
void max_pool(const MaxPool<T>& p, int64_t first, int64_t last, T* workspace) {
  const bool gaps = p.taps && !p.innermost() && first_taps(p, workspace);
  for (int64_t i = first; i < last; ++i) {
    if (p.innermost()) {
      p.taps ? pool_pixels<T, true>(p, i) : pool_pixels<T, false>(p, i);
      continue;
    }
    const int64_t n = i / p.C, c = i % p.C, to = n * p.to.n + c * p.to.c;
    const T* const input = p.input + n * p.from.n + c * p.from.c;
    if (p.taps) {
      pool_map_taps(p, gaps, input, p.output + to, p.taps + to, workspace);
    } else {
      pool_map(p, input, p.output + to, workspace);
    }
  }
}
