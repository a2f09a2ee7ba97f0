// Colour PCA: one colour added to every pixel of an image, the gradient of that colour, and the
// moments of which the principal components are made. Schemas, argument checks, derivatives; what
// computes them is in cpu.cpp, the mathematics in docs/color_pca.md.

#include "ops/torch.h"

#include "color_pca.h"

#include "../autograd.h"

namespace cnn_ext {
namespace {

using c10::SymInt;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// ------------------------------------------------------------------------------ argument checks

bool is_image_type(at::ScalarType type) { return type == at::kByte || at::isFloatingType(type); }

void check_image(const char* op, const char* name, const Tensor& image) {
  TORCH_CHECK(image.dim() >= 3, op, ": ", name,
              ": expected at least 3 dimensions, (..., C, H, W), ", "got shape ",
              image.sym_sizes());
}

void check_parameter(const char* name, const Tensor& tensor, const Tensor& input) {
  constexpr auto op = "color_pca";
  TORCH_CHECK(at::isFloatingType(tensor.scalar_type()), op, ": ", name,
              ": expected a floating-point dtype, got ", tensor.scalar_type());
  TORCH_CHECK(tensor.device() == input.device(), op, ": ", name, ": expected a tensor on ",
              input.device(), ", the device of input, got one on ", tensor.device());
}

}  // namespace

Tensor check_color_pca(const Tensor& input, const Tensor& eigenvectors, const Tensor& eigenvalues,
                       const Tensor& alphas) {
  constexpr auto op = "color_pca";
  TORCH_CHECK(is_image_type(input.scalar_type()), op,
              ": input: expected uint8 or a floating-point dtype, got ", input.scalar_type());
  check_image(op, "input", input);
  check_parameter("eigenvectors", eigenvectors, input);
  check_parameter("eigenvalues", eigenvalues, input);
  check_parameter("alphas", alphas, input);
  const SymInt C = input.sym_size(-3);
  const c10::SymDimVector square = {C, C};
  TORCH_CHECK(eigenvectors.sym_sizes().equals(square), op, ": eigenvectors: expected shape [", C,
              ", ", C, "], one column for each of the input's channels, got ",
              eigenvectors.sym_sizes());
  TORCH_CHECK(eigenvalues.dim() == 1 && eigenvalues.sym_size(0) == C, op,
              ": eigenvalues: expected shape [", C, "], one for each channel of input, got ",
              eigenvalues.sym_sizes());
  c10::SymDimVector rows(input.sym_sizes().begin(), input.sym_sizes().end() - 3);
  rows.push_back(C);
  TORCH_CHECK(alphas.sym_sizes().equals(rows) || (alphas.dim() == 1 && alphas.sym_size(0) == C), op,
              ": alphas: expected shape [", C, "], or ", c10::SymIntArrayRef(rows),
              ", one row for each image, got ", alphas.sym_sizes());
  return at::empty_like(input);
}

Tensor check_shift_gradient(const Tensor& grad_output) {
  constexpr auto op = "color_pca_shift_gradient";
  TORCH_CHECK(at::isFloatingType(grad_output.scalar_type()), op,
              ": grad_output: expected a floating-point dtype, got ", grad_output.scalar_type());
  check_image(op, "grad_output", grad_output);
  const auto sizes = grad_output.sym_sizes();
  const auto type = at::toOpMathType(grad_output.scalar_type());
  return at::empty_symint(sizes.slice(0, sizes.size() - 2), grad_output.options().dtype(type));
}

std::tuple<Tensor, Tensor> check_color_moments(const Tensor& input) {
  constexpr auto op = "color_moments";
  const auto type = input.scalar_type();
  TORCH_CHECK(is_image_type(type), op, ": input: expected uint8 or a floating-point dtype, got ",
              type);
  check_image(op, "input", input);
  const SymInt C = input.sym_size(-3);
  const auto options = input.options().dtype(type == at::kByte ? at::kLong : at::kDouble);
  return {at::empty_symint({C}, options), at::empty_symint({C, C}, options)};
}

// --------------------------------------------------------------------------------------- layouts

bool is_pixels(const Tensor& image) {
  const int64_t axes = image.dim();
  int64_t expected = 1;
  for (int64_t i = 0; i < axes; ++i) {  // C, W, H, then outwards
    const int64_t axis = i < 3 ? axes - (i + 2) % 3 - 1 : axes - i - 1;
    if (image.size(axis) != 1 && image.stride(axis) != expected) return false;
    expected *= image.size(axis);
  }
  return !image.is_contiguous() || image.size(-1) * image.size(-2) == 1;
}

Tensor laid_out(const Tensor& image, bool pixels) {
  if (!pixels || is_pixels(image)) return pixels ? image : image.contiguous();
  return image.movedim(-3, -1).contiguous().movedim(-1, -3);
}

cpu::ColorRows rows_of(const Tensor& image, bool pixels) {
  const int64_t C = image.size(-3), cells = image.numel();
  const int64_t pixels_of_image = image.size(-1) * image.size(-2);
  const int64_t length = pixels ? C * pixels_of_image : pixels_of_image;
  return {cells / length, length, pixels ? C : 1};
}

namespace {

// ---------------------------------------------------------------------------------- derivatives

Tensor call_color_pca(const Tensor& input, const Tensor& eigenvectors, const Tensor& eigenvalues,
                      const Tensor& alphas) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("cnn_ext::color_pca", "")
                             .typed<decltype(check_color_pca)>();
  return op.call(input, eigenvectors, eigenvalues, alphas);
}

Tensor call_shift_gradient(const Tensor& grad_output) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("cnn_ext::color_pca_shift_gradient", "")
                             .typed<decltype(check_shift_gradient)>();
  return op.call(grad_output);
}

