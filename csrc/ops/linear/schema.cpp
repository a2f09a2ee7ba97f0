// Dense (fully connected) layers: the schemas, the argument checks, and the derivatives for
// ordinary reverse mode. What computes them is in cpu.cpp; torch.func and forward-mode AD are in
// cnn_ext/ops/linear.py.
//
// Two operations are closed under differentiation, for a dense layer is the gradient of its own
// input, with the weight transposed, which is a matter of strides (u: a gradient of the result):
//
//   linear(x, w) = x wT             in x: linear(u, wT)             in w: weight_gradient(u, x)
//   weight_gradient(g, x) = gT x    in g: linear(x, u)              in x: linear(g, uT)

#include "ops/torch.h"

#include "linear.h"

#include "../autograd.h"
#include "../checks.h"

namespace cnn_ext {
namespace {

using c10::SymDimVector;
using c10::SymInt;
using c10::SymIntArrayRef;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

void check_features(const char* op, const char* name, const Tensor& rows) {
  TORCH_CHECK(rows.dim() >= 1, op, ": ", name, ": expected at least 1 dimension, of features, got ",
              "shape ", rows.sym_sizes());
}

// All but the features.
SymIntArrayRef leading(const Tensor& rows) { return rows.sym_sizes().slice(0, rows.dim() - 1); }

// The sizes of the results, after every check.
SymDimVector output_size(const Tensor& input, const Tensor& weight,
                         const std::optional<Tensor>& bias) {
  constexpr auto op = "linear";
  TORCH_CHECK(weight.dim() == 2, op,
              ": weight: expected 2 dimensions (out_features, in_features), ", "got shape ",
              weight.sym_sizes());
  check_features(op, "input", input);
  check_same_kind(op, "input", input, "weight", weight);
  TORCH_CHECK(input.sym_size(-1) == weight.sym_size(1), op, ": input: expected ",
              weight.sym_size(1), " features (a weight of shape ", weight.sym_sizes(), "), got ",
              input.sym_size(-1), " in shape ", input.sym_sizes());
  if (bias.has_value()) {
    check_same_kind(op, "input", input, "bias", *bias);
    TORCH_CHECK(bias->dim() == 1 && bias->sym_size(0) == weight.sym_size(0), op,
                ": bias: expected shape [", weight.sym_size(0),
                "], one value for each output feature, got ", bias->sym_sizes());
  }
  SymDimVector size(input.sym_sizes().begin(), input.sym_sizes().end());
  size.back() = weight.sym_size(0);
  return size;
}

SymDimVector weight_size(const Tensor& grad_output, const Tensor& input) {
  constexpr auto op = "linear_weight_gradient";
  check_features(op, "input", input);
  check_features(op, "grad_output", grad_output);
  check_same_kind(op, "grad_output", grad_output, "input", input);
  TORCH_CHECK(leading(grad_output) == leading(input), op,
              ": grad_output: expected as many rows as ", "input, of shape ", input.sym_sizes(),
              ", got shape ", grad_output.sym_sizes());
  return {grad_output.sym_size(-1), input.sym_size(-1)};
}

}  // namespace

Tensor empty_linear(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias) {
  return at::empty_symint(output_size(input, weight, bias), input.options());
}

Tensor empty_linear_weight_gradient(const Tensor& grad_output, const Tensor& input) {
  return at::empty_symint(weight_size(grad_output, input), input.options());
}

namespace {

// ---------------------------------------------------------------------------------------------
// On CUDA: the convolution that is there, of one tap
// ---------------------------------------------------------------------------------------------

Tensor linear_cuda(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias) {
  using Convolution =
      Tensor(const Tensor&, const Tensor&, const std::optional<Tensor>&, SymIntArrayRef,
             SymIntArrayRef, SymIntArrayRef, SymInt, c10::string_view);
  static const auto op = operation<Convolution>("cnn_ext::convolution");
  const SymDimVector size = output_size(input, weight, bias);
  const SymInt one = 1, none = 0;
  return op.call(as_pixels(input), weight.unsqueeze(2), bias, one, none, one, 1, "implicit_gemm")
      .view_symint(size);
}

Tensor linear_weight_gradient_cuda(const Tensor& grad_output, const Tensor& input) {
  using Gradient = Tensor(const Tensor&, const Tensor&, SymIntArrayRef, SymIntArrayRef,
                          SymIntArrayRef, SymIntArrayRef, SymInt, c10::string_view);
  static const auto op = operation<Gradient>("cnn_ext::convolution_weight_gradient");
  SymDimVector size = weight_size(grad_output, input);
  size.push_back(1);
  const SymInt one = 1, none = 0;
  return op.call(as_pixels(grad_output), as_pixels(input), size, one, none, one, 1, "implicit_gemm")
      .squeeze(2);
}

// ---------------------------------------------------------------------------------------------
// Derivatives in reverse mode. Both operations are linear in two tensors; what a gradient needs is
// the other one (where complex, its conjugate), and a tensor that no gradient asks for is not kept.
// ---------------------------------------------------------------------------------------------

Tensor call_linear(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias) {
  static const auto op = operation<decltype(empty_linear)>("cnn_ext::linear");
  return op.call(input, weight, bias);
}

Tensor call_weight_gradient(const Tensor& grad_output, const Tensor& input) {
  static const auto op =
      operation<decltype(empty_linear_weight_gradient)>("cnn_ext::linear_weight_gradient");
  return op.call(grad_output, input);
}

void keep_for_gradients(AutogradContext* context, const Tensor& a, const Tensor& b) {
  context->save_for_backward({b.requires_grad() ? a : Tensor(), a.requires_grad() ? b : Tensor()});
}

Tensor sum_of_rows(const Tensor& rows) {
  if (rows.dim() == 1) return rows;
  at::DimVector axes(rows.dim() - 1);
  std::iota(axes.begin(), axes.end(), 0);
  return rows.sum(axes);
}

struct LinearNode : torch::autograd::Function<LinearNode> {
  static constexpr bool is_traceable = true;

