// Convolution by the patch matrix written out, one column for each output cell, and one
// multiplication by ATen: what the textbooks show. Any dtype, any device.

#include "ops/torch.h"

#include "convolution.h"

namespace cnn_ext {
namespace {

// Sizes and strides of every patch of `padded`: (N, C, filter..., output...).
Tensor patch_view(const Tensor& padded, at::IntArrayRef filter, at::IntArrayRef output,
                  const Parameters& p) {
  at::DimVector size = {padded.size(0), padded.size(1)};
  at::DimVector stride = {padded.stride(0), padded.stride(1)};
  for (size_t axis = 0; axis < filter.size(); ++axis) {
    size.push_back(filter[axis]);
    stride.push_back(padded.stride(axis + 2) * p.dilation[axis].expect_int());
  }
  for (size_t axis = 0; axis < output.size(); ++axis) {
    size.push_back(output[axis]);
    stride.push_back(padded.stride(axis + 2) * p.stride[axis].expect_int());
  }
  return padded.as_strided(size, stride, padded.storage_offset());
}

// The patch matrix of every image and group: (N, G, C / G * taps, P).
Tensor im2col(const Tensor& input, at::IntArrayRef filter, at::IntArrayRef output,
              const Parameters& p) {
  at::DimVector padding;
  for (int64_t axis = static_cast<int64_t>(filter.size()) - 1; axis >= 0; --axis) {
    padding.push_back(p.padding_before[axis].expect_int());
    padding.push_back(p.padding_after[axis].expect_int());
  }
  const int64_t groups = p.groups.expect_int();
  const int64_t rows = input.size(1) / groups * c10::multiply_integers(filter);
  return patch_view(at::constant_pad_nd(input, padding), filter, output, p)
      .reshape({input.size(0), groups, rows, c10::multiply_integers(output)});
}

// The adjoint: every entry of the patch matrix added to the input cell it was read from.
void col2im(const Tensor& columns, const Tensor& result, at::IntArrayRef filter,
            at::IntArrayRef output, const Parameters& p) {
  at::DimVector padded_size(result.sizes().slice(0, 2));
  for (size_t axis = 0; axis < filter.size(); ++axis) {
    padded_size.push_back(result.size(axis + 2) + p.padding_before[axis].expect_int() +
                          p.padding_after[axis].expect_int());
  }
  Tensor padded = at::zeros(padded_size, result.options());
  Tensor to = patch_view(padded, filter, output, p);
  Tensor from = columns.reshape(to.sizes());
  // Within one tap no two entries meet in a cell, so that each tap is one ordinary addition.
  for (int64_t tap = 0; tap < c10::multiply_integers(filter); ++tap) {
    Tensor to_tap = to, from_tap = from;
    int64_t rest = tap;
    for (int64_t axis = static_cast<int64_t>(filter.size()) - 1; axis >= 0; --axis) {
      to_tap = to_tap.select(axis + 2, rest % filter[axis]);
      from_tap = from_tap.select(axis + 2, rest % filter[axis]);
      rest /= filter[axis];
    }
    to_tap.add_(from_tap);
  }
  for (size_t axis = 0; axis < filter.size(); ++axis) {
    padded = padded.narrow(axis + 2, p.padding_before[axis].expect_int(), result.size(axis + 2));
  }
  result.copy_(padded);
}

Tensor by_group(const Tensor& features, int64_t groups) {  // (N, C, ...) -> (N, G, C / G, P)
  return features.reshape({features.size(0), groups, features.size(1) / groups,
                           c10::multiply_integers(features.sizes().slice(2))});
}

Tensor filter_matrices(const Tensor& weight, int64_t groups) {  // (G, K / G, C / G * taps)
  return weight.reshape({groups, weight.size(0) / groups, weight.numel() / weight.size(0)});
}

}  // namespace

Tensor& add_bias(Tensor& output, const std::optional<Tensor>& bias) {
  if (!bias.has_value()) return output;
  at::DimVector shape(output.dim(), 1);
  shape[1] = -1;
  return output += bias->view(shape);
}

// A gradient may be computed while autocast is on, which would multiply in bfloat16.
struct NoAutocast {
  c10::impl::ExcludeDispatchKeyGuard guard{c10::autocast_dispatch_keyset};
};

void im2col_convolution(const Tensor& input, const Tensor& weight,
                        const std::optional<Tensor>& bias, const Parameters& p,
                        const Tensor& output) {
  const NoAutocast exact;
  const Tensor patches = im2col(input, weight.sizes().slice(2), output.sizes().slice(2), p);
  const Tensor filters = filter_matrices(weight, p.groups.expect_int());
  Tensor result = at::matmul(filters, patches).reshape(output.sizes());
  output.copy_(add_bias(result, bias));
}

void im2col_input_gradient(const Tensor& grad_output, const Tensor& weight, const Parameters& p,
                           const Tensor& grad_input) {
  const NoAutocast exact;
  const int64_t G = p.groups.expect_int();
  const Tensor filters = filter_matrices(weight, G);
  col2im(at::matmul(filters.transpose(1, 2), by_group(grad_output, G)), grad_input,
         weight.sizes().slice(2), grad_output.sizes().slice(2), p);
}

void im2col_weight_gradient(const Tensor& grad_output, const Tensor& input, const Parameters& p,
                            const Tensor& grad_weight) {
  const NoAutocast exact;
  const auto filter = grad_weight.sizes().slice(2), out = grad_output.sizes().slice(2);
  const Tensor patches = im2col(input, filter, out, p);
  const Tensor products =
      at::matmul(by_group(grad_output, p.groups.expect_int()), patches.transpose(2, 3));
  grad_weight.copy_(products.sum(0).reshape(grad_weight.sizes()));
}

}  // namespace cnn_ext
