// Convolution and its gradients on CUDA: the drivers, which choose a kernel and describe the work
// to it. The arithmetic is in csrc/cuda/convolution/; schemas and checks are in
// csrc/ops/convolution.cpp. Nothing here waits for the device, and sums are taken in a fixed order.

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/Dispatch.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdlib>

#include "../ops/convolution/convolution.h"
#include "../cpu/convolution/depthwise/geometry.h"
#include "../cpu/convolution/phases.h"
#include "../ops/convolution/describe.h"
#include "convolution/depthwise.cuh"
#include "convolution/implicit_gemm.cuh"

namespace cnn_ext {
namespace {

using cuda::Convolution;
using cuda::kSpatial;

// Kernels count the cells along an axis, padding included, in 32 bits.
void check_range(const char* op, const Convolution& c) {
  constexpr int64_t kMost = -int64_t{cuda::kNoCell};
  for (int axis = 0; axis < kSpatial; ++axis) {
    const int64_t reach = c.out[axis] * c.stride[axis] + std::abs(c.padding[axis]);
    TORCH_CHECK(c.in[axis] < kMost && reach < kMost && c.filter[axis] * c.dilation[axis] < kMost,
                op, ": input: CUDA takes fewer than ", kMost, " cells along an axis");
  }
}

// ---------------------------------------------------------------------------------------------
// Implicit GEMM
// ---------------------------------------------------------------------------------------------

// Whether memory runs along `a` rather than along `b`.
bool runs_along(int64_t a, int64_t b) { return std::abs(a) < std::abs(b); }

// The stride of the innermost spatial axis that has any length.
int64_t innermost(const int64_t (&size)[kSpatial], const int64_t (&stride)[kSpatial],
                  int64_t otherwise) {
  for (int axis = kSpatial - 1; axis >= 0; --axis) {
    if (size[axis] > 1) return stride[axis];
  }
  return otherwise;
}

constexpr int64_t kBlocksEnough = 512;     // whatever the device, so that results are the same
constexpr int64_t kTilesWorthASplit = 16;  // of the sum
constexpr int64_t kPartsMemory = int64_t{1} << 24;  // elements

// forward: `left` is the weight; gradient: grad_output, and `result` has the strides of the weight.
template <typename Tile, bool kGradient>
void implicit_gemm_with(const Convolution& c, const typename Tile::T* input,
                        const typename Tile::T* left, const typename Tile::T* bias,
                        typename Tile::T* result, const Tensor& like) {
  using T = typename Tile::T;
  using Sum = typename cuda::Accumulator<T>::type;
  cuda::ImplicitGemm<T> p{};
  p.shape = c;
  p.patches = input;
  p.left = left;
  p.bias = bias;
  p.result = result;
  p.rows = c.K;
  p.columns = kGradient ? c.reduction() : c.pixels();
  p.inner = kGradient ? c.pixels() : c.reduction();
  p.left_group = kGradient ? c.output.g : c.weight.g;
  p.left_row = kGradient ? c.output.c : c.weight.k;
  p.result_group = kGradient ? c.weight.g : c.output.g;
  p.result_row = kGradient ? c.weight.k : c.output.c;
  const int64_t pixel = innermost(c.out, c.output.spatial, c.output.n);
  const int64_t input_pixel = innermost(c.in, c.input.spatial, c.input.n);
  const int64_t tap = innermost(c.filter, c.weight.spatial, c.weight.c);
  const bool pixels_fast = runs_along(input_pixel, c.input.c) || c.C == 1;
  p.channels_inner = !pixels_fast;
  p.columns_fast = pixels_fast != kGradient;
  p.rows_fast = kGradient ? runs_along(c.output.c, pixel)
                          : runs_along(c.weight.k, p.channels_inner ? c.weight.c : tap);
  p.result_rows_fast = kGradient ? false : runs_along(c.output.c, pixel);
  p.row_tiles = cpu::divide_up(p.rows, Tile::kRows);
  p.column_tiles = cpu::divide_up(p.columns, Tile::kColumns);

  const int64_t tiles = c.G * p.row_tiles * p.column_tiles;
  int64_t splits = 1;
  if (kGradient) {  // few tiles and long sums: shared out, and added up in order
    splits = std::min(cpu::divide_up(kBlocksEnough, tiles),
                      cpu::divide_up(p.inner, kTilesWorthASplit * Tile::kInner));
    splits = std::max<int64_t>(1, std::min(splits, kPartsMemory / like.numel()));
  }
  p.split = cpu::round_up(cpu::divide_up(p.inner, splits), Tile::kInner);
  p.splits = cpu::divide_up(p.inner, p.split);
  Tensor parts;
  if (p.splits > 1) {
    parts = at::empty({p.splits * like.numel()},
                      like.options().dtype(c10::CppTypeToScalarType<Sum>::value));
    p.parts = parts.mutable_data_ptr<Sum>();
    p.part_stride = like.numel();
  }
  cuda::launch(cuda::implicit_gemm<Tile, kGradient>, tiles * p.splits, Tile::kBlock, p);
  if (p.splits > 1) {
    cuda::launch(cuda::sum_parts<T>, cuda::blocks_for(like.numel(), cuda::kThreads), cuda::kThreads,
                 p.parts, p.splits, like.numel(), result);
  }
}

// Few filters, as in first layers, get tiles of few rows.
constexpr int64_t kFewFilters = 16;

template <typename Few, typename Many, bool kGradient, typename... Arguments>
void few_or_many(const Convolution& c, const Arguments&... arguments) {
  if (c.K <= kFewFilters) {
    implicit_gemm_with<Few, kGradient>(c, arguments...);
  } else {
    implicit_gemm_with<Many, kGradient>(c, arguments...);
  }
}

// What torch is asked about is an enumerator; it was a word once.
template <typename Operation>
bool allows(bool (at::Context::*ask)(std::optional<Operation>) const) {
  return (at::globalContext().*ask)(Operation::CONV);
}
[[maybe_unused]] bool allows(bool (at::Context::*ask)(const std::string&) const) {
  return (at::globalContext().*ask)("conv");
}

// The same permission that torch's convolutions ask for: torch.backends.cudnn.allow_tf32, or the
// fp32_precision of torch.backends.cudnn.conv.
bool tensor_floats_allowed() { return allows(&at::Context::allowTF32CuDNN); }

template <typename T, bool kGradient, typename... Arguments>
void implicit_gemm(const Convolution& c, const Arguments&... arguments) {
  using cuda::PlainTile;
  using cuda::TensorTile;
  if constexpr (std::is_same_v<T, double>) {
    few_or_many<PlainTile<T, 16, 128, 8, 4, 4>, PlainTile<T, 64, 64, 8, 4, 8>, kGradient>(
        c, arguments...);
  } else {
    const bool allowed = !std::is_same_v<T, float> || tensor_floats_allowed();
    if (allowed && cuda::compute_capability() >= cuda::TensorCell<T>::kLeast) {
      few_or_many<TensorTile<T, 16, 128, 16, 1, 4>, TensorTile<T, 64, 128, 16, 2, 2>, kGradient>(
          c, arguments...);
    } else if constexpr (std::is_same_v<T, c10::Half>) {
      TORCH_CHECK(false, "convolution: input: float16 takes compute capability 7.0");
    } else {
      few_or_many<PlainTile<T, 16, 128, 16, 4, 4>, PlainTile<T, 64, 128, 16, 8, 8>, kGradient>(
          c, arguments...);
    }
  }
}

// ---------------------------------------------------------------------------------------------
// Depthwise
// ---------------------------------------------------------------------------------------------

template <typename T>
void direct(const Convolution& c, const T* input, const T* weight, const T* bias, T* output) {
  const bool groups_fast = runs_along(c.output.g, innermost(c.out, c.output.spatial, c.output.n));
  const cuda::Depthwise<T> p{c, input, weight, bias, output, groups_fast};
  cuda::launch(cuda::depthwise<T>, cuda::blocks_for(c.pixels() * c.G, cuda::kThreads),
               cuda::kThreads, p);
}

template <typename T>
void direct_weight_gradient(const Convolution& c, const T* grad_output, const T* input,
                            T* grad_weight) {
  const cuda::Depthwise<T> p{c, input, grad_output, nullptr, grad_weight, false};
  cuda::launch(cuda::depthwise_weight_gradient<T>, c.G * c.taps(), cuda::kThreads, p);
}

// ---------------------------------------------------------------------------------------------
// Each pass by the algorithm named, or by the one that "auto" means for its shape.
// ---------------------------------------------------------------------------------------------

// Whether the depthwise kernels take it: asked for or left to us, and they serve it.
bool by_direct(const char* op, std::optional<Algorithm> named, const Convolution& c) {
  const bool served = c.C == 1 && c.K == 1 && c.G > 1 && c.taps() <= cpu::kDirectTaps;
  TORCH_CHECK(named != Algorithm::direct || served, op, ": algorithm: on CUDA \"direct\" serves ",
              "depthwise convolution (groups = channels = filters > 1) with at most ",
              cpu::kDirectTaps, " filter cells, got ", c.C, " channels and ", c.K,
              " filters in each of ", c.G, " groups and ", c.taps(), " filter cells");
  return served && named.value_or(Algorithm::direct) == Algorithm::direct;
}

template <typename T>
void forward(bool direct_kernel, const Convolution& c, const T* input, const T* weight,
             const T* bias, T* output, const Tensor& like) {
  if (direct_kernel) {
    direct(c, input, weight, bias, output);
  } else {
    implicit_gemm<T, false>(c, input, weight, bias, output, like);
  }
}

template <typename T>
void input_gradient(bool direct_kernel, const Convolution& c, const T* grad_output, const T* weight,
                    T* grad_input, const Tensor& result) {
  if (!phases_cover(c)) result.zero_();
  each_phase(c, [&](const Convolution& phase, int64_t filter, int64_t cells) {
    forward<T>(direct_kernel, phase, grad_output, weight + filter, nullptr, grad_input + cells,
               result);
  });
}

// ---------------------------------------------------------------------------------------------
// The three operations
// ---------------------------------------------------------------------------------------------

std::optional<Algorithm> served_algorithm(const char* op, c10::string_view name,
                                          SymIntArrayRef weight, const Parameters& p) {
  const auto named = named_algorithm(op, name, weight, p);
  TORCH_CHECK(named != Algorithm::winograd, op, ": algorithm: \"winograd\" has no CUDA kernels; ",
              "on CUDA there are \"auto\", \"implicit_gemm\", \"im2col\" and \"direct\"");
  return named;
}

Tensor convolution_cuda(const Tensor& input, const Tensor& weight,
                        const std::optional<Tensor>& bias, SymIntArrayRef stride,
                        SymIntArrayRef padding, SymIntArrayRef dilation, SymInt groups,
                        c10::string_view algorithm) {
  constexpr auto op = "convolution";
  const Tensor output = empty_output(input, weight, bias, stride, padding, dilation, groups);
  const cuda::CUDAGuard guard(output.device());  // after the checks, that all are on one device
  const auto p = make_parameters(op, weight.dim() - 2, stride, padding, dilation, groups);
  const auto named = served_algorithm(op, algorithm, weight.sym_sizes(), p);
  if (output.numel() == 0) return output;
  if (input.is_complex()) {
    Tensor result = by_real_parts(input, weight, [&](const Tensor& x, const Tensor& w) {
      return convolution_cuda(x, w, std::nullopt, stride, padding, dilation, groups, algorithm);
    });
    return output.copy_(add_bias(result, bias));
  }
  if (named == Algorithm::im2col || weight.numel() == 0) {
    im2col_convolution(input, weight, bias, p, output);
    return output;
  }

  const Convolution shape = describe(input, weight, output, p);
  check_range(op, shape);
  const Tensor packed_bias = bias.has_value() ? bias->contiguous() : Tensor();
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, input.scalar_type(), op, [&] {
    const auto x = input.const_data_ptr<scalar_t>();
    const auto w = weight.const_data_ptr<scalar_t>();
    const auto b = bias.has_value() ? packed_bias.const_data_ptr<scalar_t>() : nullptr;
    const auto y = output.mutable_data_ptr<scalar_t>();
    forward<scalar_t>(by_direct(op, named, shape), shape, x, w, b, y, output);
  });
  return output;
}

Tensor convolution_input_gradient_cuda(const Tensor& grad_output, const Tensor& weight,
                                       SymIntArrayRef input_size, SymIntArrayRef stride,
                                       SymIntArrayRef padding, SymIntArrayRef dilation,
                                       SymInt groups, c10::string_view algorithm) {
  constexpr auto op = "convolution_input_gradient";
  const Tensor grad_input =
      empty_input_gradient(grad_output, weight, input_size, stride, padding, dilation, groups);
  const cuda::CUDAGuard guard(grad_input.device());
  const auto p = make_parameters(op, weight.dim() - 2, stride, padding, dilation, groups);
  const auto named = served_algorithm(op, algorithm, weight.sym_sizes(), p);
  if (grad_input.numel() == 0) return grad_input;
  if (weight.numel() == 0) return grad_input.zero_();
  if (weight.is_complex()) {
    return grad_input.copy_(
        by_real_parts(grad_output, weight, [&](const Tensor& g, const Tensor& w) {
          return convolution_input_gradient_cuda(g, w, input_size, stride, padding, dilation,
                                                 groups, algorithm);
        }));
  }
  if (named == Algorithm::im2col) {
    im2col_input_gradient(grad_output, weight, p, grad_input);
    return grad_input;
  }

  const Convolution shape = describe(grad_input, weight, grad_output, p);
  check_range(op, shape);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, weight.scalar_type(), op, [&] {
    const auto g = grad_output.const_data_ptr<scalar_t>();
    const auto w = weight.const_data_ptr<scalar_t>();
    const auto dx = grad_input.mutable_data_ptr<scalar_t>();
    input_gradient<scalar_t>(by_direct(op, named, shape), shape, g, w, dx, grad_input);
  });
  return grad_input;
}

