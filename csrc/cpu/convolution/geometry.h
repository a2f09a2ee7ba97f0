// What a convolution kernel is told: sizes, strides and pointers. Plain data, no torch.
//
// Letters: N batch, G groups, C input channels and K filters (both of one group), R x S filter.
// Spatial arrays hold (depth, height, width); a 1-d or 2-d convolution has leading ones.
// All strides are in elements, may be zero or negative, and are the only thing that tells NCHW from
// channels_last, a flipped filter from an upright one, or a sliced view from a whole tensor.
#pragma once

#include <cstdint>

namespace cnn_ext::cpu {

constexpr int kSpatial = 3;
constexpr int64_t kDirectTaps = 64;  // filters up to 8 x 8 have a direct depthwise kernel

struct FeatureMapStrides {
  int64_t n, g, c, spatial[kSpatial];
};

struct FilterStrides {
  int64_t g, k, c, spatial[kSpatial];
};

// out[n, g, k, o] = sum over c, t of  in[n, g, c, o * stride - padding + t * dilation] * w[g, k, c,
// t] with zero wherever the input index lies outside the input. `padding` may be negative (a crop).
struct Convolution {
  int64_t N, G, C, K;
  int64_t in[kSpatial], out[kSpatial], filter[kSpatial];
  int64_t stride[kSpatial], padding[kSpatial], dilation[kSpatial];
  FeatureMapStrides input, output;
  FilterStrides weight;

  int64_t taps() const { return filter[0] * filter[1] * filter[2]; }
  int64_t pixels() const { return N * out[0] * out[1] * out[2]; }
  // The length of the sum behind one output cell; r = tap * C + c counts through it.
  int64_t reduction() const { return C * taps(); }
};

// How the product is cut for the micro-kernel; filled by `plan_*` of the kernels in use.
struct Blocking {
  bool pixels_on_rows;  // whether pixels are rows and filters columns of a tile, or the reverse
  int64_t reduction;    // reduction(), and one more for the bias: a weight on a constant 1
  int64_t block;        // steps of the reduction between two visits to the accumulators
  int64_t blocks;
  int64_t panel;         // filters per packed panel
  int64_t panels;        // per group
  int64_t pixel_block;   // pixels per task
  int64_t pixel_blocks;  // over the whole batch
  int64_t filter_tasks;  // a task takes every pixel of a block and 1 / filter_tasks of the panels

  int64_t tasks(int64_t groups) const { return groups * filter_tasks * pixel_blocks; }
};

template <typename T>
struct ConvolutionForward {
  Convolution shape;
  Blocking blocking;
  const T* input;
  const T* weight;
  const T* bias;  // (G * K) or null
  T* packed;      // packed_size elements, 64-byte aligned
  T* output;
};

// How the weight gradient is cut: each task sums over 1 / splits of the pixels and holds the
// accumulators of 1 / chunks of the reduction.
struct GradientBlocking {
  bool filters_on_rows;  // whether filters are rows and patch entries columns of a tile
  int64_t pixel_block;
  int64_t chunk;  // patch entries per task, a multiple of the tile
  int64_t chunks;
  int64_t splits;

  int64_t tasks(int64_t groups) const { return groups * chunks * splits; }
};

template <typename T>
struct ConvolutionWeightGradient {
  Convolution shape;  // of the forward pass; `weight` holds the strides of the result
  GradientBlocking blocking;
  const T* input;
  const T* grad_output;
  T* grad_weight;        // one result for each split
  int64_t split_stride;  // from split to split
};

}  // namespace cnn_ext::cpu
