// Local response normalisation and its gradient on the CPU: the driver. The arithmetic is in
// csrc/cpu/local_response_norm/; schemas and checks are in local_response_norm.cpp.

#include "ops/torch.h"

#include "../../cpu/local_response_norm/geometry.h"
#include "local_response_norm.h"
#include "../memory.h"
#include "../trace.h"

namespace cnn_ext {
namespace {

using Arguments = ResponseNormArguments;

constexpr int64_t kSlabElements = 32 * 1024;  // of each of the buffers: together they stay in L2

// input is contiguous, (outer, C, inner): windows over C.
template <typename T>
void describe_channels(const Arguments& arguments, cpu::ResponseNorm<T>& p, int64_t outer,
                       int64_t C, int64_t inner) {
  const int64_t n = p.size[0] = arguments.window_along(C);
  const int64_t padded = C + n - 1;
  p.axes = 1;
  p.rows[0] = 1;
  if (inner == 1) {  // the maps of a pixel lie together: a slab is a number of pixels
    p.layout = cpu::NormLayout::pixels;
    p.step[0] = 1;
    p.columns = p.block = C;
    p.blocks = 1;
    p.rows[1] = std::min(outer, std::max<int64_t>(1, kSlabElements / 2 / padded));
    p.row_stride[1] = C;
    p.buffer_stride[1] = padded;
    p.slab_stride = p.rows[1] * C;
    p.total_rows = outer;
    p.slabs = (outer + p.rows[1] - 1) / p.rows[1];
    p.buffer = p.rows[1] * padded;
  } else {  // a slab is a block of pixels, map after map
    p.layout = cpu::NormLayout::maps;
    const int64_t most = std::clamp<int64_t>(kSlabElements / 2 / padded / 16 * 16, 16, 1024);
    p.columns = inner;
    p.blocks = (inner + most - 1) / most;
    p.block = p.blocks == 1 ? inner : (inner / p.blocks + 16) / 16 * 16;
    p.blocks = (inner + p.block - 1) / p.block;
    p.step[0] = p.block;
    p.rows[1] = C;
    p.row_stride[1] = inner;
    p.buffer_stride[1] = p.block;
    p.slab_stride = C * inner;
    p.total_rows = outer * C;
    p.slabs = outer * p.blocks;
    p.buffer = padded * p.block;
  }
  // torch's window reaches size / 2 filters before and (size - 1) / 2 after; the gradient's is its
  // mirror image.
  p.origin = n / 2 * p.step[0];
  p.transposed_origin = (n - 1) / 2 * p.step[0];
}

// input is contiguous, (maps, D, H, W): windows inside each map, along the axes of `sizes`.
template <typename T>
void describe_spatial(const Arguments& arguments, cpu::ResponseNorm<T>& p, int64_t maps,
                      at::IntArrayRef sizes) {
  p.layout = cpu::NormLayout::inside;
  p.axes = static_cast<int>(sizes.size());
  int64_t size[3] = {1, 1, 1}, padded[3] = {1, 1, 1};
  for (int axis = 0; axis < p.axes; ++axis) {
    const int64_t window = arguments.window_along(sizes[axis]);
    p.size[p.axes - 1 - axis] = window;
    size[3 - p.axes + axis] = sizes[axis];
    padded[3 - p.axes + axis] = sizes[axis] + window - 1;
  }
  const int64_t steps[3] = {padded[1] * padded[2], padded[2], 1};
  p.origin = 0;
  for (int axis = 0; axis < p.axes; ++axis) {
    p.step[axis] = steps[2 - axis];  // the innermost first
    p.origin += p.size[axis] / 2 * p.step[axis];
  }
  p.transposed_origin = p.origin;  // the window is odd and so its own mirror image
  p.columns = p.block = size[2];
  p.blocks = 1;
  p.rows[0] = size[0];
  p.rows[1] = size[1];
  p.row_stride[0] = size[1] * size[2];
  p.row_stride[1] = size[2];
  p.buffer_stride[0] = steps[0];
  p.buffer_stride[1] = steps[1];
  p.slab_stride = size[0] * size[1] * size[2];
  p.total_rows = maps * size[1];
  p.slabs = maps;
  p.buffer = padded[0] * padded[1] * padded[2];
}

cpu::Power power_of(double beta) {
  if (beta == 0.5) return cpu::Power::half;
  if (beta == 0.75) return cpu::Power::three_quarters;
  return beta == 1.0 ? cpu::Power::one : cpu::Power::other;
}

// Fills `result` with the output, or, where grad_output is defined, with the input gradient.
template <typename T>
void run(const Arguments& arguments, const Tensor& input, const Tensor& grad_output,
         Tensor& result) {
  // All three tensors as contiguous ones over the same order of axes.
  const at::DimVector order = response_norm_order(arguments, result);
  const Tensor x = input.permute(order).contiguous();
  const Tensor g = grad_output.defined() ? grad_output.permute(order).contiguous() : Tensor();
  const Tensor target = result.permute(order);
  const Tensor y = target.is_contiguous() ? target : at::empty(x.sizes(), x.options());

  const int64_t axes = arguments.window_axes(x.dim());
  cpu::ResponseNorm<T> p{};
  p.input = x.const_data_ptr<T>();
  p.grad_output = g.defined() ? g.const_data_ptr<T>() : nullptr;
  p.output = y.mutable_data_ptr<T>();
  p.k = static_cast<T>(arguments.k);
  p.a = static_cast<T>(arguments.scaled_alpha(x.dim()));
  p.beta = static_cast<T>(arguments.beta);
  p.power = power_of(arguments.beta);
  if (arguments.spatial) {
    const auto maps = c10::multiply_integers(x.sizes().slice(0, x.dim() - axes));
    describe_spatial(arguments, p, maps, x.sizes().slice(x.dim() - axes));
  } else {
    const auto at = std::find(order.begin(), order.end(), arguments.channel_dim) - order.begin();
    describe_channels(arguments, p, c10::multiply_integers(x.sizes().slice(0, at)), x.size(at),
                      c10::multiply_integers(x.sizes().slice(at + 1)));
  }

  const auto& kernels = cpu::kernels<cpu::ResponseNormKernels<T>>();
  const int64_t slabs_worth_a_thread = 1 + 32768 * p.slabs / x.numel();
  const int64_t threads = at::get_num_threads();
  const int64_t each = (3 * p.buffer + 15) / 16 * 16;
  const Tensor workspace = fresh_workspace({std::min(threads, p.slabs) * each}, x.options());
  T* const base = workspace.mutable_data_ptr<T>();
  at::parallel_for(0, p.slabs, std::max(slabs_worth_a_thread, (p.slabs + threads - 1) / threads),
                   [&](int64_t first, int64_t last) {
                     kernels.response_norm(p, first, last, base + at::get_thread_num() * each);
                   });
  if (!target.is_contiguous()) target.copy_(y);
}

// bfloat16 and float16 are computed in float32, where a square cannot overflow, and rounded once.
Tensor dispatch(const Arguments& arguments, const Tensor& input, const Tensor& grad_output) {
  Tensor result = with_huge_pages(at::empty_like(input));
  if (input.numel() == 0) return result;
  if (at::isReducedFloatingType(input.scalar_type())) {
    const Tensor g = grad_output.defined() ? grad_output.to(at::kFloat) : Tensor();
    return result.copy_(dispatch(arguments, input.to(at::kFloat), g));
  }
  AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), "local_response_norm",
                             [&] { run<scalar_t>(arguments, input, grad_output, result); });
  return result;
}

