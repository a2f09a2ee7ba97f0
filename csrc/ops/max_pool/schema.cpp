// Max-pooling over two axes. For the gradient it keeps taps, a byte for every window, where torch
// keeps the input and an index of eight bytes; where no gradient is asked for, nothing. The
// gradient is linear in grad_output, and its own gradient is composed of torch's operations. The
// drivers are in cpu.cpp and csrc/cuda/max_pool.cu.

#include "ops/torch.h"

#include "max_pool.h"

#include "../autograd.h"

namespace cnn_ext {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Of the output.
c10::SymDimVector output_size(const char* op, c10::SymIntArrayRef input_size,
                              IntArrayRef kernel_size, IntArrayRef stride, IntArrayRef padding,
                              IntArrayRef dilation, bool ceil_mode) {
  const int64_t dim = static_cast<int64_t>(input_size.size());
  TORCH_CHECK(dim == 3 || dim == 4, op, ": input: expected (N, C, H, W) or (C, H, W), got shape ",
              input_size);
  const auto check = [&](const char* name, IntArrayRef values, int64_t least) {
    constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
    const auto fits = [&](int64_t value) { return least <= value && value <= kMost; };
    TORCH_CHECK(values.size() == 2 && fits(values[0]) && fits(values[1]), op, ": ", name,
                ": expected two numbers of at least ", least, " and less than 2^31, got ", values);
  };
  check("kernel_size", kernel_size, 1);
  check("stride", stride, 1);
  check("padding", padding, 0);
  check("dilation", dilation, 1);
  c10::SymDimVector size(input_size.begin(), input_size.end());
  for (int axis = 0; axis < 2; ++axis) {
    c10::SymInt& extent = size[dim - 2 + axis];
    const int64_t reach = (kernel_size[axis] - 1) * dilation[axis], pad = padding[axis];
    TORCH_CHECK(2 * pad <= kernel_size[axis], op, ": padding: expected at most half a window, got ",
                padding, " for windows of ", kernel_size, " cells");
    // With ceil_mode a window may reach beyond the padding behind.
    const c10::SymInt room = extent + 2 * pad - reach - 1 + (ceil_mode ? stride[axis] - 1 : 0);
    TORCH_CHECK(extent > 0 && room >= 0, op, ": input: expected at least one window along each ",
                "axis, got shape ", input_size, " for windows of ", kernel_size, " cells");
    c10::SymInt count = room / stride[axis] + 1;
    // No window starts in the padding behind.
    if (ceil_mode && (count - 1) * stride[axis] >= extent + pad) count = count - 1;
    extent = count;
  }
  return size;
}

void check_taps(const char* op, IntArrayRef kernel_size) {
  TORCH_CHECK(kernel_size[0] <= cpu::kMostTaps && kernel_size[1] <= cpu::kMostTaps &&
                  kernel_size[0] * kernel_size[1] <= cpu::kMostTaps,
              op, ": kernel_size: expected at most ", cpu::kMostTaps,
              " cells to a window where a gradient is asked for, got ", kernel_size);
}

}  // namespace

at::MemoryFormat pooled_format(const Tensor& input) {
  return input.dim() == 4 ? input.suggest_memory_format() : at::MemoryFormat::Contiguous;
}

Tensor check_max_pool(const Tensor& input, IntArrayRef kernel_size, IntArrayRef stride,
                      IntArrayRef padding, IntArrayRef dilation, bool ceil_mode) {
  const auto size = output_size("max_pool2d", input.sym_sizes(), kernel_size, stride, padding,
                                dilation, ceil_mode);
  return at::empty_symint(size, input.options().memory_format(pooled_format(input)));
}

std::tuple<Tensor, Tensor> check_max_pool_with_taps(const Tensor& input, IntArrayRef kernel_size,
                                                    IntArrayRef stride, IntArrayRef padding,
                                                    IntArrayRef dilation, bool ceil_mode) {
  const Tensor output = check_max_pool(input, kernel_size, stride, padding, dilation, ceil_mode);
  check_taps("max_pool2d", kernel_size);
  return {output, at::empty_like(output, output.options().dtype(at::kByte))};
}

Tensor check_max_pool_backward(const Tensor& grad_output, const Tensor& taps,
                               c10::SymIntArrayRef input_size, IntArrayRef kernel_size,
                               IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation,
                               bool ceil_mode) {
  constexpr auto op = "max_pool2d_backward";
  TORCH_CHECK(taps.scalar_type() == at::kByte, op, ": taps: expected uint8, got ",
              taps.scalar_type());
  TORCH_CHECK(grad_output.device() == taps.device(), op, ": taps: expected them on the device of ",
              "grad_output, ", grad_output.device(), ", got ", taps.device());
  TORCH_CHECK(grad_output.sym_sizes() == taps.sym_sizes(), op,
              ": grad_output: expected the shape of taps, ", taps.sym_sizes(), ", got ",
              grad_output.sym_sizes());
  const auto size = output_size(op, input_size, kernel_size, stride, padding, dilation, ceil_mode);
  check_taps(op, kernel_size);
  TORCH_CHECK(c10::SymIntArrayRef(size) == taps.sym_sizes(), op,
              ": input_size: expected one whose windows are those of taps, ", taps.sym_sizes(),
              ", got ", input_size);
  return at::empty_symint(input_size, grad_output.options().memory_format(pooled_format(taps)));
}

