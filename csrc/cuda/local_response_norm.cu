// Local response normalisation and its gradient on CUDA: the driver. The arithmetic is in
// csrc/cuda/local_response_norm/; schemas and checks are in csrc/ops/local_response_norm.cpp.

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <torch/library.h>

#include <algorithm>

#include "../ops/local_response_norm/local_response_norm.h"
#include "local_response_norm/response_norm.cuh"

namespace cnn_ext {
namespace {

using Arguments = ResponseNormArguments;
using cuda::kThreads;

cuda::Power power_of(double beta) {
  if (beta == 0.5) return cuda::Power::half;
  if (beta == 0.75) return cuda::Power::three_quarters;
  return beta == 1.0 ? cuda::Power::one : cuda::Power::other;
}

constexpr int64_t kThreadsEnough = 1 << 17;  // to keep every device busy
constexpr int64_t kLeastWalk = 16;           // maps: a shorter walk mostly reads its surroundings

// Windows of a few neighbouring filters, with pixels innermost.
template <typename T, int kSize, int kWidth>
void columns_of_width(cuda::ResponseNorm<T> p) {
  const int64_t columns = p.outer * (p.inner / kWidth);
  const int64_t most = std::max<int64_t>(1, p.maps / kLeastWalk);
  p.walks = std::clamp<int64_t>(kThreadsEnough / columns, 1, most);
  p.walk = (p.maps + p.walks - 1) / p.walks;
  p.walks = (p.maps + p.walk - 1) / p.walk;
  const auto kernel = p.grad_output == nullptr ? cuda::norm_columns<T, kSize, kWidth>
                                               : cuda::norm_gradient_columns<T, kSize, kWidth>;
  cuda::launch(kernel, cuda::blocks_for(columns * p.walks, kThreads), kThreads, p);
}

template <typename T, int kSize>
void columns(const cuda::ResponseNorm<T>& p) {
  // Cells an access, up to 16 bytes; the windows of four fill the registers.
  constexpr int kMost = std::min<int>(4, 16 / sizeof(T));
  const bool wide = p.inner % kMost == 0 && cuda::is_aligned(p.input, kMost) &&
                    cuda::is_aligned(p.output, kMost) &&
                    (p.grad_output == nullptr || cuda::is_aligned(p.grad_output, kMost));
  if (wide) {
    columns_of_width<T, kSize, kMost>(p);
  } else {
    columns_of_width<T, kSize, 1>(p);
  }
}

template <typename T>
void channels(cuda::ResponseNorm<T>& p) {
  if (p.inner > 1 && p.size == 3) return columns<T, 3>(p);
  if (p.inner > 1 && p.size == 5) return columns<T, 5>(p);
  const int64_t padded = p.maps + p.size - 1;
  if (p.inner == 1 && padded <= cuda::kRowCells) {
    p.pixels = cuda::kRowCells / padded;
    return cuda::launch(cuda::norm_rows<T>, cuda::blocks_for(p.outer, p.pixels), kThreads, p);
  }
  p.axes = 1;
  p.extent[0] = p.maps;
  p.step[0] = p.inner;
}

// Fills `result` with the output, or, where grad_output is defined, with the input gradient.
template <typename T>
void run(const Arguments& arguments, const Tensor& input, const Tensor& grad_output,
         Tensor& result) {
  using Sum = typename cuda::Accumulator<T>::type;
  // All three tensors as contiguous ones over the same order of axes.
  const at::DimVector order = response_norm_order(arguments, result);
  const Tensor x = input.permute(order).contiguous();
  const Tensor g = grad_output.defined() ? grad_output.permute(order).contiguous() : Tensor();
  const Tensor target = result.permute(order);
  const Tensor y = target.is_contiguous() ? target : at::empty(x.sizes(), x.options());

  cuda::ResponseNorm<T> p{};
  p.input = x.const_data_ptr<T>();
  p.grad_output = g.defined() ? g.const_data_ptr<T>() : nullptr;
  p.output = y.mutable_data_ptr<T>();
  p.k = static_cast<Sum>(arguments.k);
  p.a = static_cast<Sum>(arguments.scaled_alpha(x.dim()));
  p.beta = static_cast<Sum>(arguments.beta);
  p.power = power_of(arguments.beta);
  p.cells = x.numel();
  if (arguments.spatial) {
    p.axes = static_cast<int>(arguments.window_axes(x.dim()));
    for (int axis = 0; axis < p.axes; ++axis) {
      p.extent[axis] = x.size(x.dim() - p.axes + axis);
      p.size = std::max(p.size, arguments.window_along(p.extent[axis]));
      p.step[axis] = x.stride(x.dim() - p.axes + axis);
    }
  } else {
    const auto at = std::find(order.begin(), order.end(), arguments.channel_dim) - order.begin();
    p.outer = c10::multiply_integers(x.sizes().slice(0, at));
    p.maps = x.size(at);
    p.size = arguments.window_along(p.maps);
    p.inner = c10::multiply_integers(x.sizes().slice(at + 1));
    channels(p);
  }

  if (p.axes > 0) {  // not done yet: cell by cell
    Tensor workspace;
    if (g.defined()) {
      workspace = at::empty({2, p.cells}, x.options().dtype(c10::CppTypeToScalarType<Sum>::value));
      p.terms = workspace.mutable_data_ptr<Sum>();
      p.powers = p.terms + p.cells;
    }
    const int64_t blocks = cuda::blocks_for(p.cells, kThreads);
    cuda::launch(cuda::norm_cells<T>, blocks, kThreads, p);
    if (g.defined()) cuda::launch(cuda::norm_gradient_cells<T>, blocks, kThreads, p);
  }
  if (!target.is_contiguous()) target.copy_(y);
}

// bfloat16 and float16 are computed in float32, where a square cannot overflow, and rounded once.
Tensor dispatch(const Arguments& arguments, const Tensor& input, const Tensor& grad_output) {
  const cuda::CUDAGuard guard(input.device());
  Tensor result = at::empty_like(input);
  if (input.numel() == 0) return result;
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, input.scalar_type(),
                                  "local_response_norm",
                                  [&] { run<scalar_t>(arguments, input, grad_output, result); });
  return result;
}

Tensor local_response_norm_cuda(const Tensor& input, int64_t size, double alpha, double beta,
                                double k, c10::string_view alpha_scaling, c10::string_view region,
                                int64_t channel_dim) {
  return dispatch(check_response_norm("local_response_norm", input, size, alpha, beta, k,
                                      alpha_scaling, region, channel_dim),
                  input, Tensor());
}

Tensor local_response_norm_backward_cuda(const Tensor& grad_output, const Tensor& input,
                                         int64_t size, double alpha, double beta, double k,
                                         c10::string_view alpha_scaling, c10::string_view region,
                                         int64_t channel_dim) {
  check_response_norm_gradient(grad_output, input);
  return dispatch(check_response_norm("local_response_norm_backward", input, size, alpha, beta, k,
                                      alpha_scaling, region, channel_dim),
                  input, grad_output);
}

}  // namespace

TORCH_LIBRARY_IMPL(cnn_ext, CUDA, m) {
  m.impl("local_response_norm", local_response_norm_cuda);
  m.impl("local_response_norm_backward", local_response_norm_backward_cuda);
}

}  // namespace cnn_ext
