// What every implementation of max-pooling shares, whatever its device: the arguments, checked, and
// what kernels are told.
#pragma once

#include <ATen/ATen.h>

#include "../../cpu/max_pool/geometry.h"

#pragma GCC visibility push(default)  // tests/cuda/emulation is linked with these

namespace cnn_ext {

using at::IntArrayRef;
using at::Tensor;

// Each operation's checks end in its still empty result: all that a meta or fake tensor needs. They
// raise errors that name the argument.
Tensor check_max_pool(const Tensor& input, IntArrayRef kernel_size, IntArrayRef stride,
                      IntArrayRef padding, IntArrayRef dilation, bool ceil_mode);
std::tuple<Tensor, Tensor> check_max_pool_with_taps(const Tensor& input, IntArrayRef kernel_size,
                                                    IntArrayRef stride, IntArrayRef padding,
                                                    IntArrayRef dilation, bool ceil_mode);
Tensor check_max_pool_backward(const Tensor& grad_output, const Tensor& taps,
                               c10::SymIntArrayRef input_size, IntArrayRef kernel_size,
                               IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation,
                               bool ceil_mode);

// Of the output, and of what kernels read.
at::MemoryFormat pooled_format(const Tensor& input);

// from: sizes and strides of the input, `to` the output, both dense.
template <typename T>
cpu::MaxPool<T> describe_pool(IntArrayRef from, IntArrayRef from_strides, const Tensor& to,
                              IntArrayRef kernel_size, IntArrayRef stride, IntArrayRef padding,
                              IntArrayRef dilation) {
  cpu::MaxPool<T> p{};
  const int64_t first = to.dim() - 3;  // the channels
  p.N = first == 1 ? to.size(0) : 1;
  p.C = to.size(first);
  p.from = {first == 1 ? from_strides[0] : 0, from_strides[first], {}};
  p.to = {first == 1 ? to.stride(0) : 0, to.stride(first), {}};
  for (int axis = 0; axis < 2; ++axis) {
    p.in[axis] = from[first + 1 + axis];
    p.out[axis] = to.size(first + 1 + axis);
    p.from.spatial[axis] = from_strides[first + 1 + axis];
    p.to.spatial[axis] = to.stride(first + 1 + axis);
    p.window[axis] = kernel_size[axis];
    p.stride[axis] = p.out[axis] == 1 ? 1 : stride[axis];  // one window goes nowhere
    p.padding[axis] = padding[axis];
    p.dilation[axis] = dilation[axis];
  }
  return p;
}

}  // namespace cnn_ext

#pragma GCC visibility pop
