// Hard shrinkage and its gradient on the CPU: the driver. The arithmetic is in
// csrc/cpu/hardshrink/; schemas and checks are in schema.cpp.

#include "ops/torch.h"

#include "../../cpu/hardshrink/geometry.h"
#include "../memory.h"
#include "../trace.h"
#include "hardshrink.h"

namespace cnn_ext {
namespace {

constexpr int64_t kGrain = 32768;  // elements that are worth a thread

// bfloat16 and float16 are compared in float32, and what passes is rounded back to what it was.
Tensor run(const Tensor& input, const Tensor& values, double lambd, const Tensor& result) {
  if (result.numel() == 0) return result;
  if (at::isReducedFloatingType(input.scalar_type())) {
    const Tensor wide = at::empty_like(result, result.options().dtype(at::kFloat));
    return result.copy_(run(input.to(at::kFloat), values.to(at::kFloat), lambd, wide));
  }
  with_huge_pages(result);
  const Tensor x = laid_out_as(result, input), v = laid_out_as(result, values);
  AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), "hardshrink", [&] {
    const cpu::Hardshrink<scalar_t> p{x.const_data_ptr<scalar_t>(), v.const_data_ptr<scalar_t>(),
                                      result.mutable_data_ptr<scalar_t>(),
                                      static_cast<scalar_t>(lambd)};
    const auto& kernels = cpu::kernels<cpu::HardshrinkKernels<scalar_t>>();
    at::parallel_for(0, result.numel(), kGrain,
                     [&](int64_t first, int64_t last) { kernels.hardshrink(p, first, last); });
  });
  return result;
}

Tensor hardshrink_cpu(const Tensor& input, double lambd) {
  Traced traced;
  trace(traced, "hardshrink", "forward", "fused", input);
  return run(input, input, lambd, check_hardshrink(input, lambd));
}

Tensor hardshrink_backward_cpu(const Tensor& grad_output, const Tensor& input, double lambd) {
  Traced traced;
  trace(traced, "hardshrink", "input_gradient", "fused", input);
  return run(input, grad_output, lambd, check_hardshrink_backward(grad_output, input, lambd));
}

}  // namespace

TORCH_LIBRARY_IMPL(cnn_ext, CPU, m) {
  m.impl("hardshrink", hardshrink_cpu);
  m.impl("hardshrink_backward", hardshrink_backward_cpu);
}

}  // namespace cnn_ext
