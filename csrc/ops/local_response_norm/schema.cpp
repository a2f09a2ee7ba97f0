// Local response normalisation and its gradient: schemas and argument checks. What computes them is
// in cpu.cpp; derivatives are in cnn_ext/ops/local_response_norm.py, the
// conventions and their history in docs/local_response_norm.md.

#include "ops/torch.h"

#include "local_response_norm.h"

#include "../autograd.h"

namespace cnn_ext {

double ResponseNormArguments::scaled_alpha(int64_t dim) const {
  return mean ? alpha / std::pow(static_cast<double>(size), static_cast<double>(window_axes(dim)))
              : alpha;
}

ResponseNormArguments check_response_norm(const char* op, const Tensor& input, int64_t size,
                                          double alpha, double beta, double k,
                                          c10::string_view alpha_scaling, c10::string_view region,
                                          int64_t channel_dim) {
  TORCH_CHECK(at::isFloatingType(input.scalar_type()), op,
              ": input: expected a floating-point dtype, got ", input.scalar_type());
  TORCH_CHECK(input.dim() >= 2, op, ": input: expected at least 2 dimensions, got shape ",
              input.sym_sizes());
  TORCH_CHECK(size >= 1, op, ": size: expected an integer of at least 1, got ", size);
  TORCH_CHECK(alpha_scaling == "mean" || alpha_scaling == "sum", op,
              ": alpha_scaling: expected \"mean\" or \"sum\", got \"", alpha_scaling, "\"");
  TORCH_CHECK(region == "channels" || region == "spatial", op,
              ": region: expected \"channels\" or \"spatial\", got \"", region, "\"");
  TORCH_CHECK(channel_dim >= -input.dim() && channel_dim < input.dim(), op,
              ": channel_dim: expected an axis of shape ", input.sym_sizes(), ", got ",
              channel_dim);
  const int64_t axis = channel_dim < 0 ? channel_dim + input.dim() : channel_dim;
  if (region == "spatial") {
    TORCH_CHECK(size % 2 == 1, op, ": size: expected an odd integer for region \"spatial\", got ",
                size);
    const int64_t axes = input.dim() - (axis == 0 ? 1 : 2);
    TORCH_CHECK(axes >= 1 && axes <= 3, op, ": input: expected 1 to 3 spatial axes for region ",
                "\"spatial\" beside channel_dim ", axis, axis == 0 ? "" : " and the batch",
                ", got shape ", input.sym_sizes());
  }
  return {size, alpha, beta, k, alpha_scaling == "mean", region == "spatial", axis};
}

void check_response_norm_gradient(const Tensor& grad_output, const Tensor& input) {
  constexpr auto op = "local_response_norm_backward";
  TORCH_CHECK(grad_output.sym_sizes() == input.sym_sizes(), op, ": grad_output: expected shape ",
              input.sym_sizes(), ", that of input, got ", grad_output.sym_sizes());
  TORCH_CHECK(grad_output.scalar_type() == input.scalar_type(), op, ": grad_output: expected ",
              input.scalar_type(), ", the dtype of input, got ", grad_output.scalar_type());
  TORCH_CHECK(grad_output.device() == input.device(), op, ": grad_output: expected a tensor on ",
              input.device(), ", the device of input, got one on ", grad_output.device());
}

namespace {

// The axes in the order in which memory runs through them, the outermost first.
at::DimVector memory_order(const Tensor& tensor) {
  at::DimVector order(tensor.dim());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return tensor.stride(a) > tensor.stride(b); });
  return order;
}

}  // namespace

at::DimVector response_norm_order(const ResponseNormArguments& arguments, const Tensor& result) {
  if (!arguments.spatial) return memory_order(result);
  at::DimVector order;
  if (arguments.channel_dim != 0) order.push_back(0);
  order.push_back(arguments.channel_dim);
  for (int64_t axis = 0; axis < result.dim(); ++axis) {
    if (std::find(order.begin(), order.end(), axis) == order.end()) order.push_back(axis);
  }
  return order;
}

namespace {

Tensor local_response_norm_meta(const Tensor& input, int64_t size, double alpha, double beta,
                                double k, c10::string_view alpha_scaling, c10::string_view region,
                                int64_t channel_dim) {
  check_response_norm("local_response_norm", input, size, alpha, beta, k, alpha_scaling, region,
                      channel_dim);
  return at::empty_like(input);
}

Tensor local_response_norm_backward_meta(const Tensor& grad_output, const Tensor& input,
                                         int64_t size, double alpha, double beta, double k,
                                         c10::string_view alpha_scaling, c10::string_view region,
                                         int64_t channel_dim) {
  check_response_norm_gradient(grad_output, input);
  check_response_norm("local_response_norm_backward", input, size, alpha, beta, k, alpha_scaling,
                      region, channel_dim);
  return at::empty_like(input);
}

// Below autograd, where a forward-mode tangent would be dropped without a word, it is refused.

Tensor local_response_norm_checked(const Tensor& input, int64_t size, double alpha, double beta,
                                   double k, c10::string_view alpha_scaling,
                                   c10::string_view region, int64_t channel_dim) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("cnn_ext::local_response_norm", "")
                             .typed<decltype(local_response_norm_meta)>();
  refuse_tangents("local_response_norm", {&input});
  at::AutoDispatchBelowADInplaceOrView below;
  return op.call(input, size, alpha, beta, k, alpha_scaling, region, channel_dim);
}

Tensor local_response_norm_backward_checked(const Tensor& grad_output, const Tensor& input,
                                            int64_t size, double alpha, double beta, double k,
                                            c10::string_view alpha_scaling, c10::string_view region,
                                            int64_t channel_dim) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("cnn_ext::local_response_norm_backward", "")
                             .typed<decltype(local_response_norm_backward_meta)>();
  refuse_tangents("local_response_norm_backward", {&grad_output, &input});
  at::AutoDispatchBelowADInplaceOrView below;
  return op.call(grad_output, input, size, alpha, beta, k, alpha_scaling, region, channel_dim);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(cnn_ext, m) {
  m.def(
      "local_response_norm(Tensor input, int size, float alpha, float beta, float k, "
      "str alpha_scaling, str region, int channel_dim) -> Tensor");
  m.def(
      "local_response_norm_backward(Tensor grad_output, Tensor input, int size, float alpha, "
      "float beta, float k, str alpha_scaling, str region, int channel_dim) -> Tensor");
}

TORCH_LIBRARY_IMPL(cnn_ext, Meta, m) {
  m.impl("local_response_norm", local_response_norm_meta);
  m.impl("local_response_norm_backward", local_response_norm_backward_meta);
}

TORCH_LIBRARY_IMPL(cnn_ext, ADInplaceOrView, m) {
  m.impl("local_response_norm", local_response_norm_checked);
  m.impl("local_response_norm_backward", local_response_norm_backward_checked);
}

}  // namespace cnn_ext