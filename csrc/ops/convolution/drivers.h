// The drivers of the algorithms: each cuts one convolution into tasks and hands them to threads.
// None chooses: cpu.cpp calls them as a route says. `like`: a tensor whose options workspaces get.
#pragma once

#include <ATen/ATen.h>

#include <optional>

#include "../../cpu/convolution/route.h"

namespace cnn_ext {

using at::Tensor;
using cpu::kSpatial;

#define CNN_EXT_FORWARD(driver)                                               \
  template <typename T>                                                       \
  void driver(const cpu::Convolution& shape, const T* input, const T* weight, \
              const cpu::Sum<T>* bias, cpu::Result<T>* output, const Tensor& like)
#define CNN_EXT_INSTANTIATE_FORWARD(driver, T)                                             \
  template void driver<T>(const cpu::Convolution&, const T*, const T*, const cpu::Sum<T>*, \
                          cpu::Result<T>*, const Tensor&);
#define CNN_EXT_INSTANTIATE_WEIGHT_GRADIENT(driver, T) \
  template void driver<T>(const cpu::Convolution&, const T*, const T*, const Tensor&);

// dense.cpp
CNN_EXT_FORWARD(dense);
template <typename T>
void dense_weight_gradient(const cpu::Convolution& shape, const T* grad_output, const T* input,
                           const Tensor& result);

// implicit_gemm.cpp
CNN_EXT_FORWARD(product);
template <typename T>
void implicit_gemm(const cpu::Convolution& shape, bool regions, const T* input, const T* weight,
                   const cpu::Sum<T>* bias, cpu::Result<T>* output, const Tensor& like);
template <typename T>
void implicit_gemm_weight_gradient(const cpu::Convolution& shape, bool by_taps,
                                   const cpu::Operand<T>* grad_output, const cpu::Operand<T>* input,
                                   const Tensor& result);

// band.cpp
template <typename T>
void band(const cpu::Convolution& shape, bool regions, const T* input, const T* weight,
          const T* bias, T* output, const Tensor& like);
template <typename T>
void band_weight_gradient(const cpu::Convolution& shape, const T* grad_output, const T* input,
                          const Tensor& result);

// depthwise.cpp. The forward pass or, where `gradient`, that of the input: `input` is then the
// gradient of the output, and `output` that of the input.
template <typename T>
void depthwise(const cpu::Convolution& shape, bool gradient, const T* input, const T* weight,
               const cpu::Sum<T>* bias, T* output, const Tensor& like);
template <typename T>
void depthwise_weight_gradient(const cpu::Convolution& shape, const T* grad_output, const T* input,
                               const Tensor& result);

// winograd.cpp. `frozen`: filters that winograd_filters transformed before, or null.
template <typename T>
void winograd(const cpu::Convolution& shape, const T* input, const T* weight, const T* bias,
              T* output, const Tensor& like, const T* frozen);
template <typename T>
void winograd_by_phases(const cpu::Convolution& shape, const T* input, const T* weight,
                        const T* bias, T* output, const Tensor& like);
template <typename T>
void winograd_input_gradient_by_phases(const cpu::Convolution& shape, const T* grad_output,
                                       const T* weight, T* grad_input, const Tensor& result);
template <typename T>
void winograd_weight_gradient(const cpu::Convolution& shape, const T* grad_output, const T* input,
                              const Tensor& result);
template <typename T>
void winograd_weight_gradient_by_phases(const cpu::Convolution& shape, const T* grad_output,
                                        const T* input, const Tensor& result);
template <typename T>
const T* frozen_filters(const std::optional<Tensor>& filters, const cpu::Convolution& shape);

// windows.cpp
template <typename T>
void input_gradient_by_window_rows(const cpu::Convolution& shape, const T* grad_output,
                                   const T* weight, T* grad_input, const Tensor& result);
template <typename T>
void input_gradient_by_whole_windows(const cpu::Convolution& shape, const T* grad_output,
                                     const T* weight, const Tensor& result);

}  // namespace cnn_ext
