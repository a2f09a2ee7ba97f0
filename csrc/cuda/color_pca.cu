// Colour PCA on CUDA: the drivers. The arithmetic is in csrc/cuda/color_pca/; schemas, checks and
// derivatives are in csrc/ops/color_pca.cpp. Nothing here waits for the device.

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <torch/library.h>

#include <algorithm>

#include "../ops/color_pca/color_pca.h"
#include "color_pca/moments.cuh"
#include "color_pca/shift.cuh"

namespace cnn_ext {
namespace {

using cuda::kThreads;

Tensor exact(const Tensor& tensor) { return tensor.to(at::kDouble).contiguous(); }

// eigenvectors @ (alphas * eigenvalues), and for bytes what becomes of them.
struct Shifts {
  Tensor values, rules;

  Shifts(const Tensor& eigenvectors, const Tensor& eigenvalues, const Tensor& alphas, bool bytes) {
    const Tensor P = exact(eigenvectors), scale = exact(eigenvalues), a = exact(alphas);
    values = at::empty(a.sizes(), a.options());
    if (bytes) {
      rules = at::empty({a.numel(), int64_t{sizeof(cuda::ByteRule)}}, a.options().dtype(at::kByte));
    }
    const cuda::ShiftParameters p{P.const_data_ptr<double>(),
                                  scale.const_data_ptr<double>(),
                                  a.const_data_ptr<double>(),
                                  scale.numel(),
                                  a.numel(),
                                  values.mutable_data_ptr<double>(),
                                  rule_pointer()};
    cuda::launch(cuda::color_shifts, cuda::blocks_for(p.count, kThreads), kThreads, p);
  }
  cuda::ByteRule* rule_pointer() const {
    return rules.defined() ? reinterpret_cast<cuda::ByteRule*>(rules.mutable_data_ptr<uint8_t>())
                           : nullptr;
  }
};

template <typename T>
void add_shifts(const Tensor& input, Tensor& output, const Shifts& shifts) {
  const bool pixels = is_pixels(output);
  const Tensor x = laid_out(input, pixels);
  const Tensor y = pixels || output.is_contiguous() ? output : at::empty(x.sizes(), x.options());
  cuda::ColorShift<T> p{};
  p.input = x.const_data_ptr<T>();
  p.output = y.mutable_data_ptr<T>();
  p.shifts = shifts.values.const_data_ptr<double>();
  p.rules = shifts.rule_pointer();
  p.layout = rows_of(y, pixels);
  p.shift_rows = shifts.values.numel() / p.layout.cycle;
  constexpr int kWide = 16 / sizeof(T);
  const bool wide = p.layout.length % kWide == 0 && cuda::is_aligned(p.input, kWide) &&
                    cuda::is_aligned(p.output, kWide);
  p.packs = wide ? p.layout.length / kWide : p.layout.length;
  cuda::launch(wide ? cuda::add_shift<T, kWide> : cuda::add_shift<T, 1>,
               cuda::blocks_for(p.layout.rows * p.packs, kThreads), kThreads, p);
  if (!y.is_same(output)) output.copy_(y);
}

Tensor color_pca_cuda(const Tensor& input, const Tensor& eigenvectors, const Tensor& eigenvalues,
                      const Tensor& alphas) {
  Tensor output = check_color_pca(input, eigenvectors, eigenvalues, alphas);
  const cuda::CUDAGuard guard(output.device());
  if (input.numel() == 0) return output;
  const bool bytes = input.scalar_type() == at::kByte;
  const Shifts shifts(eigenvectors, eigenvalues, alphas, bytes);
  if (bytes) {
    add_shifts<uint8_t>(input, output, shifts);
    return output;
  }
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, input.scalar_type(), "color_pca",
                                  [&] { add_shifts<scalar_t>(input, output, shifts); });
  return output;
}

Tensor color_pca_shift_gradient_cuda(const Tensor& grad_output) {
  const cuda::CUDAGuard guard(grad_output.device());
  Tensor result = check_shift_gradient(grad_output);
  if (grad_output.numel() == 0) return result.zero_();
  const bool pixels = is_pixels(grad_output);
  const Tensor g = laid_out(grad_output, pixels);
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, g.scalar_type(), "color_pca_shift_gradient", [&] {
        using Result = typename cuda::Accumulator<scalar_t>::type;
        cuda::ColorSums<scalar_t> p{};
        p.input = g.const_data_ptr<scalar_t>();
        p.C = g.size(-3);
        p.pixels = g.size(-1) * g.size(-2);
        p.image_stride = p.C * p.pixels;
        p.channel_stride = pixels ? 1 : p.pixels;
        p.pixel_stride = pixels ? p.C : 1;
        p.rows = result.numel();
        p.chunks = cuda::blocks_for(p.pixels, cuda::kSumPixels);
        const Tensor parts = at::empty({p.rows, p.chunks}, result.options().dtype(at::kDouble));
        p.parts = parts.mutable_data_ptr<double>();
        constexpr int kWide = 16 / sizeof(scalar_t);
        const bool wide = !pixels && p.pixels % kWide == 0 && cuda::is_aligned(p.input, kWide);
        cuda::launch(wide ? cuda::sum_pixels<scalar_t, kWide> : cuda::sum_pixels<scalar_t, 1>,
                     p.rows * p.chunks, kThreads, p);
        cuda::launch(cuda::join_sums<Result>, cuda::blocks_for(p.rows, kThreads), kThreads, p.parts,
                     p.rows, p.chunks, result.mutable_data_ptr<Result>());
      });
  return result;
}