namespace {

using WithTaps = std::tuple<Tensor, Tensor>(const Tensor&, IntArrayRef, IntArrayRef, IntArrayRef,
                                            IntArrayRef, bool);

using Forward = Tensor(const Tensor&, IntArrayRef, IntArrayRef, IntArrayRef, IntArrayRef, bool);

using Backward = Tensor(const Tensor&, const Tensor&, c10::SymIntArrayRef, IntArrayRef, IntArrayRef,
                        IntArrayRef, IntArrayRef, bool);

Tensor call_backward(const Tensor& grad_output, const Tensor& taps, c10::SymIntArrayRef input_size,
                     IntArrayRef kernel_size, IntArrayRef stride, IntArrayRef padding,
                     IntArrayRef dilation, bool ceil_mode) {
  static const auto op = operation<Backward>("cnn_ext::max_pool2d_backward");
  return op.call(grad_output, taps, input_size, kernel_size, stride, padding, dilation, ceil_mode);
}

// What a node keeps beside tensors: the input's size and the geometry of the windows.
struct Windows {
  std::vector<c10::SymInt> input_size;
  std::vector<int64_t> kernel_size, stride, padding, dilation;
  bool ceil_mode;

  static void write(AutogradContext* context, c10::SymIntArrayRef input_size,
                    IntArrayRef kernel_size, IntArrayRef stride, IntArrayRef padding,
                    IntArrayRef dilation, bool ceil_mode) {
    auto& kept = context->saved_data;
    kept["input_size"] = input_size;
    kept["kernel_size"] = kernel_size;
    kept["stride"] = stride;
    kept["padding"] = padding;
    kept["dilation"] = dilation;
    kept["ceil_mode"] = ceil_mode;
  }
  explicit Windows(AutogradContext* context)
      : input_size(context->saved_data["input_size"].toSymIntVector()),
        kernel_size(context->saved_data["kernel_size"].toIntVector()),
        stride(context->saved_data["stride"].toIntVector()),
        padding(context->saved_data["padding"].toIntVector()),
        dilation(context->saved_data["dilation"].toIntVector()),
        ceil_mode(context->saved_data["ceil_mode"].toBool()) {}

  Tensor gradient(const Tensor& grad_output, const Tensor& taps) const {
    return call_backward(grad_output, taps, input_size, kernel_size, stride, padding, dilation,
                         ceil_mode);
  }

  // The cells, of the input's size, that stand where the taps do; zero for a window without one.
  Tensor winners(const Tensor& cells, const Tensor& taps) const {
    Tensor at;  // the index in a map
    const int64_t first = taps.dim() - 2;
    for (int axis = 0; axis < 2; ++axis) {
      const Tensor t = taps.to(at::kLong);
      const Tensor tap = axis == 0 ? t.floor_divide(kernel_size[1]) : t.remainder(kernel_size[1]);
      Tensor start = at::arange(taps.sym_size(first + axis), tap.options()) * stride[axis];
      if (axis == 0) start = start.unsqueeze(-1);
      const Tensor along = start - padding[axis] + tap * dilation[axis];
      at = axis == 0 ? along * input_size[first + 1] : at + along;
    }
    const Tensor none = taps == cpu::kNoTap;
    // Not flatten, which the old vmap does not know: is_grads_batched and hessian(vectorize=True).
    const auto rows = [&](const Tensor& maps) {
      c10::SymDimVector size(maps.sym_sizes().begin(), maps.sym_sizes().end() - 1);
      size.back() = maps.sym_size(first) * maps.sym_size(first + 1);
      return maps.reshape_symint(size);
    };
    const Tensor found = rows(cells).gather(-1, rows(at.masked_fill(none, 0)));
    return found.view_symint(taps.sym_sizes()).masked_fill(none, 0);
  }
};

struct MaxPoolNode : torch::autograd::Function<MaxPoolNode> {
  static constexpr bool is_traceable = true;

