// Drivers that every CPU convolution shares: equal convolutions with fewer axes, tasks for threads,
// implicit GEMM, whose elements are float, double or pairs of bfloat16, and depthwise convolution,
// whose elements are float, double or bfloat16.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>

#include "../../cpu/convolution/dense/geometry.h"
#include "../../cpu/convolution/depthwise/geometry.h"
#include "../../cpu/convolution/implicit_gemm/geometry.h"
#include "convolution.h"

namespace cnn_ext {

using cpu::kSpatial;

// An equal convolution with fewer taps and more channels, where memory allows: a tap along an axis
// whose windows never touch padding is a channel by another name. A filter as large as its input
// becomes a matrix product, and an image of one channel gets rows of channels to copy. Windows that
// overlap may be read so, but not written: `written` is for the input gradient.
inline cpu::Convolution merge_taps_into_channels(cpu::Convolution c, bool written) {
  const auto foldable = [&](int axis) {
    const int64_t extent = (c.filter[axis] - 1) * c.dilation[axis] + 1;
    const bool inside =
        c.padding[axis] == 0 && (c.out[axis] - 1) * c.stride[axis] + extent <= c.in[axis];
    const bool whole = c.out[axis] == 1 && c.filter[axis] == c.in[axis] && c.dilation[axis] == 1;
    return c.filter[axis] > 1 && inside && (whole || !written);
  };
  const auto fold = [&](int axis, int64_t input_step, int64_t weight_step) {
    c.C *= c.filter[axis];
    c.input.c = input_step;
    c.weight.c = weight_step;
    c.in[axis] = (c.out[axis] - 1) * c.stride[axis] + 1;
    c.filter[axis] = 1;
  };
  for (int axis = 0; axis < kSpatial; ++axis) {  // taps inside channels, as in NCHW
    const int64_t step = c.dilation[axis] * c.input.spatial[axis];
    const int64_t weight_step = c.weight.spatial[axis], F = c.filter[axis];
    if (foldable(axis) && c.C > 1 && c.input.c == F * step && c.weight.c == F * weight_step) {
      fold(axis, step, weight_step);
    }
  }
  for (int axis = kSpatial - 1; axis >= 0; --axis) {  // channels inside taps, as in channels_last
    const int64_t step = c.dilation[axis] * c.input.spatial[axis];
    const int64_t weight_step = c.weight.spatial[axis];
    if (!foldable(axis)) continue;
    if (c.C == 1) {
      fold(axis, step, weight_step);
    } else if (step == c.C * c.input.c && weight_step == c.C * c.weight.c) {
      fold(axis, c.input.c, c.weight.c);
    }
  }
  return c;
}

// Once no taps are left, pixels that lie evenly in memory are one long row, across images too.
inline cpu::Convolution merge_pixels(cpu::Convolution c, bool written) {
  for (int axis = 0; axis < kSpatial; ++axis) {
    const bool inside = c.padding[axis] == 0 && (c.out[axis] - 1) * c.stride[axis] < c.in[axis];
    const bool whole = c.stride[axis] == 1 && c.in[axis] == c.out[axis];
    if (c.filter[axis] != 1 || !inside || (written && !whole)) return c;
  }
  for (int axis = 0; axis < kSpatial; ++axis) {
    c.in[axis] = c.out[axis];
    c.input.spatial[axis] *= c.stride[axis];
    c.stride[axis] = 1;
  }
  // Each axis swallows the one outside it; the batch is outermost.
  for (int inner = kSpatial - 1; inner >= 0; --inner) {
    for (int outer = inner - 1; outer >= -1; --outer) {
      int64_t& count = outer < 0 ? c.N : c.out[outer];
      const int64_t input_step = outer < 0 ? c.input.n : c.input.spatial[outer];
      const int64_t output_step = outer < 0 ? c.output.n : c.output.spatial[outer];
      if (count == 1) continue;
      if (c.out[inner] == 1) {
        c.input.spatial[inner] = input_step;
        c.output.spatial[inner] = output_step;
      } else if (input_step != c.out[inner] * c.input.spatial[inner] ||
                 output_step != c.out[inner] * c.output.spatial[inner]) {
        break;
      }
      c.in[inner] = c.out[inner] *= count;
      count = 1;
      if (outer >= 0) c.in[outer] = 1;
    }
  }
  return c;
}

// The same convolution as its kernels like it best. `written`: its input is what they write.
inline cpu::Convolution simplify(const cpu::Convolution& c, bool written) {
  return merge_pixels(merge_taps_into_channels(c, written), written);
}

// Waking a thread costs about as much as this many multiplications and additions.
inline constexpr double kOperationsPerThread = 5e5;

inline int64_t threads_for(const cpu::Convolution& c) {
  const double operations = 2.0 * c.pixels() * c.G * c.K * c.reduction();
  const double worth = std::max(1.0, operations / kOperationsPerThread);
  return static_cast<int64_t>(std::min<double>(at::get_num_threads(), worth));
}

// Memory for elements of a kernel.
template <typename T>
Tensor empty_of(int64_t count, const Tensor& like) {
  return at::empty({count}, like.options().dtype(c10::CppTypeToScalarType<T>::value));
}

// Runs task(first, last, workspace of this thread) over 0 <= i < tasks on at most `threads`
// threads.
template <typename T, typename Task>
void run_tasks(int64_t tasks, int64_t threads, int64_t workspace_size, const Tensor& like,
               const Task& task) {
  const int64_t each = (workspace_size + 15) / 16 * 16;
  const Tensor workspace = empty_of<T>(threads * each, like);
  T* const base = workspace.mutable_data_ptr<T>();
  const int64_t grain = (tasks + threads - 1) / threads;
  at::parallel_for(0, tasks, std::max<int64_t>(grain, 1), [&](int64_t first, int64_t last) {
    task(first, last, base + at::get_thread_num() * each);
  });
}

// Few pixels, all of them cells of the input, with so many filters that packing these would take
// longer than multiplying: a dense layer's product, or that of the last maps of one image.
inline bool few_pixels(const cpu::Convolution& c) {
  constexpr int64_t kLeast = 1 << 17, kMany = 1 << 22;  // numbers of the filters
  for (int axis = 0; axis < kSpatial; ++axis) {
    if (c.padding[axis] != 0 || (c.out[axis] - 1) * c.stride[axis] >= c.in[axis]) return false;
  }
  if (c.G != 1 || c.taps() != 1 || c.pixels() != c.out[2] || c.stride[2] != 1) return false;
  const int64_t filters = c.K * c.C;
  return filters >= kLeast && c.pixels() <= (filters > kMany ? cpu::kFewPixels : 64);
}

// Multiplies few pixels without packing, where filters have their channels together, or channels
// their filters; whether it did.
template <typename T>
bool multiply_few_pixels(const cpu::Convolution& shape, const T* input, const T* weight,
                         const cpu::Sum<T>* bias, cpu::Result<T>* output, const Tensor& like) {
  if (!few_pixels(shape) || shape.input.c != 1) return false;
  const int64_t threads = threads_for(shape);
  const cpu::ConvolutionForward<T> p{shape, input, weight, bias, nullptr, output};
  using Kernels =
      std::conditional_t<cpu::kPairs<T>, cpu::PairDenseKernels<T>, cpu::DenseKernels<T>>;
  const auto& kernels = cpu::kernels<Kernels>();
  if (shape.weight.c == 1) {
    at::parallel_for(0, shape.K, cpu::divide_up(shape.K, threads),
                     [&](int64_t first, int64_t last) { kernels.dense(p, first, last); });
    return true;
  }
  if constexpr (std::is_floating_point_v<T>) {  // not of pairs
    if (shape.weight.k != 1 || shape.output.c != 1) return false;
    constexpr int64_t kColumns = 64;  // of a task
    const int64_t workspace_size = shape.pixels() * kernels.dense_columns(shape);
    run_tasks<T>(cpu::divide_up(shape.K, kColumns), threads, workspace_size, like,
                 [&](int64_t first, int64_t last, T* workspace) {
                   kernels.dense_by_channels(p, first * kColumns,
                                             std::min(last * kColumns, shape.K), workspace);
                 });
    return true;
  }
  return false;
}

template <typename T>
void implicit_gemm(const cpu::Convolution& shape, const T* input, const T* weight,
                   const cpu::Sum<T>* bias, cpu::Result<T>* output, const Tensor& like) {
  if (multiply_few_pixels(shape, input, weight, bias, output, like)) return;
  const auto& kernels = cpu::kernels<cpu::ImplicitGemmKernels<T>>();
  const int64_t threads = threads_for(shape);
  const cpu::Blocking cut = kernels.plan_forward(shape, bias != nullptr, threads);
  const Tensor packed = empty_of<T>(kernels.packed_size(shape, cut), like);
  const cpu::GemmForward<T> p{{shape, input, weight, bias, packed.mutable_data_ptr<T>(), output},
                              cut};
  const int64_t panels = shape.G * cut.panels;
  const int64_t panels_worth_a_thread = 1 + 32768 / (cut.panel * cut.block * cut.blocks);
  at::parallel_for(0, panels, std::max((panels + threads - 1) / threads, panels_worth_a_thread),
                   [&](int64_t first, int64_t last) { kernels.pack_all_filters(p, first, last); });
  run_tasks<T>(cut.tasks(shape.G), threads, kernels.forward_workspace(cut), like,
               [&](int64_t first, int64_t last, T* workspace) {
                 kernels.convolve(p, first, last, workspace);
               });
}

// A weight gradient whose tasks share out its sum: each part a result of its own, added in order.
struct Parts {
  const Tensor& result;
  Tensor parts;

