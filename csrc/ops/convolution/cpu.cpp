// Convolution and its gradients on the CPU: a request is made of the tensors, `plan` turns it into
// a route, and the route is carried out. Nothing here chooses. The arithmetic is in
// csrc/cpu/convolution/, the drivers beside this file; schemas and checks are in schema.cpp.

#include "ops/torch.h"

#include "../../cpu/convolution/route.h"
#include "../memory.h"
#include "../trace.h"
#include "adapters.h"
#include "bfloat16.h"
#include "convolution.h"
#include "describe.h"
#include "drivers.h"
#include "execute.h"
#include "tasks.h"

namespace cnn_ext {

using cpu::Kernel;
using cpu::Pass;
using cpu::Precision;
using cpu::Route;
using cpu::Split;
using cpu::Step;

namespace {

cpu::Dtype element_of(const char* op, const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return cpu::Dtype::float32;
    case at::kDouble:
      return cpu::Dtype::float64;
    case at::kBFloat16:
      return cpu::Dtype::bfloat16;
    case at::kHalf:
      return cpu::Dtype::float16;
    case at::kComplexHalf:
      return cpu::Dtype::complex32;
    case at::kComplexFloat:
      return cpu::Dtype::complex64;
    case at::kComplexDouble:
      return cpu::Dtype::complex128;
    default:
      TORCH_CHECK(false, op, ": input: expected float16, bfloat16, float32, float64 or a complex ",
                  "dtype on the CPU, got ", tensor.scalar_type());
  }
}

}  // namespace

Route plan_route(const char* op, Pass pass, const cpu::Convolution& shape, const Tensor& operand,
                 std::optional<Algorithm> named) {
  const int axes = static_cast<int>(operand.dim()) - 2;
  return cpu::plan({pass, shape, axes, element_of(op, operand), named});
}

namespace {

// "16x64x56x56 w64x64x3x3 s1x1 p1x1 d1x1 g1": input, weight and geometry.
std::string geometry_of(at::IntArrayRef input, at::IntArrayRef weight, const Parameters& p) {
  const auto ints = [](const SymDimVector& values) {
    at::DimVector result;
    for (const SymInt& value : values) result.push_back(value.expect_int());
    return sizes_of(result);
  };
  std::string padding = ints(p.padding_before);
  if (p.padding_after != p.padding_before) padding += "+" + ints(p.padding_after);
  return sizes_of(input) + " w" + sizes_of(weight) + " s" + ints(p.stride) + " p" + padding + " d" +
         ints(p.dilation) + " g" + std::to_string(p.groups.expect_int());
}

void trace(Traced& traced, const Route& route, const cpu::Convolution& shape, at::IntArrayRef input,
           at::IntArrayRef weight, const Parameters& p, const Tensor& operand) {
  traced.facts([&](Record& record) {
    record = {"convolution",
              name_of(route.pass),
              describe(route),
              geometry_of(input, weight, p),
              cnn_ext::dtype_of(operand),
              layout_of(operand),
              threads_for(shape),
              0,
              0.0};
  });
}

// A forward step in float32 or float64. The parameters are those of the drivers.
template <typename T>
void run_step(Step step, const cpu::Convolution& shape, const T* input, const T* weight,
              const T* bias, T* output, const Tensor& like, const T* frozen) {
  const bool regions = step.split == Split::regions;
  switch (step.kernel) {
    case Kernel::depthwise:
      return depthwise<T>(shape, false, input, weight, bias, output, like);
    case Kernel::band:
      return band<T>(shape, regions, input, weight, bias, output, like);
    case Kernel::winograd:
      if (step.split == Split::stride_phases) {
        return winograd_by_phases<T>(shape, input, weight, bias, output, like);
      }
      return winograd<T>(shape, input, weight, bias, output, like, frozen);
    case Kernel::implicit_gemm:
    case Kernel::dense:
      return implicit_gemm<T>(shape, regions, input, weight, bias, output, like);
    case Kernel::im2col:
      TORCH_INTERNAL_ASSERT(false, "im2col has no kernels");
  }
}

// ---------------------------------------------------------------------------------------------
// The forward pass
// ---------------------------------------------------------------------------------------------

// Tensors of a forward pass, and what goes with them. `filters`: transformed beforehand, or none.
struct Forward {
  const Parameters& p;
  const std::optional<Tensor>& filters;
  bool relu;