  static variable_list forward(AutogradContext* context, const Tensor& input,
                               IntArrayRef kernel_size, IntArrayRef stride, IntArrayRef padding,
                               IntArrayRef dilation, bool ceil_mode) {
    static const auto op = operation<WithTaps>("cnn_ext::max_pool2d_with_taps");
    at::AutoDispatchBelowADInplaceOrView below;
    const auto [output, taps] = op.call(input, kernel_size, stride, padding, dilation, ceil_mode);
    Windows::write(context, input.sym_sizes(), kernel_size, stride, padding, dilation, ceil_mode);
    context->save_for_backward({taps});
    // Not marked as without a derivative: bytes have none, and compiled autograd forbids it.
    return {output, taps};
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    variable_list result(6);
    if (grads[0].defined()) {
      result[0] = Windows(context).gradient(grads[0], context->get_saved_variables()[0]);
    }
    return result;
  }
};

struct MaxPoolBackwardNode : torch::autograd::Function<MaxPoolBackwardNode> {
  static constexpr bool is_traceable = true;

  static Tensor forward(AutogradContext* context, const Tensor& grad_output, const Tensor& taps,
                        c10::SymIntArrayRef input_size, IntArrayRef kernel_size, IntArrayRef stride,
                        IntArrayRef padding, IntArrayRef dilation, bool ceil_mode) {
    at::AutoDispatchBelowADInplaceOrView below;
    Windows::write(context, input_size, kernel_size, stride, padding, dilation, ceil_mode);
    context->save_for_backward({taps});
    return call_backward(grad_output, taps, input_size, kernel_size, stride, padding, dilation,
                         ceil_mode);
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    variable_list result(8);
    if (grads[0].defined()) {
      result[0] = Windows(context).winners(grads[0], context->get_saved_variables()[0]);
    }
    return result;
  }
};

std::tuple<Tensor, Tensor> max_pool2d_with_taps_autograd(const Tensor& input,
                                                         IntArrayRef kernel_size,
                                                         IntArrayRef stride, IntArrayRef padding,
                                                         IntArrayRef dilation, bool ceil_mode) {
  static const auto op = operation<WithTaps>("cnn_ext::max_pool2d_with_taps");
  if (records_gradient("max_pool2d_with_taps", {&input})) {
    const auto both = MaxPoolNode::apply(input, kernel_size, stride, padding, dilation, ceil_mode);
    return {both[0], both[1]};
  }
  at::AutoDispatchBelowADInplaceOrView below;
  return op.call(input, kernel_size, stride, padding, dilation, ceil_mode);
}

Tensor max_pool2d_autograd(const Tensor& input, IntArrayRef kernel_size, IntArrayRef stride,
                           IntArrayRef padding, IntArrayRef dilation, bool ceil_mode) {
  static const auto op = operation<Forward>("cnn_ext::max_pool2d");
  if (records_gradient("max_pool2d", {&input})) {
    return MaxPoolNode::apply(input, kernel_size, stride, padding, dilation, ceil_mode)[0];
  }
  at::AutoDispatchBelowADInplaceOrView below;
  return op.call(input, kernel_size, stride, padding, dilation, ceil_mode);
}

Tensor max_pool2d_backward_autograd(const Tensor& grad_output, const Tensor& taps,
                                    c10::SymIntArrayRef input_size, IntArrayRef kernel_size,
                                    IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation,
                                    bool ceil_mode) {
  if (records_gradient("max_pool2d_backward", {&grad_output})) {
    return MaxPoolBackwardNode::apply(grad_output, taps, input_size, kernel_size, stride, padding,
                                      dilation, ceil_mode);
  }
  at::AutoDispatchBelowADInplaceOrView below;
  return call_backward(grad_output, taps, input_size, kernel_size, stride, padding, dilation,
                       ceil_mode);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(cnn_ext, m) {
  m.def(
      "max_pool2d(Tensor input, int[2] kernel_size, int[2] stride, int[2] padding, "
      "int[2] dilation, bool ceil_mode) -> Tensor");
  m.def(
      "max_pool2d_with_taps(Tensor input, int[2] kernel_size, int[2] stride, int[2] padding, "
      "int[2] dilation, bool ceil_mode) -> (Tensor, Tensor)");
  m.def(
      "max_pool2d_backward(Tensor grad_output, Tensor taps, SymInt[] input_size, "
      "int[2] kernel_size, int[2] stride, int[2] padding, int[2] dilation, bool ceil_mode) "
      "-> Tensor");
}

TORCH_LIBRARY_IMPL(cnn_ext, Meta, m) {
  m.impl("max_pool2d", check_max_pool);
  m.impl("max_pool2d_with_taps", check_max_pool_with_taps);
  m.impl("max_pool2d_backward", check_max_pool_backward);
}

TORCH_LIBRARY_IMPL(cnn_ext, Autograd, m) {
  m.impl("max_pool2d", max_pool2d_autograd);
  m.impl("max_pool2d_with_taps", max_pool2d_with_taps_autograd);
  m.impl("max_pool2d_backward", max_pool2d_backward_autograd);
}

}  // namespace cnn_ext
