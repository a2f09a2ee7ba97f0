// What every implementation of hard shrinkage shares, whatever its device: the argument checks.
#pragma once

#include <ATen/ATen.h>

#pragma GCC visibility push(default)  // tests/cuda/emulation is linked with these

namespace cnn_ext {

using at::Tensor;

// Each checks the arguments and returns the still empty result.
Tensor check_hardshrink(const Tensor& input, double lambd);
Tensor check_hardshrink_backward(const Tensor& grad_output, const Tensor& input, double lambd);

// The tensor with the strides of the result, which kernels run over as over one row.
inline Tensor laid_out_as(const Tensor& result, const Tensor& tensor) {
  if (tensor.strides() == result.strides()) return tensor;
  return at::empty_like(result).copy_(tensor);
}

}  // namespace cnn_ext

#pragma GCC visibility pop