  void run(Route route, const Tensor& x, const Tensor& w, const std::optional<Tensor>& b,
           const Tensor& y) const {
    if (route.real_parts) {
      route.real_parts = false;
      const auto format = y.suggest_memory_format();
      Tensor sum = by_real_parts(x, w, [&](const Tensor& xr, const Tensor& wr) {
        const Tensor part = empty_part(y, xr, format);
        run(route, xr, wr, std::nullopt, part);
        return part;
      });
      y.copy_(add_bias(sum, b));
    } else if (route.in_float32) {
      route.in_float32 = false;
      const Tensor single = to_float32(w, route.channels_last);
      std::optional<Tensor> bias;
      if (b.has_value()) bias = b->to(at::kFloat);
      in_float32(x, y, route.channels_last,
                 [&](const Tensor& from, const Tensor& to) { run(route, from, single, bias, to); });
    } else if (route.transposed) {
      route.transposed = false;
      in_channels_last(x, y,
                       [&](const Tensor& from, const Tensor& to) { run(route, from, w, b, to); });
    } else {
      run_kernel(route, x, w, b, y);
    }
  }

 private:
  void run_kernel(const Route& route, const Tensor& x, const Tensor& w,
                  const std::optional<Tensor>& b, const Tensor& y) const {
    if (route.step.kernel == Kernel::im2col) {
      im2col_convolution(x, w, b, p, y);
      if (relu) y.relu_();
      return;
    }
    cpu::Convolution shape = describe(x, w, y, p);
    shape.relu = relu;
    if (route.precision == Precision::bfloat16) {
      if (route.step.kernel == Kernel::depthwise) {
        return depthwise_bfloat16(shape, false, x, w, b, y);
      }
      return convolution_bfloat16(shape, route.step, x, w, b, y);
    }
    const Tensor bias = b.has_value() ? b->contiguous() : Tensor();
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "convolution", [&] {
      run_step<scalar_t>(
          route.step, shape, x.const_data_ptr<scalar_t>(), w.const_data_ptr<scalar_t>(),
          bias.defined() ? bias.const_data_ptr<scalar_t>() : nullptr,
          y.mutable_data_ptr<scalar_t>(), y, frozen_filters<scalar_t>(filters, shape));
    });
  }
};

Tensor convolve(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                const std::optional<Tensor>& filters, SymIntArrayRef stride, SymIntArrayRef padding,
                SymIntArrayRef dilation, SymInt groups, bool relu, c10::string_view algorithm) {
  const Tensor output = empty_output(input, weight, bias, stride, padding, dilation, groups);
  const auto p =
      make_parameters("convolution", weight.dim() - 2, stride, padding, dilation, groups);
  const auto named = named_algorithm("convolution", algorithm, weight.sym_sizes(), p);
  if (output.numel() == 0) return output;
  with_huge_pages(output);
  if (weight.numel() == 0) {  // a sum over no channels
    Tensor sum = output.zero_();
    add_bias(sum, bias);
    return relu ? output.relu_() : output;
  }
  Traced traced;
  const auto shape = describe(input, weight, output, p);
  const Route route = plan_route("convolution", Pass::forward, shape, input, named);
  trace(traced, route, shape, input.sizes(), weight.sizes(), p, input);
  Forward{p, filters, relu}.run(route, input, weight, bias, output);
  return output;
}

Tensor convolution_cpu(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                       SymIntArrayRef stride, SymIntArrayRef padding, SymIntArrayRef dilation,
                       SymInt groups, c10::string_view algorithm) {
  return convolve(input, weight, bias, std::nullopt, stride, padding, dilation, std::move(groups),
                  false, algorithm);
}

Tensor convolution_relu_cpu(const Tensor& input, const Tensor& weight,
                            const std::optional<Tensor>& bias, SymIntArrayRef stride,
                            SymIntArrayRef padding, SymIntArrayRef dilation, SymInt groups,
                            c10::string_view algorithm) {
  check_relu("convolution_relu", input, true);
  return convolve(input, weight, bias, std::nullopt, stride, padding, dilation, std::move(groups),
                  true, algorithm);
}

Tensor convolution_frozen_cpu(const Tensor& input, const Tensor& weight,
                              const std::optional<Tensor>& bias,
                              const std::optional<Tensor>& filters, SymIntArrayRef stride,
                              SymIntArrayRef padding, SymIntArrayRef dilation, SymInt groups,
                              bool relu, c10::string_view algorithm) {
  check_relu("convolution_frozen", input, relu);
  check_frozen_filters(weight, filters, groups);
  return convolve(input, weight, bias, filters, stride, padding, dilation, std::move(groups), relu,
                  algorithm);
}

// ---------------------------------------------------------------------------------------------
// The input gradient
// ---------------------------------------------------------------------------------------------