  static Tensor forward(AutogradContext* context, const Tensor& input, const Tensor& weight,
                        const std::optional<Tensor>& bias) {
    at::AutoDispatchBelowADInplaceOrView below;
    keep_for_gradients(context, input, weight);
    context->saved_data["bias"] = bias.has_value();
    return call_linear(input, weight, bias);
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const auto kept = context->get_saved_variables();
    const Tensor &input = kept[0], &weight = kept[1], &grad = grads[0];
    variable_list result(3);
    if (!grad.defined()) return result;
    if (context->needs_input_grad(0)) result[0] = call_linear(grad, weight.t().conj(), {});
    if (context->needs_input_grad(1)) result[1] = call_weight_gradient(grad, input.conj());
    if (context->saved_data["bias"].toBool() && context->needs_input_grad(2)) {
      result[2] = sum_of_rows(grad);
    }
    return result;
  }
};

struct LinearWeightGradientNode : torch::autograd::Function<LinearWeightGradientNode> {
  static constexpr bool is_traceable = true;

  static Tensor forward(AutogradContext* context, const Tensor& grad_output, const Tensor& input) {
    at::AutoDispatchBelowADInplaceOrView below;
    keep_for_gradients(context, grad_output, input);
    return call_weight_gradient(grad_output, input);
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const auto kept = context->get_saved_variables();
    const Tensor &grad_output = kept[0], &input = kept[1], &grad = grads[0];
    variable_list result(2);
    if (!grad.defined()) return result;
    if (context->needs_input_grad(0)) result[0] = call_linear(input.conj(), grad, {});
    if (context->needs_input_grad(1)) result[1] = call_linear(grad_output.conj(), grad.t(), {});
    return result;
  }
};

Tensor linear_autograd(const Tensor& input, const Tensor& weight,
                       const std::optional<Tensor>& bias) {
  const Tensor bias_or_none = bias.value_or(Tensor());
  if (records_gradient("linear", {&input, &weight, &bias_or_none})) {
    return LinearNode::apply(input, weight, bias);
  }
  at::AutoDispatchBelowADInplaceOrView below;
  return call_linear(input, weight, bias);
}

Tensor linear_weight_gradient_autograd(const Tensor& grad_output, const Tensor& input) {
  if (records_gradient("linear_weight_gradient", {&grad_output, &input})) {
    return LinearWeightGradientNode::apply(grad_output, input);
  }
  at::AutoDispatchBelowADInplaceOrView below;
  return call_weight_gradient(grad_output, input);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(cnn_ext, m) {
  m.def("linear(Tensor input, Tensor weight, Tensor? bias) -> Tensor");
  m.def("linear_weight_gradient(Tensor grad_output, Tensor input) -> Tensor");
}

TORCH_LIBRARY_IMPL(cnn_ext, Meta, m) {
  m.impl("linear", empty_linear);
  m.impl("linear_weight_gradient", empty_linear_weight_gradient);
}

TORCH_LIBRARY_IMPL(cnn_ext, CUDA, m) {
  m.impl("linear", linear_cuda);
  m.impl("linear_weight_gradient", linear_weight_gradient_cuda);
}

TORCH_LIBRARY_IMPL(cnn_ext, Autograd, m) {
  m.impl("linear", linear_autograd);
  m.impl("linear_weight_gradient", linear_weight_gradient_autograd);
}

}  // namespace cnn_ext
