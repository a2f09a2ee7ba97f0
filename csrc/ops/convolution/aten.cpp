// torch's aten::convolution, aten::_convolution and aten::convolution_backward on our three
// operations, while cnn_ext.enable() has them registered. torch calls them below autograd, autocast
// and vmap, so they compute and nothing else. Checks and messages are torch's own, and so is the
// memory format of every result: compiled code relies on it.

#include "ops/torch.h"

#include <algorithm>

#include <ATen/native/ConvUtils.h>
#include <ATen/ops/_convolution_native.h>
#include <ATen/ops/convolution_backward_native.h>
#include <ATen/ops/convolution_native.h>

#include "../autograd.h"
#include "../enable.h"
#include "../torch_only.h"
#include "convolution.h"

namespace cnn_ext {
namespace {

using at::IntArrayRef;
using at::MemoryFormat;

// What our operations are called with, which is not what torch's are.
struct Geometry {
  at::DimVector stride, dilation, output;  // output: its size
  at::DimVector padding;                   // before and after each axis, the last axis first
  MemoryFormat format = MemoryFormat::Contiguous;  // of every result
};

bool is_plain(const Tensor& tensor) {
  return tensor.defined() && tensor.device().is_cpu() && tensor.layout() == at::kStrided;
}

Reason reason_against(const Tensor& input, const Tensor& other) {
  if (!is_plain(input) || !is_plain(other)) return Reason::not_plain;
  // Of complex tensors torch makes real ones before it calls these operators.
  const bool real = at::isFloatingType(input.scalar_type()) && input.element_size() >= 2;
  return real && other.scalar_type() == input.scalar_type() ? Reason::served : Reason::dtype;
}

// A list has one entry for all axes, or one for each.
bool fits(IntArrayRef list, int64_t axes) {
  return list.size() == 1 || static_cast<int64_t>(list.size()) == axes;
}

int64_t at_axis(IntArrayRef list, int64_t axis) { return list.size() == 1 ? list[0] : list[axis]; }

// torch's format for the results. Its first line has torch check the arguments, and raise.
MemoryFormat torch_format(const Tensor& input, const Tensor& weight,
                          const std::optional<Tensor>& bias, IntArrayRef stride,
                          IntArrayRef padding, IntArrayRef dilation, bool transposed,
                          IntArrayRef output_padding, int64_t groups) {
  const auto backend = at::native::select_conv_backend(
      input, weight, bias, c10::fromIntArrayRefSlow(stride), c10::fromIntArrayRefSlow(padding),
      c10::fromIntArrayRefSlow(dilation), transposed, c10::fromIntArrayRefSlow(output_padding),
      groups, std::nullopt);
  if (weight.dim() > 3) {
    return at::native::_determine_backend_memory_format(input, weight, backend);
  }
  // torch computes one axis as two, of a contiguous input: one that is not has no say.
  const Tensor& asked = input.is_contiguous() ? input : weight;
  return at::native::_determine_backend_memory_format(asked.unsqueeze(2), weight.unsqueeze(2),
                                                      backend);
}

// Fills the geometry, or tells why this call is torch's.
Reason understand(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                  IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation, bool transposed,
                  IntArrayRef output_padding, int64_t groups, Geometry& g) {
  for (const Tensor& other : {weight, bias.has_value() ? *bias : weight}) {
    const Reason reason = reason_against(input, other);
    if (reason != Reason::served) return reason;
  }
  const int64_t axes = weight.dim() - 2;
  if (axes < 1 || axes > 3 || input.dim() != weight.dim() || groups < 1 || !fits(stride, axes) ||
      !fits(padding, axes) || !fits(dilation, axes) || !fits(output_padding, axes)) {
    return Reason::arguments;
  }
  if (input.numel() == 0 || weight.numel() == 0) return Reason::empty;
  g.format = torch_format(input, weight, bias, stride, padding, dilation, transposed,
                          output_padding, groups);
  g.output = {input.size(0), transposed ? weight.size(1) * groups : weight.size(0)};
  g.padding.resize(2 * axes);
  for (int64_t axis = 0; axis < axes; ++axis) {
    const int64_t s = at_axis(stride, axis), d = at_axis(dilation, axis);
    const int64_t p = at_axis(padding, axis), more = at_axis(output_padding, axis);
    const int64_t extent = d * (weight.size(axis + 2) - 1) + 1, cells = input.size(axis + 2);
    if (d < 1) return Reason::arguments;
    int64_t after = p;
    if (transposed) {
      g.output.push_back((cells - 1) * s + extent - 2 * p + more);
      if (more >= s && more >= d) return Reason::arguments;
      // Cells that output_padding adds are padding given back; fewer than a stride of them make
      // no window more.
      if (more >= s) {
        if (more > p) return Reason::output_padding;
        after = p - more;
      }
    } else {
      g.output.push_back((cells + 2 * p - extent) / s + 1);
    }
    if (g.output.back() < 1) return Reason::arguments;
    g.stride.push_back(s);
    g.dilation.push_back(d);
    g.padding[2 * (axes - 1 - axis)] = p;
    g.padding[2 * (axes - 1 - axis) + 1] = after;
  }
  return Reason::served;
}

// Of one pass. `images` is the input where the convolution is transposed, otherwise the output.
int64_t multiply_adds(const Tensor& images, const Tensor& weight) {
  return weight.numel() == 0 ? 0 : images.numel() * (weight.numel() / weight.size(0));
}

Tensor in_format(const Tensor& tensor, MemoryFormat format) {
  if (tensor.dim() == 3 && format == MemoryFormat::ChannelsLast) {
    return tensor.unsqueeze(2).contiguous(format).squeeze(2);
  }
  return tensor.contiguous(format);
}

// The gradient of the output, which may be of another format than the results shall have.
Tensor as_read(const Tensor& grad_output, MemoryFormat format) {
  return grad_output.suggest_memory_format() == format ? grad_output
                                                       : in_format(grad_output, format);
}

using ConvolutionSignature = Tensor(const Tensor&, const Tensor&, const std::optional<Tensor>&,
                                    SymIntArrayRef, SymIntArrayRef, SymIntArrayRef, SymInt,
                                    c10::string_view);
using GradientSignature = Tensor(const Tensor&, const Tensor&, SymIntArrayRef, SymIntArrayRef,
                                 SymIntArrayRef, SymIntArrayRef, SymInt, c10::string_view);

Tensor convolve(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                const Geometry& g, int64_t groups) {
  static const auto op = operation<ConvolutionSignature>("cnn_ext::convolution");
  return op.call(input, weight, bias, c10::fromIntArrayRefSlow(g.stride),
                 c10::fromIntArrayRefSlow(g.padding), c10::fromIntArrayRefSlow(g.dilation), groups,
                 default_algorithm());
}

Tensor input_gradient(const Tensor& grad_output, const Tensor& weight, IntArrayRef size,
                      const Geometry& g, int64_t groups) {
  static const auto op = operation<GradientSignature>("cnn_ext::convolution_input_gradient");
  return op.call(grad_output, weight, c10::fromIntArrayRefSlow(size),
                 c10::fromIntArrayRefSlow(g.stride), c10::fromIntArrayRefSlow(g.padding),
                 c10::fromIntArrayRefSlow(g.dilation), groups, default_algorithm());
}

Tensor weight_gradient(const Tensor& grad_output, const Tensor& input, IntArrayRef size,
                       const Geometry& g, int64_t groups) {
  static const auto op = operation<GradientSignature>("cnn_ext::convolution_weight_gradient");
  return op.call(grad_output, input, c10::fromIntArrayRefSlow(size),
                 c10::fromIntArrayRefSlow(g.stride), c10::fromIntArrayRefSlow(g.padding),
                 c10::fromIntArrayRefSlow(g.dilation), groups, default_algorithm());
}

Tensor transposed_convolution(const Tensor& input, const Tensor& weight,
                              const std::optional<Tensor>& bias, const Geometry& g,
                              int64_t groups) {
  Tensor output = input_gradient(input, weight, g.output, g, groups);
  if (bias.has_value()) {
    at::DimVector all_but_channels(weight.dim() - 1, 1);
    all_but_channels[0] = g.output[1];
    output.add_(bias->view(all_but_channels));
  }
  return output;
}

// torchs(): the same call of torch's kernel.
template <typename Torchs>
Tensor forward(const Torchs& torchs, Counts& counts, const Tensor& input, const Tensor& weight,
               const std::optional<Tensor>& bias, IntArrayRef stride, IntArrayRef padding,
               IntArrayRef dilation, bool transposed, IntArrayRef output_padding, int64_t groups) {
  if (TorchOnly::is_on()) return torchs();
  const std::optional<Tensor> b = bias.has_value() && bias->defined() ? bias : std::nullopt;
  Geometry g;
  const Reason reason = understand(input, weight, b, stride, padding, dilation, transposed,
                                   output_padding, groups, g);
  const auto work = [&](const Tensor& output) {
    return multiply_adds(transposed ? input : output, weight);
  };
  if (reason != Reason::served) {
    return hand_back(counts, "convolution", "forward", reason, input, torchs, work);
  }
  const TorchOnly inside;
  at::AutoDispatchBelowADInplaceOrView below;
  const Tensor output = transposed ? transposed_convolution(input, weight, b, g, groups)
                                   : convolve(input, weight, b, g, groups);
  counts.add(reason, work(output));
  return in_format(output, g.format);
}

Counts convolution_counts, underscore_convolution_counts, backward_counts;

Tensor convolution(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                   IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation, bool transposed,
                   IntArrayRef output_padding, int64_t groups) {
  const auto torchs = [&] {
    return at::native::convolution(input, weight, bias, stride, padding, dilation, transposed,
                                   output_padding, groups);
  };
  return forward(torchs, convolution_counts, input, weight, bias, stride, padding, dilation,
                 transposed, output_padding, groups);
}

// What torch.jit.trace records of a convolution, with the switches of other devices.
Tensor underscore_convolution(const Tensor& input, const Tensor& weight,
                              const std::optional<Tensor>& bias, IntArrayRef stride,
                              IntArrayRef padding, IntArrayRef dilation, bool transposed,
                              IntArrayRef output_padding, int64_t groups, bool benchmark,
                              bool deterministic, bool cudnn_enabled, bool allow_tf32) {
  const auto torchs = [&] {
    return at::native::_convolution(input, weight, bias, stride, padding, dilation, transposed,
                                    output_padding, groups, benchmark, deterministic, cudnn_enabled,
                                    allow_tf32);
  };
  return forward(torchs, underscore_convolution_counts, input, weight, bias, stride, padding,
                 dilation, transposed, output_padding, groups);
}

using Gradients = std::tuple<Tensor, Tensor, Tensor>;

Tensor bias_gradient(const Tensor& grad_output) {
  at::DimVector all_but_channels = {0};
  for (int64_t axis = 2; axis < grad_output.dim(); ++axis) all_but_channels.push_back(axis);
  return grad_output.sum(all_but_channels);
}

// A transposed convolution is the input gradient of another, whose output is its input.
Gradients gradients(const Tensor& grad_output, const Tensor& input, const Tensor& weight,
                    const Geometry& g, bool transposed, int64_t groups,
                    std::array<bool, 3> output_mask) {
  Gradients result;
  const auto& [of_input, of_weight, of_bias] = output_mask;
  if (of_input || of_weight) {
    const Tensor grad = as_read(grad_output, g.format);
    if (of_input) {
      const Tensor found = transposed ? convolve(grad, weight, std::nullopt, g, groups)
                                      : input_gradient(grad, weight, input.sizes(), g, groups);
      std::get<0>(result) = in_format(found, g.format);
    }
    if (of_weight) {
      const Tensor found = transposed ? weight_gradient(input, grad, weight.sizes(), g, groups)
                                      : weight_gradient(grad, input, weight.sizes(), g, groups);
      std::get<1>(result) = in_format(found, g.format);
    }
  }
  if (of_bias) std::get<2>(result) = bias_gradient(grad_output);
  return result;
}

Gradients convolution_backward(const Tensor& grad_output, const Tensor& input, const Tensor& weight,
                               at::OptionalIntArrayRef bias_sizes, IntArrayRef stride,
                               IntArrayRef padding, IntArrayRef dilation, bool transposed,
                               IntArrayRef output_padding, int64_t groups,
                               std::array<bool, 3> output_mask) {
  const auto torchs = [&] {
    return at::native::convolution_backward(grad_output, input, weight, bias_sizes, stride, padding,
                                            dilation, transposed, output_padding, groups,
                                            output_mask);
  };
  if (TorchOnly::is_on()) return torchs();
  Geometry g;
  Reason reason = reason_against(grad_output, input);
  if (reason == Reason::served) {
    reason = understand(input, weight, std::nullopt, stride, padding, dilation, transposed,
                        output_padding, groups, g);
  }
  const bool padded = std::any_of(output_padding.begin(), output_padding.end(),
                                  [](int64_t more) { return more != 0; });
  if (!transposed && padded) reason = Reason::arguments;  // which torch refuses in a gradient
  if (reason == Reason::served && grad_output.sizes() != IntArrayRef(g.output)) {
    reason = Reason::arguments;
  }
  const auto work = [&](const Gradients&) {
    const int64_t one_pass = multiply_adds(transposed ? input : grad_output, weight);
    return one_pass * (output_mask[0] + output_mask[1]);
  };
  if (reason != Reason::served) {
    return hand_back(backward_counts, "convolution", "backward", reason, input, torchs, work);
  }
  const TorchOnly inside;
  at::AutoDispatchBelowADInplaceOrView below;
  auto result = gradients(grad_output, input, weight, g, transposed, groups, output_mask);
  backward_counts.add(reason, work(result));
  return result;
}

}  // namespace

std::vector<Override> convolution_overrides() {
  return {
      {"convolution",
       "(Tensor input, Tensor weight, Tensor? bias, SymInt[] stride, SymInt[] padding, SymInt[] "
       "dilation, bool transposed, SymInt[] output_padding, SymInt groups) -> Tensor",
       [](torch::Library& library) { library.impl("convolution", TORCH_FN(convolution)); },
       &convolution_counts},
      {"_convolution",
       "(Tensor input, Tensor weight, Tensor? bias, SymInt[] stride, SymInt[] padding, SymInt[] "
       "dilation, bool transposed, SymInt[] output_padding, SymInt groups, bool benchmark, bool "
       "deterministic, bool cudnn_enabled, bool allow_tf32) -> Tensor",
       [](torch::Library& library) {
         library.impl("_convolution", TORCH_FN(underscore_convolution));
       },
       &underscore_convolution_counts},
      {"convolution_backward",
       "(Tensor grad_output, Tensor input, Tensor weight, SymInt[]? bias_sizes, SymInt[] stride, "
       "SymInt[] padding, SymInt[] dilation, bool transposed, SymInt[] output_padding, SymInt "
       "groups, bool[3] output_mask) -> (Tensor, Tensor, Tensor)",
       [](torch::Library& library) {
         library.impl("convolution_backward", TORCH_FN(convolution_backward));
       },
       &backward_counts},
  };
}

}  // namespace cnn_ext
