// Local response normalisation and its gradient, one pass over memory each (Krizhevsky, Sutskever
// and Hinton 2012, section 3.3). Included by isa/.
//
//   y = x s^-beta,   s = k + a (sum of x^2 over the window)
//   dx = g s^-beta - 2 a beta x (sum of g x s^(-beta - 1) over the transposed window)
//
// A task is a slab: cells that fit the cache together with the whole of their windows. Its squares
// are laid into a zero-padded buffer in which a window is n cells `step` apart along each of its
// axes, so that neighbouring filters in NCHW, in channels_last, and windows inside one map are the
// same code. The compiler vectorises the plain loops for each instruction set.
#pragma once

#include "powers.h"

// sums[i] = cells[i] + cells[i + step] + ... n terms, for i < count; both hold count + (n - 1)
// step. By doubling, log2(n) additions a cell: no running sum, which would lose small cells beside
// large ones and never recover from an infinite one. Overwrites cells.
template <typename T>
inline void window_sums(int64_t n, int64_t step, int64_t count, T* __restrict cells,
                        T* __restrict sums) {
  int64_t done = 0;  // terms that are in sums
  int64_t held = 1;  // terms that each of cells stands for
  for (int64_t left = n;; left >>= 1) {
    if (left & 1) {
      const T* from = cells + done * step;
      if (done == 0) {
        for (int64_t i = 0; i < count; ++i) sums[i] = from[i];
      } else {
        for (int64_t i = 0; i < count; ++i) sums[i] += from[i];
      }
      done += held;
    }
    if (left <= 1) return;
    const int64_t reach = count + (n - 2 * held) * step;  // cells that anyone will read again
    const int64_t shift = held * step;
    int64_t i =
        0;  // in place: a vector is read before any of its cells, or of those before, is written
    for (; i + Vec<T>::kLanes <= reach; i += Vec<T>::kLanes) {
      Vec<T>{Vec<T>::load(cells + i).lanes + Vec<T>::load(cells + i + shift).lanes}.store(cells +
                                                                                          i);
    }
    for (; i < reach; ++i) cells[i] += cells[i + shift];
    held *= 2;
  }
}

// Sums over windows of all axes of the slab; the result is in the buffer returned.
template <typename T>
inline T* slab_sums(const ResponseNorm<T>& p, T* cells, T* sums) {
  int64_t count = p.buffer;
  for (int axis = 0; axis < p.axes; ++axis) {
    count -= (p.size[axis] - 1) * p.step[axis];
    if (axis > 0) {
      T* const swapped = cells;
      cells = sums;
      sums = swapped;
    }
    window_sums(p.size[axis], p.step[axis], count, cells, sums);
  }
  return sums;
}

constexpr int64_t kStretch = 256;  // cells whose powers are taken at once

// The rows of slab `index`, one after the other: where each lies in the tensors and in the buffer.
template <typename T>
struct SlabRows {
  const ResponseNorm<T>& p;
  int64_t start, length, inner_rows, outer = 0, inner = -1;
  int64_t memory = 0, at = 0;

  SlabRows(const ResponseNorm<T>& norm, int64_t index) : p(norm) {
    const int64_t column = index % p.blocks * p.block, group = index / p.blocks;
    const int64_t rows_left = p.total_rows - group * p.rows[1];
    start = group * p.slab_stride + column;
    length = p.columns - column < p.block ? p.columns - column : p.block;
    inner_rows = rows_left < p.rows[1] ? rows_left : p.rows[1];
  }
  bool next() {
    if (++inner == inner_rows) {
      inner = 0;
      ++outer;
    }
    memory = start + outer * p.row_stride[0] + inner * p.row_stride[1];
    at = outer * p.buffer_stride[0] + inner * p.buffer_stride[1];
    return outer < p.rows[0];
  }
};

// The squares of a slab, at their places between the zeros.
template <typename T>
inline void lay_squares(const ResponseNorm<T>& p, int64_t index, T* cells) {
  for (int64_t i = 0; i < p.buffer; ++i) cells[i] = T(0);
  for (SlabRows<T> row(p, index); row.next();) {
    const T* __restrict x = p.input + row.memory;
    T* __restrict square = cells + p.origin + row.at;
    for (int64_t j = 0; j < row.length; ++j) square[j] = x[j] * x[j];
  }
}

template <Power kPower, typename T>
void response_norm_slabs(const ResponseNorm<T>& p, int64_t first, int64_t last, T* workspace) {
  T* const cells = workspace;
  T* const spare = workspace + p.buffer;
  const T k = p.k, a = p.a;
  for (int64_t index = first; index < last; ++index) {
    lay_squares(p, index, cells);
    const T* const sums = slab_sums(p, cells, spare);
    for (SlabRows<T> row(p, index); row.next();) {
      const T* __restrict x = p.input + row.memory;
      const T* __restrict sum = sums + row.at;
      T* __restrict y = p.output + row.memory;
      T power[kStretch];
      for (int64_t start = 0; start < row.length; start += kStretch) {
        const int64_t count = row.length - start < kStretch ? row.length - start : kStretch;
        for (int64_t j = 0; j < count; ++j) power[j] = k + a * sum[start + j];
        negative_powers<kPower>(count, p.beta, power);
        for (int64_t j = 0; j < count; ++j) y[start + j] = x[start + j] * power[j];
      }
    }
  }
}

template <Power kPower, typename T>
void response_norm_gradient_slabs(const ResponseNorm<T>& p, int64_t first, int64_t last,
                                  T* workspace) {
  T* const cells = workspace;
  T* const spare = workspace + p.buffer;
  const T k = p.k, a = p.a;
  T* const powers = workspace + 2 * p.buffer;
  for (int64_t index = first; index < last; ++index) {
    lay_squares(p, index, cells);
    T* const sums = slab_sums(p, cells, spare);
    T* const terms = sums == spare ? cells : spare;
    for (int64_t i = 0; i < p.buffer; ++i) terms[i] = T(0);
    for (SlabRows<T> row(p, index); row.next();) {
      const T* __restrict x = p.input + row.memory;
      const T* __restrict g = p.grad_output + row.memory;
      const T* __restrict sum = sums + row.at;
      T* __restrict power = powers + row.at;
      T* __restrict term = terms + p.transposed_origin + row.at;
      for (int64_t j = 0; j < row.length; ++j) power[j] = k + a * sum[j];
      negative_powers<kPower>(row.length, p.beta, power);
      for (int64_t j = 0; j < row.length; ++j) term[j] = g[j] * x[j] * power[j] / (k + a * sum[j]);
    }
    const T* const total = slab_sums(p, terms, sums);
    const T factor = T(2) * p.a * p.beta;
    for (SlabRows<T> row(p, index); row.next();) {
      const T* __restrict x = p.input + row.memory;
      const T* __restrict g = p.grad_output + row.memory;
      const T* __restrict power = powers + row.at;
      const T* __restrict sum = total + row.at;
      T* __restrict dx = p.output + row.memory;
      for (int64_t j = 0; j < row.length; ++j) dx[j] = g[j] * power[j] - factor * x[j] * sum[j];
    }
  }
}
