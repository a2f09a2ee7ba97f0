// What every implementation of dense layers shares, whatever its device: the arguments, checked,
// and how a dense layer is a convolution: rows are images of one pixel, and a filter has one tap.
#pragma once

#include <ATen/ATen.h>

#include <optional>

namespace cnn_ext {

using at::Tensor;

// Each operation's checks end in its still empty result. (..., C) and (K, C) to (..., K):
Tensor empty_linear(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias);
// (..., K) and (..., C) to (K, C):
Tensor empty_linear_weight_gradient(const Tensor& grad_output, const Tensor& input);

// (..., C) as (rows, C, 1), of which a result is a view.
inline Tensor as_pixels(const Tensor& rows) {
  int64_t count = 1;
  for (int64_t axis = 0; axis + 1 < rows.dim(); ++axis) count *= rows.size(axis);
  return rows.reshape({count, rows.size(-1), 1});
}

}  // namespace cnn_ext
