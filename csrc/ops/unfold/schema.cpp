// unfold (im2col) and fold (col2im): the schemas, the argument checks, and the derivatives for
// ordinary reverse mode. What computes them is in cpu.cpp; torch.func and forward-mode AD are in
// cnn_ext/ops/unfold.py.
//
// unfold is a matrix of zeros and ones, fold its transpose. So each is the gradient of the other,
// to any order, and nothing is kept for it.

#include "ops/torch.h"

#include "unfold.h"

#include "../autograd.h"

namespace cnn_ext {
namespace {

using c10::SymDimVector;
using c10::SymInt;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

bool exceeds(const SymInt& value, int64_t most) {
  const auto known = value.maybe_as_int();
  return known.has_value() && *known > most;
}

// `least`: the least value allowed. No product of two overflows.
void check_pair(const char* op, const char* name, SymIntArrayRef values, int64_t least) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  TORCH_CHECK(values.size() == 2 && values[0] >= least && values[1] >= least, op, ": ", name,
              ": expected one or two ints >= ", least, ", got ", values);
  TORCH_CHECK(!exceeds(values[0], kMost) && !exceeds(values[1], kMost), op, ": ", name,
              ": expected ints less than 2^31, got ", values);
}

// Patches along both axes of an image, after the checks of the window.
SymDimVector patch_counts(const char* op, SymIntArrayRef image, SymIntArrayRef kernel_size,
                          SymIntArrayRef dilation, SymIntArrayRef padding, SymIntArrayRef stride) {
  check_pair(op, "kernel_size", kernel_size, 1);
  check_pair(op, "dilation", dilation, 1);
  check_pair(op, "padding", padding, 0);
  check_pair(op, "stride", stride, 1);
  SymDimVector counts;
  for (int axis = 0; axis < 2; ++axis) {
    const SymInt reach = dilation[axis] * (kernel_size[axis] - 1) + 1;
    TORCH_CHECK(image[axis] + 2 * padding[axis] >= reach, op,
                ": kernel_size: expected one that fits the padded image of ", image,
                " with padding ", padding, ", got ", kernel_size, " with dilation ", dilation);
    counts.push_back(
        patches_along(image[axis], kernel_size[axis], dilation[axis], padding[axis], stride[axis]));
  }
  return counts;
}

// The sizes of the results, after every check.

SymDimVector columns_of(const Tensor& input, SymIntArrayRef kernel_size, SymIntArrayRef dilation,
                        SymIntArrayRef padding, SymIntArrayRef stride) {
  constexpr auto op = "unfold";
  TORCH_CHECK(input.dim() == 4, op, ": input: expected 4 dimensions (N, C, H, W), got shape ",
              input.sym_sizes());
  const auto size = input.sym_sizes();
  TORCH_CHECK(size[1] > 0 && size[2] > 0 && size[3] > 0, op, ": input: expected at least one ",
              "channel, of at least one cell, got (C, H, W) = ", size.slice(1));
  const auto counts = patch_counts(op, size.slice(2), kernel_size, dilation, padding, stride);
  return {size[0], size[1] * kernel_size[0] * kernel_size[1], counts[0] * counts[1]};
}

SymDimVector image_of(const Tensor& input, SymIntArrayRef output_size, SymIntArrayRef kernel_size,
                      SymIntArrayRef dilation, SymIntArrayRef padding, SymIntArrayRef stride) {
  constexpr auto op = "fold";
  check_pair(op, "output_size", output_size, 0);
  const auto counts = patch_counts(op, output_size, kernel_size, dilation, padding, stride);
  const SymInt taps = kernel_size[0] * kernel_size[1], cells = counts[0] * counts[1];
  TORCH_CHECK(input.dim() == 3 && input.sym_size(1) > 0 && input.sym_size(1) % taps == 0 &&
                  input.sym_size(2) == cells,
              op, ": input: expected (N, a multiple of ", taps, ", ", cells, "), or without N, ",
              "for output_size ", output_size, " and kernel_size ", kernel_size, ", got shape ",
              input.sym_sizes());
  return {input.sym_size(0), input.sym_size(1) / taps, output_size[0], output_size[1]};
}

}  // namespace

