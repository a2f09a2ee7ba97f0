// Convolution in bfloat16 on processors that multiply it: implicit GEMM over pairs of channels, and
// of pixels in the weight gradient, and narrow groups in channels_last; summed in float32
// and rounded once.
#pragma once

#include <ATen/ATen.h>

#include <optional>
#include <vector>

#include "../../cpu/convolution/route.h"
#include "convolution.h"

namespace cnn_ext {

void convolution_bfloat16(const cpu::Convolution& shape, cpu::Step step, const Tensor& input,
                          const Tensor& weight, const std::optional<Tensor>& bias,
                          const Tensor& output);
void input_gradient_bfloat16(const cpu::Convolution& shape, const std::vector<cpu::Step>& phases,
                             const Tensor& grad_output, const Tensor& weight,
                             const Tensor& grad_input);
void weight_gradient_bfloat16(const cpu::Convolution& shape, bool by_taps,
                              const Tensor& grad_output, const Tensor& input,
                              const Tensor& grad_weight);

// Narrow groups in whole vectors of channels, innermost.

// The forward pass or, where `gradient`, that of the input: see `depthwise`.
void depthwise_bfloat16(const cpu::Convolution& shape, bool gradient, const Tensor& input,
                        const Tensor& weight, const std::optional<Tensor>& bias,
                        const Tensor& output);
void depthwise_weight_gradient_bfloat16(const cpu::Convolution& shape, const Tensor& grad_output,
                                        const Tensor& input, const Tensor& grad_weight);

}  // namespace cnn_ext
