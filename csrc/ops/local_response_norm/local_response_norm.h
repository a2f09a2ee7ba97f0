// What every implementation of local response normalisation shares, whatever its device: the
// arguments, checked, and how they speak of a tensor's axes.
#pragma once

#include <ATen/ATen.h>

#include <algorithm>

#pragma GCC visibility push(default)  // tests/cuda/emulation is linked with these

namespace cnn_ext {

using at::Tensor;

struct ResponseNormArguments {
  int64_t size;
  double alpha, beta, k;
  bool mean;     // alpha_scaling
  bool spatial;  // region
  int64_t channel_dim;

  // Of a tensor with this many axes, how many a window extends along.
  int64_t window_axes(int64_t dim) const { return spatial ? dim - (channel_dim == 0 ? 1 : 2) : 1; }
  // The window along an axis of so many cells. One of 2 cells - 1 holds the whole axis, wherever it
  // stands, and a larger one adds nothing but zeros.
  int64_t window_along(int64_t cells) const { return std::min(size, 2 * cells - 1); }
  // alpha, divided by the window's cells or not.
  double scaled_alpha(int64_t dim) const;
};

// Raise errors that name `op` and the argument.
ResponseNormArguments check_response_norm(const char* op, const Tensor& input, int64_t size,
                                          double alpha, double beta, double k,
                                          c10::string_view alpha_scaling, c10::string_view region,
                                          int64_t channel_dim);
void check_response_norm_gradient(const Tensor& grad_output, const Tensor& input);

// The order of axes in which kernels want all tensors contiguous: that of `result` in memory or,
// where windows are spatial, the batch, the channels, and the axes of the window.
at::DimVector response_norm_order(const ResponseNormArguments& arguments, const Tensor& result);

}  // namespace cnn_ext

#pragma GCC visibility pop
