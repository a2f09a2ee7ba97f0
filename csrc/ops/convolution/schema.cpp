// Convolution (cross-correlation, as torch has it), its input gradient and its weight gradient: the
// schemas, the argument checks, and the derivatives for ordinary reverse mode. What computes them
// is in cpu.cpp and the drivers beside it; torch.func and forward-mode AD are in
// cnn_ext/ops/convolution.py. Also convolution with a ReLU, and what the layers of cnn_ext.freeze
// call, which has no derivative.
//
// Convolution is closed under differentiation: each of the three operations is linear in its two
// tensors, and its derivatives are the other two. So there is no fourth kernel.

#include "ops/torch.h"

#include "convolution.h"

#include "../autograd.h"
#include "../checks.h"

namespace cnn_ext {
namespace {

// Strides, dilations, paddings and groups are less than 2^31, and an axis has fewer than 2^62
// cells, so that no sum or product of a few of them overflows.
constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
constexpr int64_t kMostCells = int64_t{1} << 62;

// Whether a number is known to be more. Of one that torch.export leaves open nothing is asked: the
// answer would bound it, and the program would not serve every size.
bool exceeds(const SymInt& value, int64_t most) {
  const auto known = value.maybe_as_int();
  return known.has_value() && *known > most;
}

void check_range(const char* op, const char* name, const SymInt& value, int64_t least,
                 SymIntArrayRef values) {
  TORCH_CHECK(value >= least, op, ": ", name, ": expected integers of at least ", least, ", got ",
              values);
  TORCH_CHECK(!exceeds(value, kMost), op, ": ", name, ": expected integers less than 2^31, got ",
              values);
}

// One value for all axes, or one for each; `least` is the least value allowed.
SymDimVector per_axis(const char* op, const char* name, SymIntArrayRef values, int64_t axes,
                      int64_t least) {
  TORCH_CHECK(values.size() == 1 || static_cast<int64_t>(values.size()) == axes, op, ": ", name,
              ": expected one integer or ", axes, " (one for each spatial axis), got ", values);
  SymDimVector result;
  for (int64_t axis = 0; axis < axes; ++axis) {
    result.push_back(values.size() == 1 ? values[0] : values[axis]);
    check_range(op, name, result.back(), least, values);
  }
  return result;
}

}  // namespace

Parameters make_parameters(const char* op, int64_t axes, SymIntArrayRef stride,
                           SymIntArrayRef padding, SymIntArrayRef dilation, SymInt groups) {
  Parameters p;
  p.stride = per_axis(op, "stride", stride, axes, 1);
  p.dilation = per_axis(op, "dilation", dilation, axes, 1);
  p.groups = std::move(groups);
  TORCH_CHECK(p.groups >= 1, op, ": groups: expected an integer of at least 1, got ", p.groups);
  TORCH_CHECK(!exceeds(p.groups, kMost), op, ": groups: expected an integer less than 2^31, got ",
              p.groups);
  if (axes > 0 && static_cast<int64_t>(padding.size()) == 2 * axes) {
    // In the order of torch.nn.functional.pad: the last axis first, before and after.
    for (int64_t axis = axes - 1; axis >= 0; --axis) {
      p.padding_before.push_back(padding[2 * axis]);
      p.padding_after.push_back(padding[2 * axis + 1]);
      check_range(op, "padding", p.padding_before.back(), 0, padding);
      check_range(op, "padding", p.padding_after.back(), 0, padding);
    }
  } else {
    TORCH_CHECK(padding.size() == 1 || static_cast<int64_t>(padding.size()) == axes, op,
                ": padding: expected one integer, ", axes, " (one for each spatial axis) or ",
                2 * axes, " (before and after each, the last axis first), got ", padding);
    p.padding_before = per_axis(op, "padding", padding, axes, 0);
    p.padding_after = p.padding_before;
  }
  return p;
}

namespace {

// The sizes of the output, after every check on the sizes of input and weight.
SymDimVector output_size(const char* op, SymIntArrayRef input, SymIntArrayRef weight,
                         const Parameters& p) {
  const size_t axes = weight.size() - 2;
  TORCH_CHECK(input.size() == weight.size(), op, ": input: expected ", weight.size(),
              " dimensions (N, C and ", axes, " spatial) beside a weight of shape ", weight,
              ", got shape ", input);
  for (const SymInt& cells : input) {
    TORCH_CHECK(!exceeds(cells, kMostCells - 1), op,
                ": input: expected fewer than 2^62 cells along every axis, ", "got shape ", input);
  }
  TORCH_CHECK(weight[1] <= kMostCells / p.groups, op,
              ": groups: expected fewer than 2^62 channels ", "in all, got ", p.groups,
              " groups of ", weight[1], " (a weight of shape ", weight, ")");
  TORCH_CHECK(input[1] == weight[1] * p.groups, op, ": input: expected ", weight[1] * p.groups,
              " channels (groups ", p.groups, " x ", weight[1], " of a weight of shape ", weight,
              "), got ", input[1], " in shape ", input);
  TORCH_CHECK(weight[0] % p.groups == 0, op, ": groups: expected a divisor of the ", weight[0],
              " filters in a weight of shape ", weight, ", got ", p.groups);
  SymDimVector output = {input[0], weight[0]};
  for (size_t axis = 0; axis < axes; ++axis) {
    const SymInt& filter = weight[axis + 2];
    TORCH_CHECK(filter >= 1, op, ": weight: expected a filter of at least 1 cell along every axis,",
                " got shape ", weight);
    TORCH_CHECK(filter <= kMostCells / p.dilation[axis], op, ": weight: expected a filter that ",
                "reaches over fewer than 2^62 cells, got shape ", weight, " with dilation ",
                SymIntArrayRef(p.dilation));
    const SymInt padded = input[axis + 2] + p.padding_before[axis] + p.padding_after[axis];
    const SymInt extent = p.dilation[axis] * (filter - 1) + 1;
    TORCH_CHECK(input[axis + 2] >= 1 && padded >= extent, op, ": input: expected a padded size of ",
                "at least ", extent, " along spatial axis ", axis, " (a filter of ", filter,
                ", dilation ", p.dilation[axis], "), got ", padded, " from shape ", input);
    output.push_back((padded - extent) / p.stride[axis] + 1);
  }
  return output;
}

void check_weight_size(const char* op, const char* name, SymIntArrayRef weight) {
  TORCH_CHECK(weight.size() >= 3 && weight.size() <= 5, op, ": ", name,
              ": expected 3, 4 or 5 dimensions (K, C / groups and 1 to 3 spatial), got shape ",
              weight);
}

// torch's rule: channels_last if either operand is; in three dimensions for some dtypes only.
at::MemoryFormat result_format(const Tensor& a, const Tensor& b) {
  using at::MemoryFormat;
  for (const auto format : {MemoryFormat::ChannelsLast, MemoryFormat::ChannelsLast3d}) {
    const auto dtype = a.scalar_type();
    const bool three = dtype == at::kFloat || dtype == at::kBFloat16 || dtype == at::kComplexFloat;
    if (format == MemoryFormat::ChannelsLast3d && !three) break;
    if (a.suggest_memory_format() == format || b.suggest_memory_format() == format) return format;
  }
  return MemoryFormat::Contiguous;
}

Tensor empty(SymIntArrayRef size, const Tensor& a, const Tensor& b) {
  return at::empty_symint(size, a.options(), result_format(a, b));
}

}  // namespace

Tensor empty_output(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                    SymIntArrayRef stride, SymIntArrayRef padding, SymIntArrayRef dilation,
                    SymInt groups) {
  constexpr auto op = "convolution";
  check_weight_size(op, "weight", weight.sym_sizes());
  check_same_kind(op, "input", input, "weight", weight);
  if (bias.has_value()) {
    check_same_kind(op, "input", input, "bias", *bias);
    TORCH_CHECK(bias->dim() == 1 && bias->sym_size(0) == weight.sym_size(0), op,
                ": bias: expected shape [", weight.sym_size(0),
                "], one value for each filter, got ", bias->sym_sizes());
  }
  const auto p =
      make_parameters(op, weight.dim() - 2, stride, padding, dilation, std::move(groups));
  return empty(output_size(op, input.sym_sizes(), weight.sym_sizes(), p), input, weight);
}

Tensor empty_input_gradient(const Tensor& grad_output, const Tensor& weight,
                            SymIntArrayRef input_size, SymIntArrayRef stride,
                            SymIntArrayRef padding, SymIntArrayRef dilation, SymInt groups) {
  constexpr auto op = "convolution_input_gradient";
  check_weight_size(op, "weight", weight.sym_sizes());
  check_same_kind(op, "grad_output", grad_output, "weight", weight);
  const auto p =
      make_parameters(op, weight.dim() - 2, stride, padding, dilation, std::move(groups));
  const auto expected = output_size(op, input_size, weight.sym_sizes(), p);
  TORCH_CHECK(grad_output.sym_sizes() == SymIntArrayRef(expected), op, ": grad_output: expected ",
              "shape ", SymIntArrayRef(expected), ", got ", grad_output.sym_sizes());
  return empty(input_size, grad_output, weight);
}

Tensor empty_weight_gradient(const Tensor& grad_output, const Tensor& input,
                             SymIntArrayRef weight_size, SymIntArrayRef stride,
                             SymIntArrayRef padding, SymIntArrayRef dilation, SymInt groups) {
  constexpr auto op = "convolution_weight_gradient";
  check_weight_size(op, "weight_size", weight_size);
  check_same_kind(op, "grad_output", grad_output, "input", input);
  const auto p =
      make_parameters(op, weight_size.size() - 2, stride, padding, dilation, std::move(groups));
  const auto expected = output_size(op, input.sym_sizes(), weight_size, p);
  TORCH_CHECK(grad_output.sym_sizes() == SymIntArrayRef(expected), op, ": grad_output: expected ",
              "shape ", SymIntArrayRef(expected), ", got ", grad_output.sym_sizes());
  return empty(weight_size, grad_output, input);
}

std::optional<Algorithm> named_algorithm(const char* op, c10::string_view name,
                                         SymIntArrayRef weight, const Parameters& p) {
  if (name == "auto") return std::nullopt;
  if (name == "im2col") return Algorithm::im2col;
  if (name == "implicit_gemm") return Algorithm::implicit_gemm;
  if (name == "winograd") {
    bool served = weight.size() == 4;
    SymInt cells = 0;  // of the filter, in each phase of the stride
    for (size_t axis = 0; served && axis < 2; ++axis) {
      const SymInt here = (weight[axis + 2] - 1) / p.stride[axis] + 1;
      served = p.dilation[axis] == 1 && weight[axis + 2] >= p.stride[axis] &&
               (here == 3 || here == 5) && (axis == 0 || here == cells);
      cells = here;
    }
    TORCH_CHECK(served, op, ": algorithm: \"winograd\" serves filters of 3 x 3 or 5 x 5 cells, or ",
                "so many in each phase of the stride, without dilation, got a weight of shape ",
                weight, ", stride ", SymIntArrayRef(p.stride), " and dilation ",
                SymIntArrayRef(p.dilation));
    return Algorithm::winograd;
  }
  TORCH_CHECK(name == "direct", op, ": algorithm: expected \"auto\", \"im2col\", ",
              "\"implicit_gemm\", \"winograd\" or \"direct\", got \"", name, "\"");
  SymInt taps = 1;
  for (size_t axis = 2; axis < weight.size(); ++axis) taps = taps * weight[axis];
  TORCH_CHECK(taps <= cpu::kBandSteps, op, ": algorithm: \"direct\" serves filters of at most ",
              cpu::kBandSteps, " cells, got a weight of shape ", weight);
  return Algorithm::direct;
}

void check_relu(const char* op, const Tensor& input, bool relu) {
  TORCH_CHECK(!relu || !input.is_complex(), op, ": input: expected a real dtype, for a complex ",
              "number is neither above nor below zero, got ", input.scalar_type());
}

void check_winograd_filters(const Tensor& weight, int64_t groups) {
  constexpr auto op = "winograd_filters";
  check_weight_size(op, "weight", weight.sym_sizes());
  TORCH_CHECK(at::isFloatingType(weight.scalar_type()), op, ": weight: expected a floating-point ",
              "dtype, got ", weight.scalar_type());
  const auto size = weight.sizes();
  TORCH_CHECK(size.size() == 4 && size[2] == size[3] && (size[2] == 3 || size[2] == 5), op,
              ": weight: expected 3 x 3 or 5 x 5 filters, got a weight of shape ", size);
  TORCH_CHECK(groups >= 1, op, ": groups: expected an integer of at least 1, got ", groups);
  TORCH_CHECK(weight.size(0) % groups == 0, op, ": groups: expected a divisor of the ",
              weight.size(0), " filters in a weight of shape ", weight.sizes(), ", got ", groups);
}

void check_frozen_filters(const Tensor& weight, const std::optional<Tensor>& filters,
                          const SymInt& groups) {
  if (!filters.has_value()) return;
  constexpr auto op = "convolution_frozen";
  TORCH_CHECK(at::isFloatingType(weight.scalar_type()), op, ": filters: expected none beside a ",
              "weight that is no floating-point tensor, got ", weight.scalar_type());
  const auto dtype = weight.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  TORCH_CHECK(filters->scalar_type() == dtype && filters->device() == weight.device(), op,
              ": filters: expected ", dtype, " on ", weight.device(),
              ", as winograd_filters gives ", "them for this weight, got ", filters->scalar_type(),
              " on ", filters->device());
  TORCH_CHECK(filters->dim() == 4 && filters->sym_size(0) == groups &&
                  filters->sym_size(2) == cpu::kTileCells && filters->is_contiguous(),
              op, ": filters: expected shape [", groups, ", panels, ", cpu::kTileCells, ", cell], ",
              "contiguous, as winograd_filters gives them, got ", filters->sym_sizes());
}

namespace {

// ---------------------------------------------------------------------------------------------
// Meta and fake tensors
// ---------------------------------------------------------------------------------------------

Tensor convolution_meta(const Tensor& input, const Tensor& weight,
                        const std::optional<Tensor>& bias, SymIntArrayRef stride,
                        SymIntArrayRef padding, SymIntArrayRef dilation, SymInt groups,
                        c10::string_view algorithm) {
  Tensor output = empty_output(input, weight, bias, stride, padding, dilation, groups);
  named_algorithm(
      "convolution", algorithm, weight.sym_sizes(),
      make_parameters("convolution", weight.dim() - 2, stride, padding, dilation, groups));
  return output;
}

Tensor convolution_relu_meta(const Tensor& input, const Tensor& weight,
                             const std::optional<Tensor>& bias, SymIntArrayRef stride,
                             SymIntArrayRef padding, SymIntArrayRef dilation, SymInt groups,
                             c10::string_view algorithm) {
  check_relu("convolution_relu", input, true);
  return convolution_meta(input, weight, bias, stride, padding, dilation, std::move(groups),
                          algorithm);
}

Tensor convolution_frozen_meta(const Tensor& input, const Tensor& weight,
                               const std::optional<Tensor>& bias,
                               const std::optional<Tensor>& filters, SymIntArrayRef stride,
                               SymIntArrayRef padding, SymIntArrayRef dilation, SymInt groups,
                               bool relu, c10::string_view algorithm) {
  check_relu("convolution_frozen", input, relu);
  check_frozen_filters(weight, filters, groups);
  return convolution_meta(input, weight, bias, stride, padding, dilation, std::move(groups),
                          algorithm);
}

Tensor convolution_input_gradient_meta(const Tensor& grad_output, const Tensor& weight,
                                       SymIntArrayRef input_size, SymIntArrayRef stride,
                                       SymIntArrayRef padding, SymIntArrayRef dilation,
                                       SymInt groups, c10::string_view algorithm) {
  Tensor grad_input =
      empty_input_gradient(grad_output, weight, input_size, stride, padding, dilation, groups);
  constexpr auto op = "convolution_input_gradient";
  named_algorithm(op, algorithm, weight.sym_sizes(),
                  make_parameters(op, weight.dim() - 2, stride, padding, dilation, groups));
  return grad_input;
}

Tensor convolution_weight_gradient_meta(const Tensor& grad_output, const Tensor& input,
                                        SymIntArrayRef weight_size, SymIntArrayRef stride,
                                        SymIntArrayRef padding, SymIntArrayRef dilation,
                                        SymInt groups, c10::string_view algorithm) {
  Tensor grad_weight =
      empty_weight_gradient(grad_output, input, weight_size, stride, padding, dilation, groups);
  constexpr auto op = "convolution_weight_gradient";
  named_algorithm(op, algorithm, weight_size,
                  make_parameters(op, grad_weight.dim() - 2, stride, padding, dilation, groups));
  return grad_weight;
}

// ---------------------------------------------------------------------------------------------
// Derivatives in reverse mode. Each operation is f(a, b, [bias,] [size,] stride, padding, dilation,
// groups, algorithm), linear in the tensors a and b; what a gradient needs is the other tensor
// (where complex, its conjugate), and a tensor that no gradient asks for is not kept.
// ---------------------------------------------------------------------------------------------

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

Tensor call_convolution(const Tensor& input, const Tensor& weight,
                        const std::optional<Tensor>& bias, SymIntArrayRef stride,
                        SymIntArrayRef padding, SymIntArrayRef dilation, SymInt groups,
                        c10::string_view algorithm) {
  static const auto op = operation<decltype(convolution_meta)>("cnn_ext::convolution");
  return op.call(input, weight, bias, stride, padding, dilation, std::move(groups), algorithm);
}

Tensor call_convolution_relu(const Tensor& input, const Tensor& weight,
                             const std::optional<Tensor>& bias, SymIntArrayRef stride,
                             SymIntArrayRef padding, SymIntArrayRef dilation, SymInt groups,
                             c10::string_view algorithm) {
  static const auto op = operation<decltype(convolution_relu_meta)>("cnn_ext::convolution_relu");
  return op.call(input, weight, bias, stride, padding, dilation, std::move(groups), algorithm);
}

Tensor call_input_gradient(const Tensor& grad_output, const Tensor& weight, SymIntArrayRef size,
                           SymIntArrayRef stride, SymIntArrayRef padding, SymIntArrayRef dilation,
                           SymInt groups, c10::string_view algorithm) {
  static const auto op =
      operation<decltype(convolution_input_gradient_meta)>("cnn_ext::convolution_input_gradient");
  return op.call(grad_output, weight, size, stride, padding, dilation, std::move(groups),
                 algorithm);
}

Tensor call_weight_gradient(const Tensor& grad_output, const Tensor& input, SymIntArrayRef size,
                            SymIntArrayRef stride, SymIntArrayRef padding, SymIntArrayRef dilation,
                            SymInt groups, c10::string_view algorithm) {
  static const auto op =
      operation<decltype(convolution_weight_gradient_meta)>("cnn_ext::convolution_weight_gradient");
  return op.call(grad_output, input, size, stride, padding, dilation, std::move(groups), algorithm);
}

// What every backward reads: the two tensors, where kept, the output, where a ReLU made it, their
// sizes, and the other arguments.
struct Saved {
  Tensor a, b, output;
  std::vector<SymInt> a_size, b_size, stride, padding, dilation;
  SymInt groups;
  std::string algorithm;

