// What the max-pooling kernels are told. Plain data, no torch.
#pragma once

#include <cstdint>

#include "../family.h"

namespace cnn_ext::cpu {

// output[n, c, p, q] = the maximum of input[n, c, p * stride - padding + r * dilation, ...] over
// the cells r, s of the window that lie inside. Strides are in elements.
template <typename T>
struct MaxPool {
  const T* input;
  T* output;
  uint8_t* taps;  // as the output; or none, where no gradient will be asked for
  int64_t N, C;
  int64_t in[2], out[2], window[2], stride[2], padding[2], dilation[2];
  struct Strides {
    int64_t n, c, spatial[2];
  } from, to;

  bool innermost() const { return from.c == 1 && to.c == 1 && C > 1; }  // the channels
  // One is a row of the output with all its channels, or else a map.
  int64_t tasks() const { return innermost() ? N * out[0] : N * C; }
};

// A tap is the cell r * window[1] + s of a window that is its maximum: the first of equals, the
// last NaN. A window that lies in the padding alone has none.
constexpr int64_t kMostTaps = 255;
constexpr uint8_t kNoTap = 255;

// input_gradient = the sum of grad_output over the windows whose maximum a cell is.
template <typename T>
struct MaxPoolGradient {
  MaxPool<T> pool;       // with taps, without input and output
  const T* grad_output;  // strides `to`
  T* input_gradient;     // strides `from`
  int64_t channels;      // to a task, where they are innermost

  int64_t chunks() const { return (pool.C + channels - 1) / channels; }
  // One is some channels of an image, or else a map.
  int64_t tasks() const { return pool.N * (pool.innermost() ? chunks() : pool.C); }
};

// X(slot, result, arguments), for an element type T.
#define CNN_EXT_MAX_POOL_SLOTS(X)                                                   \
  X(max_pool_workspace, int64_t, (const MaxPool<T>&))                               \
  X(max_pool, void, (const MaxPool<T>&, int64_t first, int64_t last, T* workspace)) \
  X(max_pool_gradient, void, (const MaxPoolGradient<T>&, int64_t first, int64_t last))

CNN_EXT_FAMILY(MaxPoolKernels, CNN_EXT_MAX_POOL_SLOTS);

}  // namespace cnn_ext::cpu