// A forward convolution of the gradient of the output for each phase of the stride.
template <typename T>
void input_gradient_by_phases(const Route& route, const cpu::Convolution& shape,
                              const T* grad_output, const T* weight, T* grad_input,
                              const Tensor& result) {
  const bool products = route.algorithm == Algorithm::implicit_gemm;
  const cpu::Convolution whole = products ? simplify(shape, true) : shape;
  if (!phases_cover(whole)) result.zero_();
  auto step = route.phases.begin();
  each_phase(whole, [&](const cpu::Convolution& phase, int64_t filter, int64_t cells) {
    TORCH_INTERNAL_ASSERT(step != route.phases.end());
    run_step<T>(*step++, phase, grad_output, weight + filter, nullptr, grad_input + cells, result,
                nullptr);
  });
}

template <typename T>
void run_input_gradient(const Route& route, const cpu::Convolution& shape, const T* grad_output,
                        const T* weight, T* grad_input, const Tensor& result) {
  switch (route.step.split) {
    case Split::stride_phases:
      return winograd_input_gradient_by_phases<T>(shape, grad_output, weight, grad_input, result);
    case Split::window_rows:
      return input_gradient_by_window_rows<T>(shape, grad_output, weight, grad_input, result);
    case Split::whole_windows:
      return input_gradient_by_whole_windows<T>(shape, grad_output, weight, result);
    case Split::gradient_phases:
      return input_gradient_by_phases<T>(route, shape, grad_output, weight, grad_input, result);
    default:
      TORCH_INTERNAL_ASSERT(route.step.kernel == Kernel::depthwise);
      return depthwise<T>(shape, true, grad_output, weight, nullptr, grad_input, result);
  }
}

void input_gradient(Route route, const Tensor& g, const Tensor& w, const Parameters& p,
                    const Tensor& dx) {
  if (route.real_parts) {
    route.real_parts = false;
    const auto format = dx.suggest_memory_format();
    dx.copy_(by_real_parts(g, w, [&](const Tensor& gr, const Tensor& wr) {
      const Tensor part = empty_part(dx, gr, format);
      input_gradient(route, gr, wr, p, part);
      return part;
    }));
    return;
  }
  if (route.in_float32) {
    route.in_float32 = false;
    const Tensor single = to_float32(w, route.channels_last);
    return in_float32(g, dx, route.channels_last, [&](const Tensor& from, const Tensor& to) {
      input_gradient(route, from, single, p, to);
    });
  }
  if (route.transposed) {
    route.transposed = false;
    return in_channels_last(g, dx, [&](const Tensor& from, const Tensor& to) {
      input_gradient(route, from, w, p, to);
    });
  }
  if (route.step.kernel == Kernel::im2col) return im2col_input_gradient(g, w, p, dx);
  const cpu::Convolution shape = describe(dx, w, g, p);
  if (route.precision == Precision::bfloat16) {
    if (route.step.kernel == Kernel::depthwise) {
      return depthwise_bfloat16(shape, true, g, w, std::nullopt, dx);
    }
    return input_gradient_bfloat16(shape, route.phases, g, w, dx);
  }
  AT_DISPATCH_FLOATING_TYPES(w.scalar_type(), "convolution_input_gradient", [&] {
    run_input_gradient<scalar_t>(route, shape, g.const_data_ptr<scalar_t>(),
                                 w.const_data_ptr<scalar_t>(), dx.mutable_data_ptr<scalar_t>(), dx);
  });
}

Tensor convolution_input_gradient_cpu(const Tensor& grad_output, const Tensor& weight,
                                      SymIntArrayRef input_size, SymIntArrayRef stride,
                                      SymIntArrayRef padding, SymIntArrayRef dilation,
                                      SymInt groups, c10::string_view algorithm) {
  constexpr auto op = "convolution_input_gradient";
  const Tensor grad_input =
      empty_input_gradient(grad_output, weight, input_size, stride, padding, dilation, groups);
  const auto p = make_parameters(op, weight.dim() - 2, stride, padding, dilation, groups);
  const auto named = named_algorithm(op, algorithm, weight.sym_sizes(), p);
  if (grad_input.numel() == 0) return grad_input;
  with_huge_pages(grad_input);
  if (weight.numel() == 0) return grad_input.zero_();
  Traced traced;
  const auto shape = describe(grad_input, weight, grad_output, p);
  const Route route = plan_route(op, Pass::input_gradient, shape, weight, named);
  trace(traced, route, shape, grad_input.sizes(), weight.sizes(), p, grad_output);
  input_gradient(route, grad_output, weight, p, grad_input);
  return grad_input;
}

// ---------------------------------------------------------------------------------------------
// The weight gradient
// ---------------------------------------------------------------------------------------------