  static void write(AutogradContext* context, const Tensor& a, const Tensor& b,
                    SymIntArrayRef stride, SymIntArrayRef padding, SymIntArrayRef dilation,
                    const SymInt& groups, c10::string_view algorithm,
                    const Tensor& output = Tensor()) {
    context->save_for_backward(
        {b.requires_grad() ? a : Tensor(), a.requires_grad() ? b : Tensor(), output});
    auto& data = context->saved_data;
    data["a_size"] = a.sym_sizes();
    data["b_size"] = b.sym_sizes();
    data["stride"] = stride;
    data["padding"] = padding;
    data["dilation"] = dilation;
    data["groups"] = groups;
    data["algorithm"] = std::string(algorithm);
  }
  static Saved read(AutogradContext* context) {
    const auto tensors = context->get_saved_variables();
    auto& data = context->saved_data;
    return {tensors[0],
            tensors[1],
            tensors[2],
            data["a_size"].toSymIntVector(),
            data["b_size"].toSymIntVector(),
            data["stride"].toSymIntVector(),
            data["padding"].toSymIntVector(),
            data["dilation"].toSymIntVector(),
            data["groups"].toSymInt(),
            data["algorithm"].toStringRef()};
  }
};

// With a ReLU, the gradient passes where the output is positive. The output is detached: a ReLU has
// no second derivative, and there is no need to compute zeros.
template <bool kReLU>
struct ConvolutionNode : torch::autograd::Function<ConvolutionNode<kReLU>> {
  static constexpr bool is_traceable = true;

