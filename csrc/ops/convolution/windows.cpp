// Input gradients of windows that lie side by side, as products.

#include "ops/torch.h"

#include "../../cpu/convolution/windows.h"

#include "../../cpu/convolution/simplify.h"
#include "../trace.h"
#include "drivers.h"

namespace cnn_ext {

template <typename T>
void input_gradient_by_window_rows(const cpu::Convolution& c, const T* grad_output, const T* weight,
                                   T* grad_input, const Tensor& result) {
  const auto& s = c.weight;
  const Tensor filters =
      at::from_blob(const_cast<T*>(weight), {c.filter[0], c.filter[1], c.filter[2], c.C, c.K},
                    {s.spatial[0], s.spatial[1], s.spatial[2], s.c, s.k}, result.options())
          .contiguous();
  cpu::Convolution g = c;
  g.C = c.K;
  g.K = c.filter[2] * c.C;
  g.input = c.output;
  g.output = c.input;
  g.weight.k = c.K;
  g.weight.c = 1;
  bool covered = true;
  for (int axis = 0; axis < kSpatial; ++axis) {
    covered = covered && c.in[axis] == c.out[axis] * c.stride[axis];
    g.in[axis] = c.out[axis];
    g.filter[axis] = g.stride[axis] = g.dilation[axis] = 1;
    g.output.spatial[axis] *= c.stride[axis];
  }
  if (!covered) result.zero_();
  const T* row_filters = filters.const_data_ptr<T>();
  for (int64_t t = 0; t < c.filter[0]; ++t) {
    for (int64_t r = 0; r < c.filter[1]; ++r, row_filters += g.K * g.C) {
      T* const row = grad_input + t * c.input.spatial[0] + r * c.input.spatial[1];
      product<T>(simplify(g, false), grad_output, row_filters, nullptr, row, result);
    }
  }
}

// A product with as many filters as a window has cells, some images at a time; then each window is
// put in its place.
template <typename T>
void input_gradient_by_whole_windows(const cpu::Convolution& c, const T* grad_output,
                                     const T* weight, const Tensor& result) {
  cpu::Convolution g = c;  // of windows, with the filters' cells as output channels
  g.C = c.K;
  g.K = c.C * c.filter[0] * c.filter[1] * c.filter[2];
  g.input = c.output;
  g.weight.k = 1;
  g.weight.c = c.weight.k;
  const int64_t pixels = c.out[0] * c.out[1] * c.out[2];
  g.output.c = pixels;
  g.output.n = g.K * pixels;
  g.output.spatial[0] = c.out[1] * c.out[2];
  g.output.spatial[1] = c.out[2];
  g.output.spatial[2] = 1;
  bool covered = true;
  at::DimVector size{0, c.C}, from{g.output.n, c.weight.c * pixels}, to{c.input.n, c.input.c};
  for (int axis = 0; axis < kSpatial; ++axis) {
    covered = covered && c.in[axis] == c.out[axis] * c.stride[axis];
    g.in[axis] = c.out[axis];
    g.filter[axis] = g.stride[axis] = g.dilation[axis] = 1;
    size.append({c.filter[axis], c.out[axis]});
    from.append({c.weight.spatial[axis] * pixels, g.output.spatial[axis]});
    to.append({c.input.spatial[axis], c.stride[axis] * c.input.spatial[axis]});
  }
  if (!covered) result.zero_();
  const int64_t images = std::clamp<int64_t>(cpu::kWindowMemory / g.output.n, 1, c.N);
  const Tensor windows = fresh_workspace({images * g.output.n}, result.options());
  for (int64_t n = 0; n < c.N; n += images) {
    size[0] = g.N = std::min(images, c.N - n);
    product<T>(simplify(g, false), grad_output + n * c.output.n, weight, nullptr,
               windows.mutable_data_ptr<T>(), result);
    result.as_strided(size, to, n * c.input.n + result.storage_offset())
        .copy_(windows.as_strided(size, from));
  }
}

#define CNN_EXT_INSTANTIATE(T)                                                                    \
  template void input_gradient_by_window_rows<T>(const cpu::Convolution&, const T*, const T*, T*, \
                                                 const Tensor&);                                  \
  template void input_gradient_by_whole_windows<T>(const cpu::Convolution&, const T*, const T*,   \
                                                   const Tensor&);
CNN_EXT_INSTANTIATE(float)
CNN_EXT_INSTANTIATE(double)
#undef CNN_EXT_INSTANTIATE

}  // namespace cnn_ext
