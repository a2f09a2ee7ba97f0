// Max-pooling on the CPU: the drivers. The arithmetic is in csrc/cpu/max_pool/; schemas, checks and
// derivatives are in max_pool.cpp.

#include "ops/torch.h"

#include "max_pool.h"
#include "../memory.h"
#include "../trace.h"

namespace cnn_ext {
namespace {

// Tasks that read or write so many cells are shared out in parts worth a thread.
int64_t grain(int64_t tasks, int64_t cells) {
  return 1 + 16384 / std::max<int64_t>(1, cells / tasks);
}

bool has_kernel(const Tensor& tensor) {
  return tensor.scalar_type() == at::kFloat || tensor.scalar_type() == at::kDouble;
}

// Fills the output, and taps where they are asked for.
void pool(const Tensor& input, const Tensor& output, const Tensor& taps, IntArrayRef kernel_size,
          IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation) {
  if (output.numel() == 0) return;
  with_huge_pages(output);
  const Tensor source = input.contiguous(pooled_format(input));
  AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), "max_pool2d", [&] {
    auto p = describe_pool<scalar_t>(source.sizes(), source.strides(), output, kernel_size, stride,
                                     padding, dilation);
    p.input = source.const_data_ptr<scalar_t>();
    p.output = output.mutable_data_ptr<scalar_t>();
    if (taps.defined()) p.taps = taps.mutable_data_ptr<uint8_t>();
    const auto& kernels = cpu::kernels<cpu::MaxPoolKernels<scalar_t>>();
    const int64_t workspace = kernels.max_pool_workspace(p);
    at::parallel_for(0, p.tasks(), grain(p.tasks(), std::max(source.numel(), output.numel())),
                     [&](int64_t begin, int64_t end) {
                       const Tensor memory = at::empty({workspace}, output.options());
                       kernels.max_pool(p, begin, end, memory.mutable_data_ptr<scalar_t>());
                     });
  });
}

Tensor max_pool2d_cpu(const Tensor& input, IntArrayRef kernel_size, IntArrayRef stride,
                      IntArrayRef padding, IntArrayRef dilation, bool ceil_mode) {
  if (!has_kernel(input)) {
    return at::max_pool2d(input, kernel_size, stride, padding, dilation, ceil_mode);
  }
  Traced traced;
  trace(traced, "max_pool2d", "forward", "max_pool", input);
  const Tensor output = check_max_pool(input, kernel_size, stride, padding, dilation, ceil_mode);
  pool(input, output, Tensor(), kernel_size, stride, padding, dilation);
  return output;
}

std::tuple<Tensor, Tensor> max_pool2d_with_taps_cpu(const Tensor& input, IntArrayRef kernel_size,
                                                    IntArrayRef stride, IntArrayRef padding,
                                                    IntArrayRef dilation, bool ceil_mode) {
  TORCH_CHECK(has_kernel(input), "max_pool2d: input: expected float32 or float64 where a gradient ",
              "is asked for, got ", input.scalar_type());
  Traced traced;
  trace(traced, "max_pool2d", "forward", "max_pool with taps", input);
  auto result = check_max_pool_with_taps(input, kernel_size, stride, padding, dilation, ceil_mode);
  pool(input, std::get<0>(result), std::get<1>(result), kernel_size, stride, padding, dilation);
  return result;
}

Tensor max_pool2d_backward_cpu(const Tensor& grad_output, const Tensor& taps,
                               IntArrayRef input_size, IntArrayRef kernel_size, IntArrayRef stride,
                               IntArrayRef padding, IntArrayRef dilation, bool ceil_mode) {
  const Tensor result =
      check_max_pool_backward(grad_output, taps, c10::fromIntArrayRefSlow(input_size), kernel_size,
                              stride, padding, dilation, ceil_mode);
  TORCH_CHECK(has_kernel(grad_output), "max_pool2d_backward: grad_output: expected float32 or ",
              "float64, got ", grad_output.scalar_type());
  Traced traced;
  trace(traced, "max_pool2d", "input_gradient", "max_pool", result);
  if (grad_output.numel() == 0) return result.zero_();
  with_huge_pages(result);
  const Tensor where = taps.contiguous(pooled_format(taps));
  const Tensor owed = grad_output.contiguous(pooled_format(taps));
  AT_DISPATCH_FLOATING_TYPES(grad_output.scalar_type(), "max_pool2d_backward", [&] {
    cpu::MaxPoolGradient<scalar_t> g{};
    g.pool = describe_pool<scalar_t>(result.sizes(), result.strides(), owed, kernel_size, stride,
                                     padding, dilation);
    g.pool.taps = const_cast<uint8_t*>(where.const_data_ptr<uint8_t>());  // which is only read
    g.grad_output = owed.const_data_ptr<scalar_t>();
    g.input_gradient = result.mutable_data_ptr<scalar_t>();
    // Channels of a pixel are shared out only where there are fewer images than threads.
    const int64_t parts = cpu::divide_up(at::get_num_threads(), g.pool.N);
    g.channels = cpu::round_up(cpu::divide_up(g.pool.C, parts), 16);
    at::parallel_for(
        0, g.tasks(), grain(g.tasks(), result.numel()), [&](int64_t begin, int64_t end) {
          cpu::kernels<cpu::MaxPoolKernels<scalar_t>>().max_pool_gradient(g, begin, end);
        });
  });
  return result;
}

}  // namespace

TORCH_LIBRARY_IMPL(cnn_ext, CPU, m) {
  m.impl("max_pool2d", max_pool2d_cpu);
  m.impl("max_pool2d_with_taps", max_pool2d_with_taps_cpu);
  m.impl("max_pool2d_backward", max_pool2d_backward_cpu);
}

}  // namespace cnn_ext
