// A convolution whose arguments are checked, planned and carried out on the CPU: for convolution
// itself, and for operations that are convolutions by another name, such as `linear`.
#pragma once

#include <ATen/ATen.h>

#include <optional>

#include "../../cpu/convolution/route.h"
#include "convolution.h"

namespace cnn_ext {

// `operand`: a tensor that is read; `op` is for messages.
cpu::Route plan_route(const char* op, cpu::Pass pass, const cpu::Convolution& shape,
                      const Tensor& operand, std::optional<Algorithm> named);

// Each fills the result, its last argument.
void carry_out(const cpu::Route& route, const Tensor& input, const Tensor& weight,
               const std::optional<Tensor>& bias, const Parameters& p, const Tensor& output);
void carry_out_weight_gradient(const cpu::Route& route, const Tensor& grad_output,
                               const Tensor& input, const Parameters& p, const Tensor& grad_weight);

}  // namespace cnn_ext