Tensor empty_columns(const Tensor& input, SymIntArrayRef kernel_size, SymIntArrayRef dilation,
                     SymIntArrayRef padding, SymIntArrayRef stride) {
  return at::empty_symint(columns_of(input, kernel_size, dilation, padding, stride),
                          input.options());
}

Tensor empty_image(const Tensor& input, SymIntArrayRef output_size, SymIntArrayRef kernel_size,
                   SymIntArrayRef dilation, SymIntArrayRef padding, SymIntArrayRef stride) {
  return at::empty_symint(image_of(input, output_size, kernel_size, dilation, padding, stride),
                          input.options());
}

namespace {

using Unfold = decltype(empty_columns);
using Fold = decltype(empty_image);

Tensor call_unfold(const Tensor& input, SymIntArrayRef kernel_size, SymIntArrayRef dilation,
                   SymIntArrayRef padding, SymIntArrayRef stride) {
  static const auto op = operation<Unfold>("cnn_ext::unfold");
  return op.call(input, kernel_size, dilation, padding, stride);
}

Tensor call_fold(const Tensor& input, SymIntArrayRef output_size, SymIntArrayRef kernel_size,
                 SymIntArrayRef dilation, SymIntArrayRef padding, SymIntArrayRef stride) {
  static const auto op = operation<Fold>("cnn_ext::fold");
  return op.call(input, output_size, kernel_size, dilation, padding, stride);
}

// ---------------------------------------------------------------------------------------------
// Elsewhere than on the CPU: composed of torch's operations, for any dtype
// ---------------------------------------------------------------------------------------------

Tensor unfold_composite(const Tensor& input, SymIntArrayRef kernel_size, SymIntArrayRef dilation,
                        SymIntArrayRef padding, SymIntArrayRef stride) {
  const auto counts = columns_of(input, kernel_size, dilation, padding, stride);
  Tensor patches = at::constant_pad_nd_symint(
      input, SymDimVector{padding[1], padding[1], padding[0], padding[0]});
  for (int axis = 0; axis < 2; ++axis) {  // a view, the cells of a patch last
    const SymInt reach = dilation[axis] * (kernel_size[axis] - 1) + 1;
    patches = patches.unfold(axis + 2, reach.expect_int(), stride[axis].expect_int())
                  .slice_symint(-1, std::nullopt, std::nullopt, dilation[axis]);
  }
  return patches.permute({0, 1, 4, 5, 2, 3})
      .clone(at::MemoryFormat::Contiguous)
      .view_symint({counts[0], counts[1], counts[2]});
}

Tensor fold_composite(const Tensor& input, SymIntArrayRef output_size, SymIntArrayRef kernel_size,
                      SymIntArrayRef dilation, SymIntArrayRef padding, SymIntArrayRef stride) {
  const auto image = image_of(input, output_size, kernel_size, dilation, padding, stride);
  const auto counts = patch_counts("fold", output_size, kernel_size, dilation, padding, stride);
  Tensor patches = input
                       .reshape_symint({image[0], image[1], kernel_size[0], kernel_size[1],
                                        counts[0], counts[1]})
                       .permute({0, 1, 4, 5, 2, 3});
  for (const int axis : {1, 0}) {  // (N, C, P, Q, R, S) to (N, C, P, W, R), then to (N, C, H, W)
    const SymInt reach = dilation[axis] * (kernel_size[axis] - 1) + 1;
    SymDimVector size(patches.sym_sizes().begin(), patches.sym_sizes().end());
    size.back() = reach;
    const Tensor spread =
        at::zeros_symint(size, patches.options());  // a dilated patch, its gaps too
    spread.slice_symint(-1, std::nullopt, std::nullopt, dilation[axis]).copy_(patches);
    size.pop_back();
    size[axis + 2] = output_size[axis] + 2 * padding[axis];
    patches = at::unfold_backward_symint(spread, size, axis + 2, reach.expect_int(),
                                         stride[axis].expect_int());
  }
  return patches.narrow_symint(2, padding[0], output_size[0])
      .narrow_symint(3, padding[1], output_size[1])
      .contiguous();
}

// ---------------------------------------------------------------------------------------------
// Derivatives in reverse mode
// ---------------------------------------------------------------------------------------------

// What a node keeps: the size of the image and the window, and no tensor.
struct Window {
  std::vector<SymInt> image, kernel_size, dilation, padding, stride;

