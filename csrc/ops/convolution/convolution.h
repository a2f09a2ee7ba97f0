// What every implementation of convolution shares, whatever its device: the arguments, checked; the
// still empty results; the algorithms by name; and explicit im2col, which is composed of ATen's
// operations and so runs anywhere.
#pragma once

#include <ATen/ATen.h>

#include "../../cpu/convolution/route.h"

#pragma GCC visibility push(default)  // tests/cuda/emulation is linked with these

namespace cnn_ext {

using at::Tensor;
using c10::SymDimVector;
using c10::SymInt;
using c10::SymIntArrayRef;
using cpu::Algorithm;

// ---------------------------------------------------------------------------------------------
// Arguments. Sizes are symbolic integers, so that the same checks and the same shape arithmetic
// serve kernels on real tensors and fake tensors under torch.compile and torch.export.
// ---------------------------------------------------------------------------------------------

struct Parameters {
  SymDimVector stride, dilation, padding_before, padding_after;  // one entry per axis
  SymInt groups;
};

// Raises an error that names `op` and the argument.
Parameters make_parameters(const char* op, int64_t axes, SymIntArrayRef stride,
                           SymIntArrayRef padding, SymIntArrayRef dilation, SymInt groups);

// Each operation's checks end in its still empty result: all that a meta or fake tensor needs.

Tensor empty_output(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                    SymIntArrayRef stride, SymIntArrayRef padding, SymIntArrayRef dilation,
                    SymInt groups);
Tensor empty_input_gradient(const Tensor& grad_output, const Tensor& weight,
                            SymIntArrayRef input_size, SymIntArrayRef stride,
                            SymIntArrayRef padding, SymIntArrayRef dilation, SymInt groups);
Tensor empty_weight_gradient(const Tensor& grad_output, const Tensor& input,
                             SymIntArrayRef weight_size, SymIntArrayRef stride,
                             SymIntArrayRef padding, SymIntArrayRef dilation, SymInt groups);

// What the operations with a ReLU, and those of frozen layers, ask for beyond that.
void check_relu(const char* op, const Tensor& input, bool relu);
void check_frozen_filters(const Tensor& weight, const std::optional<Tensor>& filters,
                          const SymInt& groups);
void check_winograd_filters(const Tensor& weight, int64_t groups);

// The algorithm asked for, or none for "auto"; one that cannot serve the shape is refused here, for
// real and fake tensors alike.
std::optional<Algorithm> named_algorithm(const char* op, c10::string_view name,
                                         SymIntArrayRef weight, const Parameters& p);

// ---------------------------------------------------------------------------------------------
// im2col: the patch matrix written out, and one multiplication by ATen. Any dtype, any device.
// ---------------------------------------------------------------------------------------------

// Each fills the result that it is given.
void im2col_convolution(const Tensor& input, const Tensor& weight,
                        const std::optional<Tensor>& bias, const Parameters& p,
                        const Tensor& output);
void im2col_input_gradient(const Tensor& grad_output, const Tensor& weight, const Parameters& p,
                           const Tensor& grad_input);
void im2col_weight_gradient(const Tensor& grad_output, const Tensor& input, const Parameters& p,
                            const Tensor& grad_weight);

Tensor& add_bias(Tensor& output, const std::optional<Tensor>& bias);

// f of complex a and b, linear in both, is four real ones, which kernels read where they lie.
template <typename Bilinear>
Tensor by_real_parts(const Tensor& a, const Tensor& b, const Bilinear& f) {
  const Tensor x = at::view_as_real(a.resolve_conj()), y = at::view_as_real(b.resolve_conj());
  const Tensor xr = x.select(-1, 0), xi = x.select(-1, 1);
  const Tensor yr = y.select(-1, 0), yi = y.select(-1, 1);
  return at::complex(f(xr, yr).sub_(f(xi, yi)), f(xr, yi).add_(f(xi, yr)));
}

}  // namespace cnn_ext

#pragma GCC visibility pop
