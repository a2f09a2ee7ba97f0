// Local response normalisation over a few neighbouring filters in NCHW, the case that networks use:
// a vector of pixels walks through the maps with its whole window in registers, so that every cell
// is read once and written once and there is no buffer. Included by isa/.
//
// For odd n = 2 h + 1. Step c of the walk reads map c + h. Going backwards, step c finishes map c -
// h, because its gradient wants the terms of maps c - 2 h to c.
#pragma once

#include "powers.h"

// The sum of all that a ring holds.
template <int n, typename T>
inline Vec<T> ring_sum(const Vec<T> (&ring)[n]) {
  Vec<T> sum = ring[0];
#pragma GCC unroll 8
  for (int i = 1; i < n; ++i) sum = {sum.lanes + ring[i].lanes};
  return sum;
}

template <int n, typename T>
inline void ring_push(Vec<T> (&ring)[n], Vec<T> value) {
#pragma GCC unroll 8
  for (int i = 0; i + 1 < n; ++i) ring[i] = ring[i + 1];
  ring[n - 1] = value;
}

// `maps` maps, `stride` from one to the next, at the pixels of `mask`.
template <Power kPower, int n, typename T>
inline void norm_column(const ResponseNorm<T>& p, int64_t maps, int64_t stride, const T* x, T* y,
                        typename Vec<T>::Mask mask) {
  using V = Vec<T>;
  constexpr int h = n / 2;
  const V a = V::broadcast(p.a), k = V::broadcast(p.k);
  V cells[h + 1] = {}, squares[n] = {};
  for (int64_t c = -h; c < maps; ++c) {
    V next = V::zero();
    if (c + h < maps) {
      __builtin_prefetch(x + (c + h) * stride + 2 * V::kLanes);
      next = V::load(x + (c + h) * stride, mask);
    }
    ring_push(cells, next);
    ring_push(squares, V{next.lanes * next.lanes});
    if (c < 0) continue;
    const V power = vector_power<kPower>(k.fused_add(a, ring_sum(squares)));
    V{cells[0].lanes * power.lanes}.store(y + c * stride, mask);
  }
}

template <Power kPower, int n, typename T>
inline void norm_gradient_column(const ResponseNorm<T>& p, int64_t maps, int64_t stride, const T* x,
                                 const T* g, T* dx, typename Vec<T>::Mask mask) {
  using V = Vec<T>;
  constexpr int h = n / 2;
  const V a = V::broadcast(p.a), k = V::broadcast(p.k);
  const V factor = V::broadcast(T(-2) * p.a * p.beta);
  // Of maps c to c + h: x, squares up to c + h; of maps c - 2 h to c: the terms; c - h to c: g
  // s^-beta.
  V ahead[h + 1] = {}, squares[n] = {}, terms[n] = {}, behind[h + 1] = {}, scaled[h + 1] = {};
  for (int64_t c = -h; c < maps + h; ++c) {
    V next = V::zero();
    if (c + h < maps) {
      __builtin_prefetch(x + (c + h) * stride + 2 * V::kLanes);
      next = V::load(x + (c + h) * stride, mask);
    }
    ring_push(ahead, next);
    ring_push(squares, V{next.lanes * next.lanes});
    if (c < 0) continue;
    V term = V::zero(), product = V::zero();
    if (c < maps) {
      __builtin_prefetch(g + c * stride + 2 * V::kLanes);
      const V s = k.fused_add(a, ring_sum(squares));
      product = {V::load(g + c * stride, mask).lanes * vector_power<kPower>(s).lanes};
      term = {product.lanes * ahead[0].lanes / s.lanes};
    }
    ring_push(terms, term);
    ring_push(behind, ahead[0]);
    ring_push(scaled, product);
    if (c < h) continue;
    const V pull = {factor.lanes * behind[0].lanes};
    scaled[0].fused_add(pull, ring_sum(terms)).store(dx + (c - h) * stride, mask);
  }
}

// Slabs first <= i < last of blocks of pixels, as `slabs.h` cuts them.
template <Power kPower, int n, typename T>
void norm_columns(const ResponseNorm<T>& p, int64_t first, int64_t last) {
  constexpr int64_t kLanes = Vec<T>::kLanes;
  const int64_t maps = p.rows[1], stride = p.row_stride[1];
  for (int64_t index = first; index < last; ++index) {
    const int64_t column = index % p.blocks * p.block;
    const int64_t start = index / p.blocks * p.slab_stride + column;
    const int64_t length = p.columns - column < p.block ? p.columns - column : p.block;
    for (int64_t j = 0; j < length; j += kLanes) {
      const auto mask = Vec<T>::Mask::range(0, length - j < kLanes ? length - j : kLanes);
      const int64_t at = start + j;
      if (p.grad_output == nullptr) {
        norm_column<kPower, n>(p, maps, stride, p.input + at, p.output + at, mask);
      } else {
        norm_gradient_column<kPower, n>(p, maps, stride, p.input + at, p.grad_output + at,
                                        p.output + at, mask);
      }
    }
  }
}