// Fills a row of what is returned for every chunk of pixels.
template <typename T, typename Sum>
Tensor moments_of_chunks(const Tensor& x, bool pixels) {
  cpu::ColorMoments<T, Sum> p{};
  p.C = x.size(-3);
  p.pixels = x.size(-1) * x.size(-2);
  p.image_stride = p.C * p.pixels;
  p.channel_stride = pixels ? 1 : p.pixels;
  p.pixel_stride = pixels ? p.C : 1;
  p.chunk = std::min(p.pixels, cuda::kMomentPixels);
  p.chunks = cuda::blocks_for(p.pixels, p.chunk);
  const int64_t tasks = x.numel() / p.image_stride * p.chunks;
  const Tensor found =
      at::empty({tasks, p.C + p.C * p.C}, x.options().dtype(c10::CppTypeToScalarType<Sum>::value));
  p.input = x.const_data_ptr<T>();
  p.found = found.mutable_data_ptr<Sum>();
  cuda::launch(cuda::color_moments<T, Sum>, tasks, kThreads, p);
  return found;
}

std::tuple<Tensor, Tensor> color_moments_cuda(const Tensor& input) {
  const cuda::CUDAGuard guard(input.device());
  auto [first, second] = check_color_moments(input);
  if (input.numel() == 0) return {first.zero_(), second.zero_()};
  const bool pixels = is_pixels(input);
  const Tensor x = laid_out(input, pixels);
  const int64_t C = x.size(-3);
  if (x.scalar_type() == at::kByte) {
    const Tensor total = moments_of_chunks<uint8_t, int64_t>(x, pixels).sum(0);
    first.copy_(total.slice(0, 0, C));
    second.copy_(total.slice(0, C).view({C, C}));
    return {first, second};
  }
  const Tensor mean = first, products = second;  // a lambda may not capture bindings
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "color_moments", [&] {
    const Tensor found = moments_of_chunks<scalar_t, double>(x, pixels);
    const int64_t image = x.size(-1) * x.size(-2);
    cuda::launch(cuda::join_moments, cuda::blocks_for(C * C, kThreads), kThreads,
                 found.const_data_ptr<double>(), found.size(0), C, image,
                 std::min(image, cuda::kMomentPixels), mean.mutable_data_ptr<double>(),
                 products.mutable_data_ptr<double>());
  });
  return {first, second};
}

}  // namespace

TORCH_LIBRARY_IMPL(cnn_ext, CUDA, m) {
  m.impl("color_pca", color_pca_cuda);
  m.impl("color_pca_shift_gradient", color_pca_shift_gradient_cuda);
  m.impl("color_moments", color_moments_cuda);
}

}  // namespace cnn_ext
