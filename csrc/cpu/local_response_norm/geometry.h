// What the kernels of local response normalisation are told. Plain data, no torch.
#pragma once

#include <cstdint>

#include "../family.h"

namespace cnn_ext::cpu {

// The exponents that need no logarithm: beta = 1/2, 3/4 and 1.
enum class Power { half, three_quarters, one, other };

// What the rows of a slab are, and so where a window extends: see the table below.
enum class NormLayout { maps, pixels, inside };

// A slab is `rows` of up to `block` contiguous cells, and is copied into a zero-padded buffer in
// which the window of a cell is `size` cells `step` apart along each axis. Strides are in elements.
//
//   maps     neighbouring filters, NCHW   row: a block of pixels of one map    step: block
//   pixels   neighbouring filters, NHWC   row: one pixel, all maps             step: 1
//   inside   a window of one map          row: one row of the map              steps: 1, padded
//   row, ...
template <typename T>
struct ResponseNorm {
  const T* input;
  const T* grad_output;  // null: forward
  T* output;             // or the gradient
  T k, a, beta;          // a: alpha, divided by the window's cells or not
  Power power;

  NormLayout layout;
  int axes;
  int64_t size[3];  // of the window along each axis, the innermost first
  int64_t step[3];

  int64_t columns, block, blocks;  // cells in a row of memory; those of them in a slab; slabs a row
  int64_t slab_stride;             // from slab to slab, or from one row of slabs to the next
  int64_t rows[2], row_stride[2], buffer_stride[2];
  int64_t total_rows;  // bounds the rows of the last slab
  int64_t slabs;

  int64_t buffer;                     // elements
  int64_t origin, transposed_origin;  // of the first cell, for windows that look after / before it
};

// X(slot, result, arguments), for an element type T.
#define CNN_EXT_RESPONSE_NORM_SLOTS(X) \
  X(response_norm, void, (const ResponseNorm<T>&, int64_t first, int64_t last, T* workspace))

CNN_EXT_FAMILY(ResponseNormKernels, CNN_EXT_RESPONSE_NORM_SLOTS);

}  // namespace cnn_ext::cpu
