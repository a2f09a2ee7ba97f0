// Between memory in any layout and vectors of channels: a block of cells is turned so that the
// lanes of a vector are one of its axes. Included by isa/ (see vec.h).
#pragma once

#include "tuned.h"
#include "vec.h"

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define CNN_EXT_SHUFFLE 1
#endif
#endif

#if defined(CNN_EXT_SHUFFLE)

// Exchanges the two off-diagonal blocks of `Step` lanes of the rows a and b.
template <typename T, int Step, int... Lane>
inline void exchange_blocks(Vec<T>& a, Vec<T>& b, std::integer_sequence<int, Lane...>) {
  constexpr int kLanes = Vec<T>::kLanes;
  const auto low =
      __builtin_shufflevector(a.lanes, b.lanes, (Lane & Step ? kLanes + Lane - Step : Lane)...);
  const auto high =
      __builtin_shufflevector(a.lanes, b.lanes, (Lane & Step ? kLanes + Lane : Lane + Step)...);
  a.lanes = low;
  b.lanes = high;
}

template <typename T, int Step>
inline void exchange_blocks(Vec<T>* rows) {
  constexpr int kLanes = Vec<T>::kLanes;
#pragma GCC unroll 32
  for (int i = 0; i < kLanes; ++i) {
    if ((i & Step) == 0) {
      exchange_blocks<T, Step>(rows[i], rows[i + Step], std::make_integer_sequence<int, kLanes>());
    }
  }
}

// Transposes a square of kLanes rows, in registers.
template <typename T>
inline void transpose_square(Vec<T>* rows) {
  constexpr int kLanes = Vec<T>::kLanes;
  if constexpr (kLanes > 1) exchange_blocks<T, 1>(rows);
  if constexpr (kLanes > 2) exchange_blocks<T, 2>(rows);
  if constexpr (kLanes > 4) exchange_blocks<T, 4>(rows);
  if constexpr (kLanes > 8) exchange_blocks<T, 8>(rows);
  if constexpr (kLanes > 16) exchange_blocks<T, 16>(rows);
}

template <typename T, int... Lane>
inline Vec<T> even_cells(Vec<T> a, Vec<T> b, std::integer_sequence<int, Lane...>) {
  return {__builtin_shufflevector(a.lanes, b.lanes, (2 * Lane)...)};
}

template <typename T, int Width, int I, int... Lane>
inline Vec<T> spread_lanes(Vec<T> v, std::integer_sequence<int, Lane...>) {
  return {__builtin_shufflevector(v.lanes, v.lanes, (Lane / Width * Width + I)...)};
}

// Of every `Width` lanes the I-th, in all of them.
template <typename T, int Width, int I>
inline Vec<T> spread_lanes(Vec<T> v) {
  return spread_lanes<T, Width, I>(v, std::make_integer_sequence<int, Vec<T>::kLanes>());
}

// from[0], from[Step], from[2 * Step], ...: Step is 2 or 4. Reads nothing beyond the last of them.
template <typename T, int Step>
inline Vec<T> load_every(const T* from) {
  using V = Vec<T>;
  constexpr int kLanes = V::kLanes;
  constexpr auto kAll = std::make_integer_sequence<int, kLanes>();
  const V last = V::load(from + (Step - 1) * kLanes, V::Mask::range(0, kLanes - Step + 1));
  if constexpr (Step == 2) return even_cells<T>(V::load(from), last, kAll);
  const V low = even_cells<T>(V::load(from), V::load(from + kLanes), kAll);
  return even_cells<T>(low, even_cells<T>(V::load(from + 2 * kLanes), last, kAll), kAll);
}

// to[j] = from[j * Step] for as many j as fill vectors; how many that were.
template <typename T, int Step>
inline int64_t copy_every(const T* from, int64_t count, T* to) {
  int64_t j = 0;
  if constexpr (Vec<T>::kLanes >= Step) {
    for (; j + Vec<T>::kLanes <= count; j += Vec<T>::kLanes) {
      load_every<T, Step>(from + j * Step).store(to + j);
    }
  }
  return j;
}

#else

template <typename T, int Width, int I>
inline Vec<T> spread_lanes(Vec<T> v) {
  Vec<T> result;
  for (int i = 0; i < Vec<T>::kLanes; ++i) result.lanes[i] = v.lanes[i / Width * Width + I];
  return result;
}

template <typename T, int Step>
inline int64_t copy_every(const T*, int64_t, T*) {
  return 0;
}

template <typename T>
inline void transpose_square(Vec<T>* rows) {
  constexpr int kLanes = Vec<T>::kLanes;
  T cells[kLanes][kLanes];
  for (int i = 0; i < kLanes; ++i) rows[i].store(cells[i]);
  for (int i = 0; i < kLanes; ++i) {
    for (int j = 0; j < kLanes; ++j) rows[i].lanes[j] = cells[j][i];
  }
}

