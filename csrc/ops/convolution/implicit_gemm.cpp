// Implicit GEMM: one product of matrices, whose patch matrix is packed block by block. The elements
// are float, double or pairs of bfloat16.

#include "ops/torch.h"

#include "../../cpu/convolution/implicit_gemm/geometry.h"

#include "../../cpu/convolution/dense/geometry.h"
#include "../../cpu/convolution/regions.h"
#include "../../cpu/convolution/simplify.h"
#include "drivers.h"
#include "tasks.h"

namespace cnn_ext {

// A product; of few pixels without packing, wherever it arises.
template <typename T>
void product(const cpu::Convolution& shape, const T* input, const T* weight,
             const cpu::Sum<T>* bias, cpu::Result<T>* output, const Tensor& like) {
  if (cpu::dense_serves<T>(shape)) return dense<T>(shape, input, weight, bias, output, like);
  const auto& kernels = cpu::kernels<cpu::ImplicitGemmKernels<T>>();
  const int64_t threads = threads_for(shape);
  cpu::Blocking cut = kernels.plan_forward(shape, bias != nullptr);
  kernels.schedule_forward(shape, cut, threads);
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

// The forward pass, where `regions` in regions that meet no padding.
template <typename T>
void implicit_gemm(const cpu::Convolution& shape, bool regions, const T* input, const T* weight,
                   const cpu::Sum<T>* bias, cpu::Result<T>* output, const Tensor& like) {
  if (!regions) return product<T>(simplify(shape, false), input, weight, bias, output, like);
  each_region(shape, cpu::kProductRegions.axes, [&](const auto& part, auto x, auto w, auto y) {
    product<T>(simplify(part, false), input + x, weight + w, bias, output + y, like);
  });
}

namespace {

template <typename T>
void product_weight_gradient(const cpu::Convolution& shape, const cpu::Operand<T>* grad_output,
                             const cpu::Operand<T>* input, const Tensor& result) {
  if constexpr (!cpu::kPairs<T>) {
    if (cpu::dense_weight_gradient_serves(shape)) {
      return dense_weight_gradient<T>(shape, grad_output, input, result);
    }
  }
  const auto& kernels = cpu::kernels<cpu::ImplicitGemmKernels<T>>();
  const int64_t threads = threads_for(shape);
  cpu::GradientBlocking cut = kernels.plan_weight_gradient(shape);
  kernels.schedule_weight_gradient(shape, cut, threads);
  const Parts parts(result, cut.splits);
  const cpu::GemmWeightGradient<T> p{
      {shape, input, grad_output, parts.data<cpu::Sum<T>>(), result.numel()}, cut};
  run_tasks<T>(cut.tasks(shape.G), threads, kernels.weight_gradient_workspace(cut), result,
               [&](int64_t first, int64_t last, T* workspace) {
                 kernels.weight_gradient(p, first, last, workspace);
               });
  parts.add<cpu::Sum<T>>();
}

}  // namespace

// `by_taps`: where most of a wide dilation's products are with padding, tap by tap.
template <typename T>
void implicit_gemm_weight_gradient(const cpu::Convolution& shape, bool by_taps,
                                   const cpu::Operand<T>* grad_output, const cpu::Operand<T>* input,
                                   const Tensor& result) {
  if (!by_taps) {
    return product_weight_gradient<T>(simplify(shape, false), grad_output, input, result);
  }
  const int64_t filters = shape.G * shape.K;
  each_tap(shape, [&](cpu::Convolution part, auto x, auto w, auto g) {
    const Tensor of_tap = result.as_strided({filters, shape.C}, {shape.weight.k, shape.weight.c},
                                            result.storage_offset() + w);
    if (part.pixels() == 0) {
      of_tap.zero_();
      return;
    }
    const Tensor sums = fresh_workspace({filters, shape.C}, result.options());
    part.weight.g = shape.K * shape.C;
    part.weight.k = shape.C;
    part.weight.c = 1;
    product_weight_gradient<T>(simplify(part, false), grad_output + g, input + x, sums);
    of_tap.copy_(sums);
  });
}

CNN_EXT_INSTANTIATE_FORWARD(product, float)
CNN_EXT_INSTANTIATE_FORWARD(product, double)
#define CNN_EXT_INSTANTIATE(T)                                                                   \
  template void implicit_gemm<T>(const cpu::Convolution&, bool, const T*, const T*,              \
                                 const cpu::Sum<T>*, cpu::Result<T>*, const Tensor&);            \
  template void implicit_gemm_weight_gradient<T>(const cpu::Convolution&, bool,                  \
                                                 const cpu::Operand<T>*, const cpu::Operand<T>*, \
                                                 const Tensor&);
CNN_EXT_INSTANTIATE(float)
CNN_EXT_INSTANTIATE(double)
CNN_EXT_INSTANTIATE(cpu::Pair)
#undef CNN_EXT_INSTANTIATE

}  // namespace cnn_ext