template <typename T>
void run_weight_gradient(Step step, const cpu::Convolution& shape, const T* grad_output,
                         const T* input, const Tensor& result) {
  switch (step.kernel) {
    case Kernel::depthwise:
      return depthwise_weight_gradient<T>(shape, grad_output, input, result);
    case Kernel::band:
      return band_weight_gradient<T>(shape, grad_output, input, result);
    case Kernel::winograd:
      if (step.split == Split::stride_phases) {
        return winograd_weight_gradient_by_phases<T>(shape, grad_output, input, result);
      }
      return winograd_weight_gradient<T>(shape, grad_output, input, result);
    case Kernel::implicit_gemm:
    case Kernel::dense:
      return implicit_gemm_weight_gradient<T>(shape, step.split == Split::taps, grad_output, input,
                                              result);
    case Kernel::im2col:
      TORCH_INTERNAL_ASSERT(false, "im2col has no kernels");
  }
}

void weight_gradient(Route route, const Tensor& g, const Tensor& x, const Parameters& p,
                     const Tensor& dw) {
  if (route.real_parts) {
    route.real_parts = false;
    const auto format = dw.suggest_memory_format();
    dw.copy_(by_real_parts(g, x, [&](const Tensor& gr, const Tensor& xr) {
      const Tensor part = empty_part(dw, xr, format);
      weight_gradient(route, gr, xr, p, part);
      return part;
    }));
    return;
  }
  if (route.in_float32) {
    route.in_float32 = false;
    const bool last = route.channels_last;
    Tensor sum;
    each_images(x, g, cpu::kRoundedMemory, [&](const Tensor& xs, const Tensor& gs) {
      const Tensor single = to_float32(xs, last);
      const Tensor part = empty_part(dw, single, format_of(dw, last));
      weight_gradient(route, to_float32(gs, last), single, p, part);
      sum = sum.defined() ? sum.add_(part) : part;
    });
    dw.copy_(sum);
    return;
  }
  if (route.step.kernel == Kernel::im2col) return im2col_weight_gradient(g, x, p, dw);
  const cpu::Convolution shape = describe(x, dw, g, p);
  if (route.precision == Precision::bfloat16) {
    if (route.step.kernel == Kernel::depthwise) {
      return depthwise_weight_gradient_bfloat16(shape, g, x, dw);
    }
    return weight_gradient_bfloat16(shape, route.step.split == Split::taps, g, x, dw);
  }
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "convolution_weight_gradient", [&] {
    run_weight_gradient<scalar_t>(route.step, shape, g.const_data_ptr<scalar_t>(),
                                  x.const_data_ptr<scalar_t>(), dw);
  });
}

Tensor convolution_weight_gradient_cpu(const Tensor& grad_output, const Tensor& input,
                                       SymIntArrayRef weight_size, SymIntArrayRef stride,
                                       SymIntArrayRef padding, SymIntArrayRef dilation,
                                       SymInt groups, c10::string_view algorithm) {
  constexpr auto op = "convolution_weight_gradient";
  const Tensor grad_weight =
      empty_weight_gradient(grad_output, input, weight_size, stride, padding, dilation, groups);
  const auto p = make_parameters(op, grad_weight.dim() - 2, stride, padding, dilation, groups);
  const auto named = named_algorithm(op, algorithm, weight_size, p);
  if (grad_weight.numel() == 0) return grad_weight;
  with_huge_pages(grad_weight);
  if (grad_output.numel() == 0) return grad_weight.zero_();
  Traced traced;
  const auto shape = describe(input, grad_weight, grad_output, p);
  const Route route = plan_route(op, Pass::weight_gradient, shape, input, named);
  trace(traced, route, shape, input.sizes(), grad_weight.sizes(), p, input);
  weight_gradient(route, grad_output, input, p, grad_weight);
  return grad_weight;
}

}  // namespace

void carry_out(const Route& route, const Tensor& input, const Tensor& weight,
               const std::optional<Tensor>& bias, const Parameters& p, const Tensor& output) {
  Forward{p, std::nullopt, false}.run(route, input, weight, bias, output);
}

void carry_out_weight_gradient(const Route& route, const Tensor& grad_output, const Tensor& input,
                               const Parameters& p, const Tensor& grad_weight) {
  weight_gradient(route, grad_output, input, p, grad_weight);
}

TORCH_LIBRARY_IMPL(cnn_ext, CPU, m) {
  m.impl("convolution", convolution_cpu);
  m.impl("convolution_relu", convolution_relu_cpu);
  m.impl("convolution_frozen", convolution_frozen_cpu);
  m.impl("convolution_input_gradient", convolution_input_gradient_cpu);
  m.impl("convolution_weight_gradient", convolution_weight_gradient_cpu);
}

}  // namespace cnn_ext