Tensor local_response_norm_cpu(const Tensor& input, int64_t size, double alpha, double beta,
                               double k, c10::string_view alpha_scaling, c10::string_view region,
                               int64_t channel_dim) {
  Traced traced;
  trace(traced, "local_response_norm", "forward", region == "spatial" ? "spatial" : "channels",
        input);
  return dispatch(check_response_norm("local_response_norm", input, size, alpha, beta, k,
                                      alpha_scaling, region, channel_dim),
                  input, Tensor());
}

Tensor local_response_norm_backward_cpu(const Tensor& grad_output, const Tensor& input,
                                        int64_t size, double alpha, double beta, double k,
                                        c10::string_view alpha_scaling, c10::string_view region,
                                        int64_t channel_dim) {
  check_response_norm_gradient(grad_output, input);
  Traced traced;
  trace(traced, "local_response_norm", "input_gradient",
        region == "spatial" ? "spatial" : "channels", input);
  return dispatch(check_response_norm("local_response_norm_backward", input, size, alpha, beta, k,
                                      alpha_scaling, region, channel_dim),
                  input, grad_output);
}

}  // namespace

TORCH_LIBRARY_IMPL(cnn_ext, CPU, m) {
  m.impl("local_response_norm", local_response_norm_cpu);
  m.impl("local_response_norm_backward", local_response_norm_backward_cpu);
}

}  // namespace cnn_ext
