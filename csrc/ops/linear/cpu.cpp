// Dense layers on the CPU: described as a convolution of one tap and carried out as one. There are
// no kernels of their own; which of convolution's multiplies, csrc/cpu/convolution/route.h says.

#include "ops/torch.h"

#include "../convolution/describe.h"
#include "../convolution/execute.h"
#include "../convolution/tasks.h"
#include "../memory.h"
#include "../trace.h"
#include "linear.h"

namespace cnn_ext {
namespace {

using cpu::Pass;

Parameters one_tap() { return {{1}, {1}, {0}, {0}, 1}; }

void trace(Traced& traced, const cpu::Route& route, const cpu::Convolution& shape,
           const Tensor& input, at::IntArrayRef weight) {
  traced.facts([&](Record& record) {
    record = {"linear",
              name_of(route.pass),
              describe(route),
              sizes_of(input.sizes()) + " w" + sizes_of(weight),
              dtype_of(input),
              layout_of(input),
              threads_for(shape),
              0,
              0.0};
  });
}

Tensor linear_cpu(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias) {
  const Tensor output = empty_linear(input, weight, bias);
  if (output.numel() == 0) return output;
  with_huge_pages(output);
  if (weight.numel() == 0) {  // a sum over no features
    output.zero_();
    return bias.has_value() ? output.add_(*bias) : output;
  }
  Traced traced;
  const Parameters p = one_tap();
  const Tensor x = as_pixels(input), w = weight.unsqueeze(2), y = as_pixels(output);
  const auto shape = describe(x, w, y, p);
  const cpu::Route route = plan_route("linear", Pass::forward, shape, x, std::nullopt);
  trace(traced, route, shape, input, weight.sizes());
  carry_out(route, x, w, bias, p, y);
  return output;
}

Tensor linear_weight_gradient_cpu(const Tensor& grad_output, const Tensor& input) {
  const Tensor grad_weight = empty_linear_weight_gradient(grad_output, input);
  if (grad_weight.numel() == 0) return grad_weight;
  with_huge_pages(grad_weight);
  if (grad_output.numel() == 0) return grad_weight.zero_();  // a sum over no rows
  Traced traced;
  const Parameters p = one_tap();
  const Tensor g = as_pixels(grad_output), x = as_pixels(input), dw = grad_weight.unsqueeze(2);
  const auto shape = describe(x, dw, g, p);
  const cpu::Route route =
      plan_route("linear_weight_gradient", Pass::weight_gradient, shape, x, std::nullopt);
  trace(traced, route, shape, input, grad_weight.sizes());
  carry_out_weight_gradient(route, g, x, p, dw);
  return grad_weight;
}

}  // namespace

TORCH_LIBRARY_IMPL(cnn_ext, CPU, m) {
  m.impl("linear", linear_cpu);
  m.impl("linear_weight_gradient", linear_weight_gradient_cpu);
}

}  // namespace cnn_ext
