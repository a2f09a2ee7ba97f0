// Direct convolution from a row buffer (a band), where no patch is packed.

#include "ops/torch.h"

#include "../../cpu/convolution/band/geometry.h"

#include "../../cpu/convolution/regions.h"
#include "drivers.h"
#include "tasks.h"

namespace cnn_ext {
namespace {

void check_direct(const cpu::Convolution& shape) {
  TORCH_CHECK(cpu::direct_serves(shape), "convolution: algorithm: \"direct\" copies whole rows of ",
              "the input to a band in the cache, and those of one channel would take ",
              cpu::least_band(shape), " elements here, where at most ", cpu::kMostBand,
              " are allowed; use \"auto\"");
}

template <typename T>
void one_band(const cpu::Convolution& shape, const T* input, const T* weight, const T* bias,
              T* output, const Tensor& like) {
  check_direct(shape);
  const auto& kernels = cpu::kernels<cpu::BandKernels<T>>();
  const int64_t threads = threads_for(shape);
  const cpu::Band band = kernels.plan_band(shape);
  const Tensor packed = fresh_workspace({kernels.band_filters(shape, band)}, like.options());
  const cpu::ConvolutionForward<T> p{shape, input, weight, bias, packed.mutable_data_ptr<T>(),
                                     output};
  for (int64_t g = 0; g < shape.G; ++g) kernels.pack_band_filters(p, band, g);
  run_tasks<T>(band.tasks(shape), threads, kernels.band_workspace(band), like,
               [&](int64_t first, int64_t last, T* workspace) {
                 kernels.convolve_bands(p, band, first, last, workspace);
               });
}

}  // namespace

template <typename T>
void band(const cpu::Convolution& shape, bool regions, const T* input, const T* weight,
          const T* bias, T* output, const Tensor& like) {
  if (!regions) return one_band<T>(shape, input, weight, bias, output, like);
  each_region(shape, cpu::kBandRegions.axes, [&](const auto& part, auto x, auto w, auto y) {
    one_band<T>(part, input + x, weight + w, bias, output + y, like);
  });
}

template <typename T>
void band_weight_gradient(const cpu::Convolution& shape, const T* grad_output, const T* input,
                          const Tensor& result) {
  check_direct(shape);
  const auto& kernels = cpu::kernels<cpu::BandKernels<T>>();
  const int64_t threads = threads_for(shape);
  cpu::BandGradient cut = kernels.plan_band_gradient(shape);
  kernels.schedule_band_gradient(shape, cut, threads);
  const Parts parts(result, cut.splits);
  const cpu::ConvolutionWeightGradient<T> p{shape, input, grad_output, parts.data<T>(),
                                            result.numel()};
  run_tasks<T>(cut.tasks(shape.G), threads, kernels.band_gradient_workspace(shape, cut), result,
               [&](int64_t first, int64_t last, T* workspace) {
                 kernels.band_weight_gradient(p, cut, first, last, workspace);
               });
  parts.add<T>();
}

#define CNN_EXT_INSTANTIATE(T)                                                           \
  template void band<T>(const cpu::Convolution&, bool, const T*, const T*, const T*, T*, \
                        const Tensor&);                                                  \
  template void band_weight_gradient<T>(const cpu::Convolution&, const T*, const T*, const Tensor&);
CNN_EXT_INSTANTIATE(float)
CNN_EXT_INSTANTIATE(double)
#undef CNN_EXT_INSTANTIATE

}  // namespace cnn_ext
