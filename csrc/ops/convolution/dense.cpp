// Products of few pixels with many filters, such as a dense layer's: the filters are read once,
// where they lie.

#include "ops/torch.h"

#include "../../cpu/convolution/dense/geometry.h"

#include "drivers.h"
#include "tasks.h"

namespace cnn_ext {

template <typename T>
void dense(const cpu::Convolution& shape, const T* input, const T* weight, const cpu::Sum<T>* bias,
           cpu::Result<T>* output, const Tensor& like) {
  const int64_t threads = threads_for(shape);
  const cpu::ConvolutionForward<T> p{shape, input, weight, bias, nullptr, output};
  using Kernels =
      std::conditional_t<cpu::kPairs<T>, cpu::PairDenseKernels<T>, cpu::DenseKernels<T>>;
  const auto& kernels = cpu::kernels<Kernels>();
  if (shape.weight.c == 1) {
    at::parallel_for(0, shape.K, cpu::divide_up(shape.K, threads),
                     [&](int64_t first, int64_t last) { kernels.dense(p, first, last); });
    return;
  }
  if constexpr (!cpu::kPairs<T>) {
    const int64_t workspace_size = shape.pixels() * kernels.dense_columns(shape);
    run_tasks<T>(cpu::divide_up(shape.K, cpu::kDenseTask), threads, workspace_size, like,
                 [&](int64_t first, int64_t last, T* workspace) {
                   kernels.dense_by_channels(p, first * cpu::kDenseTask,
                                             std::min(last * cpu::kDenseTask, shape.K), workspace);
                 });
  }
}

template <typename T>
void dense_weight_gradient(const cpu::Convolution& shape, const T* grad_output, const T* input,
                           const Tensor& result) {
  const auto& kernels = cpu::kernels<cpu::DenseKernels<T>>();
  const cpu::ConvolutionWeightGradient<T> p{shape, input, grad_output, result.mutable_data_ptr<T>(),
                                            0};
  at::parallel_for(
      0, shape.K, cpu::divide_up(shape.K, threads_for(shape)),
      [&](int64_t first, int64_t last) { kernels.dense_weight_gradient(p, first, last); });
}

CNN_EXT_INSTANTIATE_FORWARD(dense, float)
CNN_EXT_INSTANTIATE_FORWARD(dense, double)
CNN_EXT_INSTANTIATE_FORWARD(dense, cpu::Pair)
CNN_EXT_INSTANTIATE_WEIGHT_GRADIENT(dense_weight_gradient, float)
CNN_EXT_INSTANTIATE_WEIGHT_GRADIENT(dense_weight_gradient, double)

}  // namespace cnn_ext