  static void write(AutogradContext* context, SymIntArrayRef image, SymIntArrayRef kernel_size,
                    SymIntArrayRef dilation, SymIntArrayRef padding, SymIntArrayRef stride) {
    auto& kept = context->saved_data;
    kept["image"] = image;
    kept["kernel_size"] = kernel_size;
    kept["dilation"] = dilation;
    kept["padding"] = padding;
    kept["stride"] = stride;
  }
  explicit Window(AutogradContext* context)
      : image(context->saved_data["image"].toSymIntVector()),
        kernel_size(context->saved_data["kernel_size"].toSymIntVector()),
        dilation(context->saved_data["dilation"].toSymIntVector()),
        padding(context->saved_data["padding"].toSymIntVector()),
        stride(context->saved_data["stride"].toSymIntVector()) {}
};

struct UnfoldNode : torch::autograd::Function<UnfoldNode> {
  static constexpr bool is_traceable = true;

  static Tensor forward(AutogradContext* context, const Tensor& input, SymIntArrayRef kernel_size,
                        SymIntArrayRef dilation, SymIntArrayRef padding, SymIntArrayRef stride) {
    at::AutoDispatchBelowADInplaceOrView below;
    const Tensor output = call_unfold(input, kernel_size, dilation, padding, stride);
    Window::write(context, input.sym_sizes().slice(2), kernel_size, dilation, padding, stride);
    return output;
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    variable_list result(5);
    if (!grads[0].defined()) return result;
    const Window w(context);
    result[0] = call_fold(grads[0], w.image, w.kernel_size, w.dilation, w.padding, w.stride);
    return result;
  }
};

struct FoldNode : torch::autograd::Function<FoldNode> {
  static constexpr bool is_traceable = true;

  static Tensor forward(AutogradContext* context, const Tensor& input, SymIntArrayRef output_size,
                        SymIntArrayRef kernel_size, SymIntArrayRef dilation, SymIntArrayRef padding,
                        SymIntArrayRef stride) {
    at::AutoDispatchBelowADInplaceOrView below;
    Window::write(context, output_size, kernel_size, dilation, padding, stride);
    return call_fold(input, output_size, kernel_size, dilation, padding, stride);
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    variable_list result(6);
    if (!grads[0].defined()) return result;
    const Window w(context);
    result[0] = call_unfold(grads[0], w.kernel_size, w.dilation, w.padding, w.stride);
    return result;
  }
};

Tensor unfold_autograd(const Tensor& input, SymIntArrayRef kernel_size, SymIntArrayRef dilation,
                       SymIntArrayRef padding, SymIntArrayRef stride) {
  if (records_gradient("unfold", {&input})) {
    return UnfoldNode::apply(input, kernel_size, dilation, padding, stride);
  }
  at::AutoDispatchBelowADInplaceOrView below;
  return call_unfold(input, kernel_size, dilation, padding, stride);
}

Tensor fold_autograd(const Tensor& input, SymIntArrayRef output_size, SymIntArrayRef kernel_size,
                     SymIntArrayRef dilation, SymIntArrayRef padding, SymIntArrayRef stride) {
  if (records_gradient("fold", {&input})) {
    return FoldNode::apply(input, output_size, kernel_size, dilation, padding, stride);
  }
  at::AutoDispatchBelowADInplaceOrView below;
  return call_fold(input, output_size, kernel_size, dilation, padding, stride);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(cnn_ext, m) {
  m.def(
      "unfold(Tensor input, SymInt[] kernel_size, SymInt[] dilation, SymInt[] padding, "
      "SymInt[] stride) -> Tensor");
  m.def(
      "fold(Tensor input, SymInt[] output_size, SymInt[] kernel_size, SymInt[] dilation, "
      "SymInt[] padding, SymInt[] stride) -> Tensor");
}

TORCH_LIBRARY_IMPL(cnn_ext, Meta, m) {
  m.impl("unfold", empty_columns);
  m.impl("fold", empty_image);
}

TORCH_LIBRARY_IMPL(cnn_ext, CompositeExplicitAutograd, m) {
  m.impl("unfold", unfold_composite);
  m.impl("fold", fold_composite);
}

TORCH_LIBRARY_IMPL(cnn_ext, Autograd, m) {
  m.impl("unfold", unfold_autograd);
  m.impl("fold", fold_autograd);
}

}  // namespace cnn_ext