// (..., C) as a matrix.
Tensor as_rows(const Tensor& t) {
  const auto sizes = t.sym_sizes();
  return t.reshape_symint({c10::multiply_integers(sizes.begin(), sizes.end() - 1), t.sym_size(-1)});
}

// The shift is P (a * l) with P the eigenvectors; with s its gradient,
//   dL/da = (P' s) * l,   dL/dl = sum over images (P' s) * a,   dL/dP = sum s (a * l)'.
struct ColorPCANode : torch::autograd::Function<ColorPCANode> {
  static constexpr bool is_traceable = true;

  static Tensor forward(AutogradContext* context, const Tensor& input, const Tensor& eigenvectors,
                        const Tensor& eigenvalues, const Tensor& alphas) {
    at::AutoDispatchBelowADInplaceOrView below;
    context->save_for_backward({eigenvectors, eigenvalues, alphas});
    return call_color_pca(input, eigenvectors, eigenvalues, alphas);
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    variable_list result(4);
    if (!grads[0].defined()) return result;
    result[0] = grads[0];
    const auto saved = context->get_saved_variables();
    if (!context->needs_input_grad(1) && !context->needs_input_grad(2) &&
        !context->needs_input_grad(3)) {
      return result;
    }
    const Tensor P = saved[0].to(at::kDouble), l = saved[1].to(at::kDouble);
    const Tensor a = saved[2].to(at::kDouble);
    Tensor s = call_shift_gradient(grads[0]).to(at::kDouble);
    if (a.dim() < s.dim()) s = as_rows(s).sum(0);
    const Tensor along = s.matmul(P);
    if (context->needs_input_grad(1)) {
      result[1] = as_rows(s).t().matmul(as_rows(a * l)).to(saved[0].scalar_type());
    }
    if (context->needs_input_grad(2)) {
      result[2] = as_rows(along * a).sum(0).to(saved[1].scalar_type());
    }
    if (context->needs_input_grad(3)) result[3] = (along * l).to(saved[2].scalar_type());
    return result;
  }
};

struct ShiftGradientNode : torch::autograd::Function<ShiftGradientNode> {
  static constexpr bool is_traceable = true;

  static Tensor forward(AutogradContext* context, const Tensor& grad_output) {
    at::AutoDispatchBelowADInplaceOrView below;
    context->saved_data["size"] = grad_output.sym_sizes();
    context->saved_data["dtype"] = grad_output.scalar_type();
    return call_shift_gradient(grad_output);
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    if (!grads[0].defined()) return variable_list(1);
    return {grads[0]
                .to(context->saved_data["dtype"].toScalarType())
                .unsqueeze(-1)
                .unsqueeze(-1)
                .expand_symint(context->saved_data["size"].toSymIntVector())};
  }
};

// Rounded to bytes, the image has no derivative in anything.
Tensor color_pca_autograd(const Tensor& input, const Tensor& eigenvectors,
                          const Tensor& eigenvalues, const Tensor& alphas) {
  if (records_gradient("color_pca", {&input, &eigenvectors, &eigenvalues, &alphas}) &&
      at::isFloatingType(input.scalar_type())) {
    return ColorPCANode::apply(input, eigenvectors, eigenvalues, alphas);
  }
  at::AutoDispatchBelowADInplaceOrView below;
  return call_color_pca(input, eigenvectors, eigenvalues, alphas);
}

Tensor color_pca_shift_gradient_autograd(const Tensor& grad_output) {
  if (records_gradient("color_pca_shift_gradient", {&grad_output})) {
    return ShiftGradientNode::apply(grad_output);
  }
  at::AutoDispatchBelowADInplaceOrView below;
  return call_shift_gradient(grad_output);
}

std::tuple<Tensor, Tensor> color_moments_autograd(const Tensor& input) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("cnn_ext::color_moments", "")
                             .typed<decltype(check_color_moments)>();
  TORCH_CHECK_NOT_IMPLEMENTED(!records_gradient("color_moments", {&input}),
                              "color_moments: input: expected one that requires no gradient, for "
                              "moments have no derivative here; call it with input.detach()");
  at::AutoDispatchBelowADInplaceOrView below;
  return op.call(input);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(cnn_ext, m) {
  m.def(
      "color_pca(Tensor input, Tensor eigenvectors, Tensor eigenvalues, Tensor alphas) -> Tensor");
  m.def("color_pca_shift_gradient(Tensor grad_output) -> Tensor");
  m.def("color_moments(Tensor input) -> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(cnn_ext, Meta, m) {
  m.impl("color_pca", check_color_pca);
  m.impl("color_pca_shift_gradient", check_shift_gradient);
  m.impl("color_moments", check_color_moments);
}

TORCH_LIBRARY_IMPL(cnn_ext, Autograd, m) {
  m.impl("color_pca", color_pca_autograd);
  m.impl("color_pca_shift_gradient", color_pca_shift_gradient_autograd);
  m.impl("color_moments", color_moments_autograd);
}

}  // namespace cnn_ext