  static Tensor forward(AutogradContext* context, const Tensor& input, const Tensor& weight,
                        const std::optional<Tensor>& bias, SymIntArrayRef stride,
                        SymIntArrayRef padding, SymIntArrayRef dilation, SymInt groups,
                        c10::string_view algorithm) {
    at::AutoDispatchBelowADInplaceOrView below;
    constexpr auto call = kReLU ? call_convolution_relu : call_convolution;
    const Tensor output = call(input, weight, bias, stride, padding, dilation, groups, algorithm);
    Saved::write(context, input, weight, stride, padding, dilation, groups, algorithm,
                 kReLU ? output : Tensor());
    context->saved_data["bias"] = bias.has_value();
    return output;
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const Saved s = Saved::read(context);
    variable_list result(8);
    if (!grads[0].defined()) return result;
    const Tensor grad = kReLU ? at::threshold_backward(grads[0], s.output.detach(), 0) : grads[0];
    if (context->needs_input_grad(0)) {
      result[0] = call_input_gradient(grad, s.b.conj(), s.a_size, s.stride, s.padding, s.dilation,
                                      s.groups, s.algorithm);
    }
    if (context->needs_input_grad(1)) {
      result[1] = call_weight_gradient(grad, s.a.conj(), s.b_size, s.stride, s.padding, s.dilation,
                                       s.groups, s.algorithm);
    }
    if (context->saved_data["bias"].toBool() && context->needs_input_grad(2)) {
      at::DimVector all_but_channels = {0};
      for (int64_t axis = 2; axis < grad.dim(); ++axis) all_but_channels.push_back(axis);
      result[2] = grad.sum(all_but_channels);
    }
    return result;
  }
};

struct InputGradientNode : torch::autograd::Function<InputGradientNode> {
  static constexpr bool is_traceable = true;

