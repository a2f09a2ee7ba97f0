// Max-pooling for networks that only infer (cnn_ext.freeze): torch's without its indices, which
// make it several times as slow in NCHW. It has no gradient. The arithmetic is in
// csrc/cpu/max_pool/.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include "../cpu/kernels.h"
#include "memory.h"

namespace cnn_ext {
namespace {

using at::IntArrayRef;
using at::Tensor;

void check_max_pool(const Tensor& input, IntArrayRef kernel_size, IntArrayRef stride,
                    IntArrayRef padding, IntArrayRef dilation) {
  TORCH_CHECK(input.dim() == 3 || input.dim() == 4,
              "max_pool2d: input: expected (N, C, H, W) or (C, H, W), got shape ",
              input.sym_sizes());
  const auto check = [](const char* name, IntArrayRef values, int64_t least) {
    TORCH_CHECK(values.size() == 2 && values[0] >= least && values[1] >= least,
                "max_pool2d: ", name, ": expected two numbers of at least ", least, ", got ",
                values);
  };
  check("kernel_size", kernel_size, 1);
  check("stride", stride, 1);
  check("padding", padding, 0);
  check("dilation", dilation, 1);
}

Tensor empty_output(const Tensor& input, IntArrayRef kernel_size, IntArrayRef stride,
                    IntArrayRef padding, IntArrayRef dilation, bool ceil_mode) {
  check_max_pool(input, kernel_size, stride, padding, dilation);
  c10::SymDimVector size(input.sym_sizes().begin(), input.sym_sizes().end());
  for (int axis = 0; axis < 2; ++axis) {
    c10::SymInt& extent = size[input.dim() - 2 + axis];
    const int64_t reach = (kernel_size[axis] - 1) * dilation[axis], pad = padding[axis];
    TORCH_CHECK(2 * pad <= reach + 1, "max_pool2d: padding: expected at most half a window, got ",
                padding, " for windows of ", kernel_size, " cells");
    const c10::SymInt room = extent + 2 * pad - reach - 1;
    TORCH_CHECK(extent > 0 && room >= 0, "max_pool2d: input: expected at least one window along ",
                "each axis, got shape ", input.sym_sizes(), " for windows of ", kernel_size,
                " cells");
    c10::SymInt count = (room + (ceil_mode ? stride[axis] - 1 : 0)) / stride[axis] + 1;
    // No window starts in the padding behind.
    if (ceil_mode && (count - 1) * stride[axis] >= extent + pad) count = count - 1;
    extent = count;
  }
  const auto format =
      input.dim() == 4 ? input.suggest_memory_format() : at::MemoryFormat::Contiguous;
  return at::empty_symint(size, input.options().memory_format(format));
}

template <typename T>
void pool(const Tensor& input, const Tensor& output, IntArrayRef kernel_size, IntArrayRef stride,
          IntArrayRef padding, IntArrayRef dilation) {
  cpu::MaxPool<T> p{};
  const int64_t first = input.dim() - 3;  // the channels
  p.input = input.const_data_ptr<T>();
  p.output = output.mutable_data_ptr<T>();
  p.N = first == 1 ? input.size(0) : 1;
  p.C = input.size(first);
  p.from = {first == 1 ? input.stride(0) : 0, input.stride(first), {}};
  p.to = {first == 1 ? output.stride(0) : 0, output.stride(first), {}};
  for (int axis = 0; axis < 2; ++axis) {
    p.in[axis] = input.size(first + 1 + axis);
    p.out[axis] = output.size(first + 1 + axis);
    p.from.spatial[axis] = input.stride(first + 1 + axis);
    p.to.spatial[axis] = output.stride(first + 1 + axis);
    p.window[axis] = kernel_size[axis];
    p.stride[axis] = stride[axis];
    p.padding[axis] = padding[axis];
    p.dilation[axis] = dilation[axis];
  }
  const cpu::Kernels<T>& kernels = cpu::kernels<T>();
  const int64_t workspace = kernels.max_pool_workspace(p);
  const int64_t each = std::max<int64_t>(1, output.numel() / p.tasks());
  at::parallel_for(0, p.tasks(), 1 + 16384 / each, [&](int64_t begin, int64_t end) {
    const Tensor memory = at::empty({workspace}, output.options());
    kernels.max_pool(p, begin, end, memory.mutable_data_ptr<T>());
  });
}

Tensor max_pool2d_cpu(const Tensor& input, IntArrayRef kernel_size, IntArrayRef stride,
                      IntArrayRef padding, IntArrayRef dilation, bool ceil_mode) {
  const Tensor output = empty_output(input, kernel_size, stride, padding, dilation, ceil_mode);
  if (output.numel() == 0) return output;
  if (input.scalar_type() != at::kFloat && input.scalar_type() != at::kDouble) {
    return at::max_pool2d(input, kernel_size, stride, padding, dilation, ceil_mode);
  }
  with_huge_pages(output);
  const auto format =
      input.dim() == 4 ? input.suggest_memory_format() : at::MemoryFormat::Contiguous;
  const Tensor source = input.contiguous(format);
  AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), "max_pool2d", [&] {
    pool<scalar_t>(source, output, kernel_size, stride, padding, dilation);
  });
  return output;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(cnn_ext, m) {
  m.def(
      "max_pool2d(Tensor input, int[2] kernel_size, int[2] stride, int[2] padding, int[2] "
      "dilation, "
      "bool ceil_mode) -> Tensor");
}

TORCH_LIBRARY_IMPL(cnn_ext, CompositeExplicitAutograd, m) {
  m.impl("max_pool2d", [](const Tensor& input, IntArrayRef kernel_size, IntArrayRef stride,
                          IntArrayRef padding, IntArrayRef dilation, bool ceil_mode) {
    check_max_pool(input, kernel_size, stride, padding, dilation);
    return at::max_pool2d(input, kernel_size, stride, padding, dilation, ceil_mode);
  });
}

TORCH_LIBRARY_IMPL(cnn_ext, CPU, m) { m.impl("max_pool2d", max_pool2d_cpu); }

TORCH_LIBRARY_IMPL(cnn_ext, Meta, m) { m.impl("max_pool2d", empty_output); }

}  // namespace cnn_ext
