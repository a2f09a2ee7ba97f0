// What every implementation of unfold (im2col) and fold (col2im) shares: the arguments, checked.
#pragma once

#include <ATen/ATen.h>

namespace cnn_ext {

using at::Tensor;
using c10::SymIntArrayRef;

// Each operation's checks end in its still empty result: (N, C, H, W) to (N, C R S, P Q) and back.
Tensor empty_columns(const Tensor& input, SymIntArrayRef kernel_size, SymIntArrayRef dilation,
                     SymIntArrayRef padding, SymIntArrayRef stride);
Tensor empty_image(const Tensor& input, SymIntArrayRef output_size, SymIntArrayRef kernel_size,
                   SymIntArrayRef dilation, SymIntArrayRef padding, SymIntArrayRef stride);

// Patches along an axis of so many cells.
template <typename Int>
Int patches_along(const Int& cells, const Int& kernel, const Int& dilation, const Int& padding,
                  const Int& stride) {
  return (cells + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1;
}

}  // namespace cnn_ext
