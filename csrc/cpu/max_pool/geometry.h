// What the max-pooling kernel is told. Plain data, no torch.
#pragma once

#include <cstdint>

namespace cnn_ext::cpu {

// output[n, c, p, q] = the maximum of input[n, c, p * stride - padding + r * dilation, ...] over
// the cells r, s of the window that lie inside. Strides are in elements.
template <typename T>
struct MaxPool {
  const T* input;
  T* output;
  int64_t N, C;
  int64_t in[2], out[2], window[2], stride[2], padding[2], dilation[2];
  struct Strides {
    int64_t n, c, spatial[2];
  } from, to;

  bool innermost() const { return from.c == 1 && to.c == 1 && C > 1; }  // the channels
  // One is a row of the output with all its channels, or else a map.
  int64_t tasks() const { return innermost() ? N * out[0] : N * C; }
};

}  // namespace cnn_ext::cpu
