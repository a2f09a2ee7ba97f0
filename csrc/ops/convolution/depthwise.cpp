// Depthwise convolution and narrow groups. The elements are float, double or bfloat16.

#include "ops/torch.h"

#include "../../cpu/convolution/depthwise/geometry.h"

#include "drivers.h"
#include "tasks.h"

namespace cnn_ext {

// The forward pass or, where `gradient`, that of the input: `input` is then the gradient of the
// output, and `output` that of the input.
template <typename T>
void depthwise(const cpu::Convolution& shape, bool gradient, const T* input, const T* weight,
               const cpu::Sum<T>* bias, T* output, const Tensor& like) {
  const auto& kernels = cpu::kernels<cpu::DepthwiseKernels<T>>();
  const int64_t threads = threads_for(shape);
  cpu::Depthwise cut = kernels.plan_depthwise(shape, gradient);
  kernels.schedule_depthwise(shape, cut, threads);
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
  cpu::Depthwise cut = kernels.plan_depthwise(shape, false);
  kernels.schedule_depthwise_gradient(shape, cut, threads);
  const Parts parts(result, cut.splits);
  const cpu::ConvolutionWeightGradient<T> p{cpu::groups_of_one(shape), input, grad_output,
                                            parts.data<cpu::Sum<T>>(), result.numel()};
  run_tasks<cpu::Sum<T>>(cut.blocks * cut.splits, threads,
                         kernels.depthwise_workspace(p.shape, cut), result,
                         [&](int64_t first, int64_t last, cpu::Sum<T>* workspace) {
                           kernels.depthwise_weight_gradient(p, cut, first, last, workspace);
                         });
  parts.add<cpu::Sum<T>>();
}

#define CNN_EXT_INSTANTIATE(T)                                                            \
  template void depthwise<T>(const cpu::Convolution&, bool, const T*, const T*,           \
                             const cpu::Sum<T>*, T*, const Tensor&);                      \
  template void depthwise_weight_gradient<T>(const cpu::Convolution&, const T*, const T*, \
                                             const Tensor&);
CNN_EXT_INSTANTIATE(float)
CNN_EXT_INSTANTIATE(double)
CNN_EXT_INSTANTIATE(cpu::BFloat16)
#undef CNN_EXT_INSTANTIATE

}  // namespace cnn_ext