Tensor convolution_weight_gradient_cuda(const Tensor& grad_output, const Tensor& input,
                                        SymIntArrayRef weight_size, SymIntArrayRef stride,
                                        SymIntArrayRef padding, SymIntArrayRef dilation,
                                        SymInt groups, c10::string_view algorithm) {
  constexpr auto op = "convolution_weight_gradient";
  const Tensor grad_weight =
      empty_weight_gradient(grad_output, input, weight_size, stride, padding, dilation, groups);
  const cuda::CUDAGuard guard(grad_weight.device());
  const auto p = make_parameters(op, grad_weight.dim() - 2, stride, padding, dilation, groups);
  const auto named = served_algorithm(op, algorithm, weight_size, p);
  if (grad_weight.numel() == 0) return grad_weight;
  if (grad_output.numel() == 0) return grad_weight.zero_();
  if (input.is_complex()) {
    return grad_weight.copy_(
        by_real_parts(grad_output, input, [&](const Tensor& g, const Tensor& x) {
          return convolution_weight_gradient_cuda(g, x, weight_size, stride, padding, dilation,
                                                  groups, algorithm);
        }));
  }
  if (named == Algorithm::im2col) {
    im2col_weight_gradient(grad_output, input, p, grad_weight);
    return grad_weight;
  }

  const Convolution shape = describe(input, grad_weight, grad_output, p);
  check_range(op, shape);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, input.scalar_type(), op, [&] {
    const auto g = grad_output.const_data_ptr<scalar_t>();
    const auto x = input.const_data_ptr<scalar_t>();
    const auto dw = grad_weight.mutable_data_ptr<scalar_t>();
    if (by_direct(op, named, shape)) {
      direct_weight_gradient(shape, g, x, dw);
    } else {
      const scalar_t* const no_bias = nullptr;
      implicit_gemm<scalar_t, true>(shape, x, g, no_bias, dw, grad_weight);
    }
  });
  return grad_weight;
}

}  // namespace

TORCH_LIBRARY_IMPL(cnn_ext, CUDA, m) {
  m.impl("convolution", convolution_cuda);
  m.impl("convolution_input_gradient", convolution_input_gradient_cuda);
  m.impl("convolution_weight_gradient", convolution_weight_gradient_cuda);
}

}  // namespace cnn_ext
