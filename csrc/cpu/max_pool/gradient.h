// The gradient of max-pooling: what each window's maximum is owed goes to the tap that it was.
// Included by isa/ (see vec.h).
#pragma once

#include "max_pool.h"

// Where the taps of a window are, from its start. Numbers that no cell has are at the start.
template <typename T>
struct TapPlaces {
  int64_t at[kNoTap + 1] = {};

  explicit TapPlaces(const MaxPool<T>& p) {
    for (int64_t r = 0; r < p.window[0]; ++r) {
      for (int64_t s = 0; s < p.window[1]; ++s) {
        at[r * p.window[1] + s] =
            r * p.dilation[0] * p.from.spatial[0] + s * p.dilation[1] * p.from.spatial[1];
      }
    }
  }
};

// Whether a window that is not wholly inside may owe something to a tap.
template <typename T>
inline bool lies_inside(const MaxPool<T>& p, PoolRange rows, PoolRange columns, int64_t tap) {
  const int64_t r = tap / p.window[1], s = tap % p.window[1];
  return r >= rows.first && r < rows.last && s >= columns.first && s < columns.last;
}

// One pixel of windows that overlap no others: every tap is written, by vectors.
template <typename T>
inline void share_apart(const MaxPool<T>& p, const uint8_t* taps, const T* owed, int64_t count,
                        PoolRange rows, PoolRange columns, T* window) {
  using V = Vec<T>;
  using W = Winner<T>;
  for (int64_t c = 0; c < count; c += V::kLanes) {
    const int64_t lanes = count - c < V::kLanes ? count - c : V::kLanes;
    const bool full = lanes == V::kLanes;
    const auto mask = V::Mask::range(0, lanes);
    const typename W::Taps here = W::load_taps(taps + c, lanes);
    const V share = full ? V::load(owed + c) : V::load(owed + c, mask);
    for (int64_t r = rows.first; r < rows.last; ++r) {
      T* cell = window + r * p.dilation[0] * p.from.spatial[0] +
                columns.first * p.dilation[1] * p.from.spatial[1] + c;
      for (int64_t s = columns.first; s < columns.last; ++s) {
        const V part{here == W::all(r * p.window[1] + s) ? share.lanes : typename V::Lanes{}};
        if (full) {
          part.store(cell);
        } else {
          part.store(cell, mask);
        }
        cell += p.dilation[1] * p.from.spatial[1];
      }
    }
  }
}

// Channels c0 <= c < c1 of an image. Rows of the gradient are cleared as windows reach them.
template <typename T>
void pool_gradient_pixels(const MaxPoolGradient<T>& g, const TapPlaces<T>& places, int64_t n,
                          int64_t c0, int64_t c1) {
  const MaxPool<T>& p = g.pool;
  const bool apart = c1 - c0 >= Vec<T>::kLanes && p.stride[0] >= pool_rows_reached(p) &&
                     p.stride[1] >= (p.window[1] - 1) * p.dilation[1] + 1;
  T* const result = g.input_gradient + n * p.from.n + c0;
  int64_t cleared = 0;
  const auto clear = [&](int64_t end) {
    for (; cleared < end && cleared < p.in[0]; ++cleared) {
      T* cell = result + cleared * p.from.spatial[0];
      if (c1 - c0 == p.from.spatial[1]) {
        __builtin_memset(cell, 0, p.in[1] * (c1 - c0) * sizeof(T));
        continue;
      }
      for (int64_t w = 0; w < p.in[1]; ++w, cell += p.from.spatial[1]) {
        __builtin_memset(cell, 0, (c1 - c0) * sizeof(T));
      }
    }
  };
  for (int64_t y = 0; y < p.out[0]; ++y) {
    const int64_t h = y * p.stride[0] - p.padding[0];
    const PoolRange rows(h, p.dilation[0], p.window[0], p.in[0]);
    clear(h + pool_rows_reached(p));
    for (int64_t x = 0; x < p.out[1]; ++x) {
      const int64_t w = x * p.stride[1] - p.padding[1];
      const int64_t at = n * p.to.n + y * p.to.spatial[0] + x * p.to.spatial[1] + c0;
      const uint8_t* const taps = p.taps + at;
      const T* const owed = g.grad_output + at;
      T* const window = result + h * p.from.spatial[0] + w * p.from.spatial[1];
      const PoolRange columns(w, p.dilation[1], p.window[1], p.in[1]);
      if (apart) {
        share_apart(p, taps, owed, c1 - c0, rows, columns, window);
        continue;
      }
      const bool inside = rows.covers(p.window[0]) && columns.covers(p.window[1]);
      for (int64_t c = 0; c < c1 - c0; ++c) {
        if (inside || lies_inside(p, rows, columns, taps[c])) {
          window[places.at[taps[c]] + c] += owed[c];
        }
      }
    }
  }
  clear(p.in[0]);
}

template <typename T>
void pool_gradient_map(const MaxPool<T>& p, const TapPlaces<T>& places, const uint8_t* taps,
                       const T* owed, T* result) {
  __builtin_memset(result, 0, p.in[0] * p.in[1] * sizeof(T));
  const int64_t reach = (p.window[1] - 1) * p.dilation[1];
  const auto at_edge = [&](PoolRange rows, int64_t h, int64_t begin, int64_t end) {
    for (int64_t x = begin; x < end; ++x) {
      const int64_t w = x * p.stride[1] - p.padding[1];
      if (lies_inside(p, rows, PoolRange(w, p.dilation[1], p.window[1], p.in[1]), taps[x])) {
        result[h * p.in[1] + w + places.at[taps[x]]] += owed[x];
      }
    }
  };
  // Windows x0 <= x < x1 have all their columns inside.
  int64_t x0 = divide_up(p.padding[1], p.stride[1]), x1 = x0;
  const int64_t room = p.in[1] - reach - 1 + p.padding[1];
  if (room >= 0) x1 = room / p.stride[1] + 1;
  if (x1 > p.out[1]) x1 = p.out[1];
  for (int64_t y = 0; y < p.out[0]; ++y, taps += p.out[1], owed += p.out[1]) {
    const int64_t h = y * p.stride[0] - p.padding[0];
    const PoolRange rows(h, p.dilation[0], p.window[0], p.in[0]);
    if (!rows.covers(p.window[0]) || x0 >= x1) {
      at_edge(rows, h, 0, p.out[1]);
      continue;
    }
    at_edge(rows, h, 0, x0);
    T* window = result + h * p.in[1] - p.padding[1] + x0 * p.stride[1];
    for (int64_t x = x0; x < x1; ++x, window += p.stride[1]) window[places.at[taps[x]]] += owed[x];
    at_edge(rows, h, x1, p.out[1]);
  }
}

// Tasks first <= i < last. Maps are dense, if channels are not innermost.
template <typename T>
void max_pool_gradient(const MaxPoolGradient<T>& g, int64_t first, int64_t last) {
  const MaxPool<T>& p = g.pool;
  const TapPlaces<T> places(p);
  for (int64_t i = first; i < last; ++i) {
    if (p.innermost()) {
      const int64_t c = i % g.chunks() * g.channels, end = c + g.channels;
      pool_gradient_pixels(g, places, i / g.chunks(), c, end < p.C ? end : p.C);
    } else {
      const int64_t n = i / p.C, c = i % p.C, to = n * p.to.n + c * p.to.c;
      pool_gradient_map(p, places, p.taps + to, g.grad_output + to,
                        g.input_gradient + n * p.from.n + c * p.from.c);
    }
  }
}
