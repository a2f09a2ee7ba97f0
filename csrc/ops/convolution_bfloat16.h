// Convolution in bfloat16 on processors that multiply it: implicit GEMM over pairs of channels, and
// of pixels in the weight gradient, summed in float32 and rounded once.
#pragma once

#include <ATen/ATen.h>

#include <optional>

#include "../cpu/kernels.h"
#include "convolution.h"

namespace cnn_ext {

// Whether these drivers are what a tensor's dtype, this processor and the algorithm ask for.
bool bfloat16_serves(const Tensor& operand, std::optional<cpu::Algorithm> named,
                     const cpu::Convolution& shape, bool weight_gradient = false);

void convolution_bfloat16(const cpu::Convolution& shape, const Tensor& input, const Tensor& weight,
                          const std::optional<Tensor>& bias, const Tensor& output);
void input_gradient_bfloat16(const cpu::Convolution& shape, const Tensor& grad_output,
                             const Tensor& weight, const Tensor& grad_input);
void weight_gradient_bfloat16(const cpu::Convolution& shape, const Tensor& grad_output,
                              const Tensor& input, const Tensor& grad_weight);

}  // namespace cnn_ext
