// Max-pooling on CUDA: the drivers. The arithmetic is in csrc/cuda/max_pool/; schemas, checks and
// derivatives are in csrc/ops/max_pool.cpp. Nothing here waits for the device.

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <torch/library.h>

#include "../ops/max_pool/max_pool.h"
#include "max_pool/max_pool.cuh"

namespace cnn_ext {
namespace {

using cuda::kThreads;

// Fills the output, and taps where they are asked for.
void pool_on_device(const Tensor& input, const Tensor& output, const Tensor& taps,
                    IntArrayRef kernel_size, IntArrayRef stride, IntArrayRef padding,
                    IntArrayRef dilation) {
  if (output.numel() == 0) return;
  const Tensor source = input.contiguous(pooled_format(input));
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, input.scalar_type(), "max_pool2d", [&] {
    auto p = describe_pool<scalar_t>(source.sizes(), source.strides(), output, kernel_size, stride,
                                     padding, dilation);
    p.input = source.const_data_ptr<scalar_t>();
    p.output = output.mutable_data_ptr<scalar_t>();
    if (taps.defined()) p.taps = taps.mutable_data_ptr<uint8_t>();
    cuda::launch(cuda::max_pool<scalar_t>, cuda::blocks_for(output.numel(), kThreads), kThreads, p,
                 p.innermost(), output.numel());
  });
}

Tensor max_pool2d_cuda(const Tensor& input, IntArrayRef kernel_size, IntArrayRef stride,
                       IntArrayRef padding, IntArrayRef dilation, bool ceil_mode) {
  const Tensor output = check_max_pool(input, kernel_size, stride, padding, dilation, ceil_mode);
  const cuda::CUDAGuard guard(output.device());
  pool_on_device(input, output, Tensor(), kernel_size, stride, padding, dilation);
  return output;
}

std::tuple<Tensor, Tensor> max_pool2d_with_taps_cuda(const Tensor& input, IntArrayRef kernel_size,
                                                     IntArrayRef stride, IntArrayRef padding,
                                                     IntArrayRef dilation, bool ceil_mode) {
  const auto result =
      check_max_pool_with_taps(input, kernel_size, stride, padding, dilation, ceil_mode);
  const cuda::CUDAGuard guard(input.device());
  pool_on_device(input, std::get<0>(result), std::get<1>(result), kernel_size, stride, padding,
                 dilation);
  return result;
}

Tensor max_pool2d_backward_cuda(const Tensor& grad_output, const Tensor& taps,
                                IntArrayRef input_size, IntArrayRef kernel_size, IntArrayRef stride,
                                IntArrayRef padding, IntArrayRef dilation, bool ceil_mode) {
  const Tensor result =
      check_max_pool_backward(grad_output, taps, c10::fromIntArrayRefSlow(input_size), kernel_size,
                              stride, padding, dilation, ceil_mode);
  const cuda::CUDAGuard guard(result.device());
  if (result.numel() == 0) return result;
  if (grad_output.numel() == 0) return result.zero_();
  const Tensor where = taps.contiguous(pooled_format(taps));
  const Tensor owed = grad_output.contiguous(pooled_format(taps));
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, grad_output.scalar_type(), "max_pool2d_backward", [&] {
        cpu::MaxPoolGradient<scalar_t> g{};
        g.pool = describe_pool<scalar_t>(result.sizes(), result.strides(), owed, kernel_size,
                                         stride, padding, dilation);
        g.pool.taps = const_cast<uint8_t*>(where.const_data_ptr<uint8_t>());  // only read
        g.grad_output = owed.const_data_ptr<scalar_t>();
        g.input_gradient = result.mutable_data_ptr<scalar_t>();
        cuda::launch(cuda::max_pool_gradient<scalar_t>, cuda::blocks_for(result.numel(), kThreads),
                     kThreads, g, g.pool.innermost(), result.numel());
      });
  return result;
}

}  // namespace

TORCH_LIBRARY_IMPL(cnn_ext, CUDA, m) {
  m.impl("max_pool2d", max_pool2d_cuda);
  m.impl("max_pool2d_with_taps", max_pool2d_with_taps_cuda);
  m.impl("max_pool2d_backward", max_pool2d_backward_cuda);
}

}  // namespace cnn_ext
