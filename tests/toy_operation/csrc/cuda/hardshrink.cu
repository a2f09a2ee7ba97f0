// Hard shrinkage on CUDA: the driver. The arithmetic is in csrc/cuda/hardshrink/; schemas and
// checks are in csrc/ops/hardshrink/schema.cpp. Nothing here waits for the device.

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <torch/library.h>

#include "../ops/hardshrink/hardshrink.h"
#include "hardshrink/hardshrink.cuh"

namespace cnn_ext {
namespace {

Tensor run_on_device(const Tensor& input, const Tensor& values, double lambd,
                     const Tensor& result) {
  const cuda::CUDAGuard guard(result.device());
  const Tensor x = laid_out_as(result, input), v = laid_out_as(result, values);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, input.scalar_type(), "hardshrink", [&] {
    const cpu::Hardshrink<scalar_t> p{x.const_data_ptr<scalar_t>(), v.const_data_ptr<scalar_t>(),
                                      result.mutable_data_ptr<scalar_t>(),
                                      static_cast<scalar_t>(lambd)};
    cuda::launch(cuda::hardshrink<scalar_t>, cuda::blocks_for(result.numel(), cuda::kThreads),
                 cuda::kThreads, p, result.numel());
  });
  return result;
}

Tensor hardshrink_cuda(const Tensor& input, double lambd) {
  return run_on_device(input, input, lambd, check_hardshrink(input, lambd));
}

Tensor hardshrink_backward_cuda(const Tensor& grad_output, const Tensor& input, double lambd) {
  return run_on_device(input, grad_output, lambd,
                       check_hardshrink_backward(grad_output, input, lambd));
}

}  // namespace

TORCH_LIBRARY_IMPL(cnn_ext, CUDA, m) {
  m.impl("hardshrink", hardshrink_cuda);
  m.impl("hardshrink_backward", hardshrink_backward_cuda);
}

}  // namespace cnn_ext
