// Hard shrinkage and its gradient: schemas and argument checks. What computes them is in cpu.cpp
// and csrc/cuda/hardshrink.cu; derivatives are in cnn_ext/ops/hardshrink.py.

#include "ops/torch.h"

#include "hardshrink.h"

#include "../autograd.h"

namespace cnn_ext {
namespace {

void check(const char* op, const Tensor& input, double lambd) {
  TORCH_CHECK(at::isFloatingType(input.scalar_type()), op,
              ": input: expected a floating-point dtype, got ", input.scalar_type());
  TORCH_CHECK(lambd >= 0, op, ": lambd: expected a number of at least 0, got ", lambd);
}

}  // namespace

Tensor check_hardshrink(const Tensor& input, double lambd) {
  check("hardshrink", input, lambd);
  return at::empty_like(input);
}

Tensor check_hardshrink_backward(const Tensor& grad_output, const Tensor& input, double lambd) {
  constexpr auto op = "hardshrink_backward";
  check(op, input, lambd);
  TORCH_CHECK(grad_output.sym_sizes() == input.sym_sizes(), op, ": grad_output: expected shape ",
              input.sym_sizes(), ", that of input, got ", grad_output.sym_sizes());
  TORCH_CHECK(grad_output.scalar_type() == input.scalar_type(), op, ": grad_output: expected ",
              input.scalar_type(), ", the dtype of input, got ", grad_output.scalar_type());
  TORCH_CHECK(grad_output.device() == input.device(), op, ": grad_output: expected a tensor on ",
              input.device(), ", the device of input, got one on ", grad_output.device());
  return at::empty_like(input);
}

namespace {

using Forward = Tensor(const Tensor&, double);
using Backward = Tensor(const Tensor&, const Tensor&, double);

// Below autograd, where a forward-mode tangent would be dropped without a word, it is refused.

Tensor hardshrink_checked(const Tensor& input, double lambd) {
  static const auto op = operation<Forward>("cnn_ext::hardshrink");
  refuse_tangents("hardshrink", {&input});
  at::AutoDispatchBelowADInplaceOrView below;
  return op.call(input, lambd);
}

Tensor hardshrink_backward_checked(const Tensor& grad_output, const Tensor& input, double lambd) {
  static const auto op = operation<Backward>("cnn_ext::hardshrink_backward");
  refuse_tangents("hardshrink_backward", {&grad_output, &input});
  at::AutoDispatchBelowADInplaceOrView below;
  return op.call(grad_output, input, lambd);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(cnn_ext, m) {
  m.def("hardshrink(Tensor input, float lambd) -> Tensor");
  m.def("hardshrink_backward(Tensor grad_output, Tensor input, float lambd) -> Tensor");
}

TORCH_LIBRARY_IMPL(cnn_ext, Meta, m) {
  m.impl("hardshrink", check_hardshrink);
  m.impl("hardshrink_backward", check_hardshrink_backward);
}

TORCH_LIBRARY_IMPL(cnn_ext, ADInplaceOrView, m) {
  m.impl("hardshrink", hardshrink_checked);
  m.impl("hardshrink_backward", hardshrink_backward_checked);
}

}  // namespace cnn_ext
