// What every implementation of colour PCA shares, whatever its device: the arguments, checked, and
// the two layouts of images that kernels know.
#pragma once

#include <ATen/ATen.h>

#include "../../cpu/color_pca/geometry.h"

#pragma GCC visibility push(default)  // tests/cuda/emulation is linked with these

namespace cnn_ext {

using at::Tensor;

// Each operation's checks end in its still empty result: all that a meta or fake tensor needs. They
// raise errors that name the argument.
Tensor check_color_pca(const Tensor& input, const Tensor& eigenvectors, const Tensor& eigenvalues,
                       const Tensor& alphas);
Tensor check_shift_gradient(const Tensor& grad_output);
std::tuple<Tensor, Tensor> check_color_moments(const Tensor& input);  // (C,) and (C, C)

// Whether the channels of a pixel lie together in a dense image, (..., H, W, C) in memory. Where it
// is read as planes just as well, planes are meant, unless they are single pixels.
bool is_pixels(const Tensor& image);

// The same values as `image`, in one of the two layouts that the kernels know.
Tensor laid_out(const Tensor& image, bool pixels);

cpu::ColorRows rows_of(const Tensor& image, bool pixels);

}  // namespace cnn_ext

#pragma GCC visibility pop
