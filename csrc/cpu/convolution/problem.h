// What a convolution kernel is told: sizes, strides and pointers. Plain data, no torch.
//
// Letters: N batch, G groups, C input channels and K filters (both of one group), R x S filter.
// Spatial arrays hold (depth, height, width); a 1-d or 2-d convolution has leading ones.
// All strides are in elements, may be zero or negative, and are the only thing that tells NCHW from
// channels_last, a flipped filter from an upright one, or a sliced view from a whole tensor.
#pragma once

#include <cstdint>

#include "../family.h"
#include "tuning.h"

namespace cnn_ext::cpu {

constexpr int kSpatial = 3;

struct FeatureMapStrides {
  int64_t n, g, c, spatial[kSpatial];
};

struct FilterStrides {
  int64_t g, k, c, spatial[kSpatial];
};

// out[n, g, k, o] = sum over c, t of  in[n, g, c, o * stride - padding + t * dilation] * w[g, k, c,
// t] with zero wherever the input index lies outside the input. `padding` may be negative (a crop).
// `relu`: whether max(out, 0) is stored instead.
struct Convolution {
  int64_t N, G, C, K;
  int64_t in[kSpatial], out[kSpatial], filter[kSpatial];
  int64_t stride[kSpatial], padding[kSpatial], dilation[kSpatial];
  FeatureMapStrides input, output;
  FilterStrides weight;
  bool relu;

  int64_t taps() const { return filter[0] * filter[1] * filter[2]; }
  int64_t pixels() const { return N * out[0] * out[1] * out[2]; }
  // Whether the channels of a pixel lie together: channels_last.
  bool innermost() const { return input.c == 1 && C > 1; }
  // The length of the sum behind one output cell; r = tap * C + c counts through it.
  int64_t reduction() const { return C * taps(); }
};

// The tensors of a forward pass.
template <typename T>
struct ConvolutionForward {
  Convolution shape;
  const T* input;
  const T* weight;
  const Sum<T>* bias;  // (G * K) or null
  Packed<T>* packed;   // filters, 64-byte aligned, or null
  Result<T>* output;
};

// Those of a weight gradient.
template <typename T>
struct ConvolutionWeightGradient {
  Convolution shape;        // of the forward pass; `weight` holds the strides of the result
  const Operand<T>* input;  // pairs are made of pixels
  const Operand<T>* grad_output;
  Sum<T>* grad_weight;   // one result for each split
  int64_t split_stride;  // from split to split
};

}  // namespace cnn_ext::cpu