  Parts(const Tensor& of, int64_t count) : result(of) {
    if (count > 1) {
      parts = at::empty({count * of.numel()}, of.options())
                  .as_strided({count, of.numel()}, {of.numel(), 1});
    }
  }
  template <typename T>
  T* data() const {
    return (parts.defined() ? parts : result).mutable_data_ptr<T>();
  }
  void add() const {
    if (!parts.defined()) return;
    Tensor flat = result.as_strided({result.numel()}, {1});
    at::sum_out(flat, parts, 0);
  }
};

template <typename T>
void multiply_weight_gradient(const cpu::Convolution& shape, const cpu::Operand<T>* grad_output,
                              const cpu::Operand<T>* input, const Tensor& result) {
  const int64_t threads = threads_for(shape);
  if constexpr (std::is_floating_point_v<T>) {  // not of pairs
    const bool together = shape.input.c == 1 && shape.output.c == 1 && shape.weight.c == 1;
    if (few_pixels(shape) && together) {
      const auto& kernels = cpu::kernels<cpu::DenseKernels<T>>();
      const cpu::ConvolutionWeightGradient<T> p{shape, input, grad_output,
                                                result.mutable_data_ptr<T>(), 0};
      at::parallel_for(
          0, shape.K, cpu::divide_up(shape.K, threads),
          [&](int64_t first, int64_t last) { kernels.dense_weight_gradient(p, first, last); });
      return;
    }
  }
  const auto& kernels = cpu::kernels<cpu::ImplicitGemmKernels<T>>();
  const cpu::GradientBlocking cut = kernels.plan_weight_gradient(shape, threads);
  const Parts parts(result, cut.splits);
  const cpu::GemmWeightGradient<T> p{
      {shape, input, grad_output, parts.data<cpu::Sum<T>>(), result.numel()}, cut};
  run_tasks<T>(cut.tasks(shape.G), threads, kernels.weight_gradient_workspace(cut), result,
               [&](int64_t first, int64_t last, T* workspace) {
                 kernels.weight_gradient(p, first, last, workspace);
               });
  parts.add();
}

// Where most of a wide dilation's products are with padding, tap by tap; at once otherwise.
template <typename T>
void implicit_gemm_weight_gradient(const cpu::Convolution& shape,
                                   const cpu::Operand<T>* grad_output, const cpu::Operand<T>* input,
                                   const Tensor& result) {
  const int64_t filters = shape.G * shape.K;
  const bool by_taps = each_tap(shape, [&](cpu::Convolution part, auto x, auto w, auto g) {
    const Tensor of_tap = result.as_strided({filters, shape.C}, {shape.weight.k, shape.weight.c},
                                            result.storage_offset() + w);
    if (part.pixels() == 0) {
      of_tap.zero_();
      return;
    }
    const Tensor sums = at::empty({filters, shape.C}, result.options());
    part.weight.g = shape.K * shape.C;
    part.weight.k = shape.C;
    part.weight.c = 1;
    multiply_weight_gradient<T>(simplify(part, false), grad_output + g, input + x, sums);
    of_tap.copy_(sums);
  });
  if (!by_taps) {
    multiply_weight_gradient<T>(simplify(shape, false), grad_output, input, result);
  }
}

// The forward pass or, where `gradient`, that of the input: `input` is then the gradient of the
// output, and `output` that of the input.
template <typename T>
void depthwise(const cpu::Convolution& shape, bool gradient, const T* input, const T* weight,
               const cpu::Sum<T>* bias, T* output, const Tensor& like) {
  const auto& kernels = cpu::kernels<cpu::DepthwiseKernels<T>>();
  const int64_t threads = threads_for(shape);
  const cpu::Depthwise cut = kernels.plan_depthwise(shape, gradient, threads);
  const int64_t vectors = cut.blocks * cut.vectors;
  const Tensor packed = empty_of<cpu::Packed<T>>(vectors * cut.weights, like);
  const cpu::ConvolutionForward<T> p{cpu::groups_of_one(shape),
                                     input,
                                     weight,
                                     bias,
                                     packed.mutable_data_ptr<cpu::Packed<T>>(),
                                     output};
  at::parallel_for(
      0, vectors, std::max<int64_t>(1, 32768 / cut.weights),
      [&](int64_t first, int64_t last) { kernels.pack_depthwise(p, cut, first, last); });
  run_tasks<cpu::Sum<T>>(cut.tasks(shape), threads, kernels.depthwise_workspace(p.shape, cut), like,
                         [&](int64_t first, int64_t last, cpu::Sum<T>* workspace) {
                           kernels.depthwise(p, cut, first, last, workspace);
                         });
}

template <typename T>
void depthwise_weight_gradient(const cpu::Convolution& shape, const T* grad_output, const T* input,
                               const Tensor& result) {
  const auto& kernels = cpu::kernels<cpu::DepthwiseKernels<T>>();
  const int64_t threads = threads_for(shape);
  const cpu::Depthwise cut = kernels.plan_depthwise(shape, false, threads);
  const Parts parts(result, cut.splits);
  const cpu::ConvolutionWeightGradient<T> p{cpu::groups_of_one(shape), input, grad_output,
                                            parts.data<cpu::Sum<T>>(), result.numel()};
  run_tasks<cpu::Sum<T>>(cut.blocks * cut.splits, threads,
                         kernels.depthwise_workspace(p.shape, cut), result,
                         [&](int64_t first, int64_t last, cpu::Sum<T>* workspace) {
                           kernels.depthwise_weight_gradient(p, cut, first, last, workspace);
                         });
  parts.add();
}

}  // namespace cnn_ext