#endif

// to[j * to_step + lane] = from[lane * lane_stride + j * step] for j < count and lane < lanes; the
// lanes beyond are zero or, where `Exact`, left alone. lanes <= kLanes.
template <typename T, bool Exact = false>
inline void gather_lanes(const T* from, int64_t lane_stride, int64_t lanes, int64_t step,
                         int64_t count, T* to, int64_t to_step) {
  using V = Vec<T>;
  constexpr int kLanes = V::kLanes;
  if (lane_stride == 1) {
    if (lanes == kLanes) {
      for (int64_t j = 0; j < count; ++j) V::load(from + j * step).store(to + j * to_step);
      return;
    }
    const auto mask = V::Mask::range(0, lanes), written = Exact ? mask : V::Mask::range(0, kLanes);
    for (int64_t j = 0; j < count; ++j) {
      V::load(from + j * step, mask).store(to + j * to_step, written);
    }
    return;
  }
  if (step != 1) {
    for (int64_t j = 0; j < count; ++j) {
      T* cell = to + j * to_step;
      for (int64_t lane = 0; lane < lanes; ++lane) cell[lane] = from[lane * lane_stride + j * step];
      for (int64_t lane = lanes; !Exact && lane < kLanes; ++lane) cell[lane] = T(0);
    }
    return;
  }
  for (int64_t j = 0; j < count; j += kLanes) {
    const int64_t here = count - j < kLanes ? count - j : kLanes;
    V rows[kLanes];
    if (here == kLanes && lanes == kLanes) {
#pragma GCC unroll 32
      for (int lane = 0; lane < kLanes; ++lane) rows[lane] = V::load(from + lane * lane_stride + j);
    } else {
      const auto mask = V::Mask::range(0, here);
#pragma GCC unroll 32
      for (int lane = 0; lane < kLanes; ++lane) {
        rows[lane] = lane < lanes ? V::load(from + lane * lane_stride + j, mask) : V::zero();
      }
    }
    transpose_square(rows);
    T* cell = to + j * to_step;
    if (Exact && lanes < kLanes) {
      const auto written = V::Mask::range(0, lanes);
#pragma GCC unroll 32
      for (int i = 0; i < kLanes; ++i) {
        if (i < here) rows[i].store(cell + i * to_step, written);
      }
      continue;
    }
#pragma GCC unroll 32
    for (int i = 0; i < kLanes; ++i) {
      if (i < here) rows[i].store(cell + i * to_step);
    }
  }
}

// The reverse: to[lane * lane_stride + j * step] = from[j * from_step + lane].
template <typename T>
inline void scatter_lanes(const T* from, int64_t from_step, int64_t count, T* to,
                          int64_t lane_stride, int64_t lanes, int64_t step) {
  using V = Vec<T>;
  constexpr int kLanes = V::kLanes;
  if (lane_stride == 1) {
    if (lanes == kLanes) {
      for (int64_t j = 0; j < count; ++j) V::load(from + j * from_step).store(to + j * step);
      return;
    }
    const auto mask = V::Mask::range(0, lanes);
    for (int64_t j = 0; j < count; ++j) V::load(from + j * from_step).store(to + j * step, mask);
    return;
  }
  if (step != 1) {
    for (int64_t j = 0; j < count; ++j) {
      const T* cell = from + j * from_step;
      for (int64_t lane = 0; lane < lanes; ++lane) to[lane * lane_stride + j * step] = cell[lane];
    }
    return;
  }
  for (int64_t j = 0; j < count; j += kLanes) {
    const int64_t here = count - j < kLanes ? count - j : kLanes;
    V rows[kLanes];
    const T* cell = from + j * from_step;
#pragma GCC unroll 32
    for (int i = 0; i < kLanes; ++i) {
      rows[i] = i < here ? V::load(cell + i * from_step) : V::zero();
    }
    transpose_square(rows);
    if (here == kLanes && lanes == kLanes) {
#pragma GCC unroll 32
      for (int lane = 0; lane < kLanes; ++lane) rows[lane].store(to + lane * lane_stride + j);
    } else {
      const auto mask = V::Mask::range(0, here);
#pragma GCC unroll 32
      for (int lane = 0; lane < kLanes; ++lane) {
        if (lane < lanes) rows[lane].store(to + lane * lane_stride + j, mask);
      }
    }
  }
}

// to[j] = from[j]; a last vector that is not full overlaps the one before.
template <typename T>
inline void copy_cells(const T* from, int64_t length, T* to) {
  using V = Vec<T>;
  if (length < V::kLanes) {
    for (int64_t j = 0; j < length; ++j) to[j] = from[j];
    return;
  }
  for (int64_t j = 0; j + V::kLanes <= length; j += V::kLanes) V::load(from + j).store(to + j);
  V::load(from + length - V::kLanes).store(to + length - V::kLanes);
}