  static Tensor forward(AutogradContext* context, const Tensor& grad_output, const Tensor& weight,
                        SymIntArrayRef size, SymIntArrayRef stride, SymIntArrayRef padding,
                        SymIntArrayRef dilation, SymInt groups, c10::string_view algorithm) {
    at::AutoDispatchBelowADInplaceOrView below;
    Saved::write(context, grad_output, weight, stride, padding, dilation, groups, algorithm);
    return call_input_gradient(grad_output, weight, size, stride, padding, dilation, groups,
                               algorithm);
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const Saved s = Saved::read(context);
    variable_list result(8);
    if (!grads[0].defined()) return result;
    if (context->needs_input_grad(0)) {
      result[0] = call_convolution(grads[0], s.b.conj(), std::nullopt, s.stride, s.padding,
                                   s.dilation, s.groups, s.algorithm);
    }
    if (context->needs_input_grad(1)) {
      result[1] = call_weight_gradient(s.a.conj(), grads[0], s.b_size, s.stride, s.padding,
                                       s.dilation, s.groups, s.algorithm);
    }
    return result;
  }
};

struct WeightGradientNode : torch::autograd::Function<WeightGradientNode> {
  static constexpr bool is_traceable = true;

  static Tensor forward(AutogradContext* context, const Tensor& grad_output, const Tensor& input,
                        SymIntArrayRef size, SymIntArrayRef stride, SymIntArrayRef padding,
                        SymIntArrayRef dilation, SymInt groups, c10::string_view algorithm) {
    at::AutoDispatchBelowADInplaceOrView below;
    Saved::write(context, grad_output, input, stride, padding, dilation, groups, algorithm);
    return call_weight_gradient(grad_output, input, size, stride, padding, dilation, groups,
                                algorithm);
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const Saved s = Saved::read(context);
    variable_list result(8);
    if (!grads[0].defined()) return result;
    if (context->needs_input_grad(0)) {
      result[0] = call_convolution(s.b.conj(), grads[0], std::nullopt, s.stride, s.padding,
                                   s.dilation, s.groups, s.algorithm);
    }
    if (context->needs_input_grad(1)) {
      result[1] = call_input_gradient(s.a.conj(), grads[0], s.b_size, s.stride, s.padding,
                                      s.dilation, s.groups, s.algorithm);
    }
    return result;
  }
};

template <bool kReLU>
Tensor convolution_autograd(const Tensor& input, const Tensor& weight,
                            const std::optional<Tensor>& bias, SymIntArrayRef stride,
                            SymIntArrayRef padding, SymIntArrayRef dilation, SymInt groups,
                            c10::string_view algorithm) {
  const Tensor bias_or_none = bias.value_or(Tensor());
  constexpr auto op = kReLU ? "convolution_relu" : "convolution";
  if (records_gradient(op, {&input, &weight, &bias_or_none})) {
    return ConvolutionNode<kReLU>::apply(input, weight, bias, stride, padding, dilation, groups,
                                         algorithm);
  }
  at::AutoDispatchBelowADInplaceOrView below;
  constexpr auto call = kReLU ? call_convolution_relu : call_convolution;
  return call(input, weight, bias, stride, padding, dilation, groups, algorithm);
}

// Elsewhere than on the CPU: the convolution that is there, and a second pass.
Tensor convolution_relu_composite(const Tensor& input, const Tensor& weight,
                                  const std::optional<Tensor>& bias, SymIntArrayRef stride,
                                  SymIntArrayRef padding, SymIntArrayRef dilation, SymInt groups,
                                  c10::string_view algorithm) {
  check_relu("convolution_relu", input, true);
  return call_convolution(input, weight, bias, stride, padding, dilation, std::move(groups),
                          algorithm)
      .relu_();
}

Tensor convolution_frozen_composite(const Tensor& input, const Tensor& weight,
                                    const std::optional<Tensor>& bias,
                                    const std::optional<Tensor>& filters, SymIntArrayRef stride,
                                    SymIntArrayRef padding, SymIntArrayRef dilation, SymInt groups,
                                    bool relu, c10::string_view algorithm) {
  check_frozen_filters(weight, filters, groups);
  const auto call = relu ? call_convolution_relu : call_convolution;
  return call(input, weight, bias, stride, padding, dilation, std::move(groups), algorithm);
}

// Frozen layers have no derivative: their weights may be folded, and their filters are copies.
void refuse_gradient(const char* op, std::initializer_list<const Tensor*> tensors) {
  TORCH_CHECK(
      !records_gradient(op, tensors), op, ": a layer that cnn_ext.freeze made has no ",
      "gradient: call it on tensors that require none, or under torch.no_grad(); to train, ",
      "or to differentiate in the input, take the model that was frozen");
}

Tensor convolution_frozen_autograd(const Tensor& input, const Tensor& weight,
                                   const std::optional<Tensor>& bias,
                                   const std::optional<Tensor>& filters, SymIntArrayRef stride,
                                   SymIntArrayRef padding, SymIntArrayRef dilation, SymInt groups,
                                   bool relu, c10::string_view algorithm) {
  const Tensor bias_or_none = bias.value_or(Tensor()), filters_or_none = filters.value_or(Tensor());
  refuse_gradient("convolution_frozen", {&input, &weight, &bias_or_none, &filters_or_none});
  at::AutoDispatchBelowADInplaceOrView below;
  static const auto op =
      operation<decltype(convolution_frozen_autograd)>("cnn_ext::convolution_frozen");
  return op.call(input, weight, bias, filters, stride, padding, dilation, std::move(groups), relu,
                 algorithm);
}

Tensor winograd_filters_autograd(const Tensor& weight, int64_t groups) {
  refuse_gradient("winograd_filters", {&weight});
  at::AutoDispatchBelowADInplaceOrView below;
  static const auto op =
      operation<decltype(winograd_filters_autograd)>("cnn_ext::winograd_filters");
  return op.call(weight, groups);
}

Tensor input_gradient_autograd(const Tensor& grad_output, const Tensor& weight, SymIntArrayRef size,
                               SymIntArrayRef stride, SymIntArrayRef padding,
                               SymIntArrayRef dilation, SymInt groups, c10::string_view algorithm) {
  if (records_gradient("convolution_input_gradient", {&grad_output, &weight})) {
    return InputGradientNode::apply(grad_output, weight, size, stride, padding, dilation, groups,
                                    algorithm);
  }
  at::AutoDispatchBelowADInplaceOrView below;
  return call_input_gradient(grad_output, weight, size, stride, padding, dilation, groups,
                             algorithm);
}

Tensor weight_gradient_autograd(const Tensor& grad_output, const Tensor& input, SymIntArrayRef size,
                                SymIntArrayRef stride, SymIntArrayRef padding,
                                SymIntArrayRef dilation, SymInt groups,
                                c10::string_view algorithm) {
  if (records_gradient("convolution_weight_gradient", {&grad_output, &input})) {
    return WeightGradientNode::apply(grad_output, input, size, stride, padding, dilation, groups,
                                     algorithm);
  }
  at::AutoDispatchBelowADInplaceOrView below;
  return call_weight_gradient(grad_output, input, size, stride, padding, dilation, groups,
                              algorithm);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(cnn_ext, m) {
  m.def(
      "convolution(Tensor input, Tensor weight, Tensor? bias, SymInt[] stride, "
      "SymInt[] padding, SymInt[] dilation, SymInt groups, str algorithm) -> Tensor");
  m.def(
      "convolution_relu(Tensor input, Tensor weight, Tensor? bias, SymInt[] stride, "
      "SymInt[] padding, SymInt[] dilation, SymInt groups, str algorithm) -> Tensor");
  m.def(
      "convolution_frozen(Tensor input, Tensor weight, Tensor? bias, Tensor? filters, "
      "SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups, bool relu, "
      "str algorithm) -> Tensor");
  m.def("winograd_filters(Tensor weight, int groups) -> Tensor");
  m.def(
      "convolution_input_gradient(Tensor grad_output, Tensor weight, SymInt[] input_size, "
      "SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups, str algorithm) "
      "-> Tensor");
  m.def(
      "convolution_weight_gradient(Tensor grad_output, Tensor input, SymInt[] weight_size, "
      "SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups, str algorithm) "
      "-> Tensor");
}

TORCH_LIBRARY_IMPL(cnn_ext, Meta, m) {
  m.impl("convolution", convolution_meta);
  m.impl("convolution_relu", convolution_relu_meta);
  m.impl("convolution_frozen", convolution_frozen_meta);
  m.impl("convolution_input_gradient", convolution_input_gradient_meta);
  m.impl("convolution_weight_gradient", convolution_weight_gradient_meta);
}

TORCH_LIBRARY_IMPL(cnn_ext, CompositeExplicitAutograd, m) {
  m.impl("convolution_relu", convolution_relu_composite);
  m.impl("convolution_frozen", convolution_frozen_composite);
}

TORCH_LIBRARY_IMPL(cnn_ext, Autograd, m) {
  m.impl("convolution", convolution_autograd<false>);
  m.impl("convolution_relu", convolution_autograd<true>);
  m.impl("convolution_frozen", convolution_frozen_autograd);
  m.impl("winograd_filters", winograd_filters_autograd);
  m.impl("convolution_input_gradient", input_gradient_autograd);
  m.impl("convolution_weight_gradient", weight_gradient_autograd);
}

}  // namespace cnn_ext
