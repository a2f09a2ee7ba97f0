// Local response normalisation over a few neighbouring filters in channels_last: all maps of a
// pixel lie together, and a window is n neighbours in memory. Included by isa/.
//
// The squares (and going backwards the terms) of one pixel are laid between zeros in a row that
// stays in L1, and windows are summed from there.
#pragma once

#include "powers.h"

// row[c] + ... + row[c + n - 1], at the cells of `mask` and whatever follows within the row's
// padding.
template <typename T>
inline Vec<T> row_sum(const T* row, int64_t n, typename Vec<T>::Mask mask) {
  Vec<T> sum = Vec<T>::load(row, mask);
  for (int64_t i = 1; i < n; ++i) sum = {sum.lanes + Vec<T>::load(row + i, mask).lanes};
  return sum;
}

// Slabs first <= i < last of pixels, as `slabs.h` cuts them. workspace: 3 * p.buffer elements.
template <Power kPower, typename T>
void norm_rows(const ResponseNorm<T>& p, int64_t first, int64_t last, T* workspace) {
  using V = Vec<T>;
  const int64_t C = p.columns, n = p.size[0], padded = C + n - 1;
  T* const squares = workspace;
  T* const terms = squares + padded;
  T* const scaled = terms + padded;
  for (int64_t i = 0; i < 2 * padded; ++i) squares[i] = T(0);  // and terms
  const V a = V::broadcast(p.a), k = V::broadcast(p.k);
  const V factor = V::broadcast(T(-2) * p.a * p.beta);
  const int64_t end = last * p.rows[1] < p.total_rows ? last * p.rows[1] : p.total_rows;
  for (int64_t pixel = first * p.rows[1]; pixel < end; ++pixel) {
    const T* const x = p.input + pixel * C;
    T* const y = p.output + pixel * C;
    for (int64_t c = 0; c < C; c += V::kLanes) {
      const auto mask = V::Mask::range(0, C - c < V::kLanes ? C - c : V::kLanes);
      const V cells = V::load(x + c, mask);
      V{cells.lanes * cells.lanes}.store(squares + p.origin + c, mask);
    }
    for (int64_t c = 0; c < C; c += V::kLanes) {
      const auto mask = V::Mask::range(0, C - c < V::kLanes ? C - c : V::kLanes);
      const V s = k.fused_add(a, row_sum(squares + c, n, mask));
      const V power = vector_power<kPower>(s);
      const V cells = V::load(x + c, mask);
      if (p.grad_output == nullptr) {
        V{cells.lanes * power.lanes}.store(y + c, mask);
      } else {
        const V product = {V::load(p.grad_output + pixel * C + c, mask).lanes * power.lanes};
        product.store(scaled + c, mask);
        V{product.lanes * cells.lanes / s.lanes}.store(terms + p.transposed_origin + c, mask);
      }
    }
    if (p.grad_output == nullptr) continue;
    for (int64_t c = 0; c < C; c += V::kLanes) {
      const auto mask = V::Mask::range(0, C - c < V::kLanes ? C - c : V::kLanes);
      const V pull = {factor.lanes * V::load(x + c, mask).lanes};
      V::load(scaled + c, mask).fused_add(pull, row_sum(terms + c, n, mask)).store(y + c, mask);
    }
  }
}
