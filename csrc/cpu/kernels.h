// The table of kernels: one row per slot, filled once for every instruction set by isa/*.cpp.
// Dispatch, the tests and `doctor` all read it. Kernels know nothing of torch, start no threads and
// allocate nothing; a task range lets the caller share the work out.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <type_traits>
#include <utility>

#include "capability.h"
#include "color_pca/geometry.h"
#include "convolution/choice.h"
#include "convolution/geometry.h"
#include "local_response_norm/geometry.h"
#include "max_pool/geometry.h"

// X(slot, result, arguments), for an element type T; first those that pairs of bfloat16 have too
#define CNN_EXT_GEMM_SLOTS(X)                                                                  \
  X(plan_forward, Blocking, (const Convolution&, bool bias, int64_t threads))                  \
  X(packed_size, int64_t, (const Convolution&, const Blocking&))                               \
  X(forward_workspace, int64_t, (const Blocking&))                                             \
  X(pack_all_filters, void, (const ConvolutionForward<T>&, int64_t first, int64_t last))       \
  X(convolve, void, (const ConvolutionForward<T>&, int64_t first, int64_t last, T* workspace)) \
  X(dense, void, (const ConvolutionForward<T>&, int64_t first, int64_t last))                  \
  X(plan_weight_gradient, GradientBlocking, (const Convolution&, int64_t threads))             \
  X(weight_gradient_workspace, int64_t, (const GradientBlocking&))                             \
  X(weight_gradient, void,                                                                     \
    (const ConvolutionWeightGradient<T>&, int64_t first, int64_t last, T* workspace))

// and those that bfloat16 itself has too, where it lies in channels_last
#define CNN_EXT_DEPTHWISE_SLOTS(X)                                                       \
  X(plan_depthwise, Depthwise, (const Convolution&, bool gradient, int64_t threads))     \
  X(depthwise_workspace, int64_t, (const Convolution&, const Depthwise&))                \
  X(pack_depthwise, void,                                                                \
    (const ConvolutionForward<T>&, const Depthwise&, int64_t first, int64_t last))       \
  X(depthwise, void,                                                                     \
    (const ConvolutionForward<T>&, const Depthwise&, int64_t first, int64_t last,        \
     Sum<T>* workspace))                                                                 \
  X(depthwise_weight_gradient, void,                                                     \
    (const ConvolutionWeightGradient<T>&, const Depthwise&, int64_t first, int64_t last, \
     Sum<T>* workspace))

#define CNN_EXT_KERNEL_SLOTS(X)                                                                 \
  X(turn_map, void,                                                                             \
    (const T* from, int64_t from_row, int64_t rows, int64_t columns, T* to, int64_t to_row))    \
  X(dense_weight_gradient, void,                                                                \
    (const ConvolutionWeightGradient<T>&, int64_t first, int64_t last))                         \
  X(dense_columns, int64_t, (const Convolution&))                                               \
  X(dense_by_channels, void,                                                                    \
    (const ConvolutionForward<T>&, int64_t first, int64_t last, T* workspace))                  \
  X(vectors, int64_t, (int64_t channels))                                                       \
  X(plan_winograd, Winograd,                                                                    \
    (const Convolution&, int64_t most_tiles, int64_t threads, bool weight_gradient))            \
  X(winograd_filters, void, (const WinogradForward<T>&, int64_t first, int64_t last))           \
  X(winograd_input, void,                                                                       \
    (const Convolution&, const Winograd&, const T* input, int64_t block, int64_t first,         \
     int64_t last, T* to))                                                                      \
  X(winograd_workspace, int64_t, (const Winograd&))                                             \
  X(winograd_panels, void,                                                                      \
    (const WinogradForward<T>&, int64_t g, int64_t block, int64_t first, int64_t last,          \
     const T* tiles, T* workspace))                                                             \
  X(winograd_gradient_panel, void,                                                              \
    (const WinogradWeightGradient<T>&, int64_t g, int64_t block, int64_t panel, const T* tiles, \
     T* gradients, T* sums, bool accumulate))                                                   \
  X(winograd_weight, void,                                                                      \
    (const WinogradWeightGradient<T>&, int64_t g, int64_t panel, const T* sums, int64_t parts,  \
     int64_t part_stride))                                                                      \
  X(winograd_weight_workspace, int64_t, (const Winograd&))                                      \
  X(winograd_weight_panels, void,                                                               \
    (const WinogradWeightGradient<T>&, int64_t g, int64_t first, int64_t last, const T* tiles,  \
     T* workspace))                                                                             \
  X(split_phases, void, (const Convolution&, const T* input, int64_t c0, int64_t c1, T* to))    \
  X(join_phases, void, (const Convolution&, const T* from, int64_t c0, int64_t c1, T* input))   \
  X(plan_band, Band, (const Convolution&))                                                      \
  X(band_workspace, int64_t, (const Band&))                                                     \
  X(band_filters, int64_t, (const Convolution&, const Band&))                                   \
  X(pack_band_filters, void, (const ConvolutionForward<T>&, const Band&, int64_t g))            \
  X(convolve_bands, void,                                                                       \
    (const ConvolutionForward<T>&, const Band&, int64_t first, int64_t last, T* workspace))     \
  X(plan_band_gradient, BandGradient, (const Convolution&, int64_t threads))                    \
  X(band_gradient_workspace, int64_t, (const Convolution&, const BandGradient&))                \
  X(band_weight_gradient, void,                                                                 \
    (const ConvolutionWeightGradient<T>&, const BandGradient&, int64_t first, int64_t last,     \
     T* workspace))                                                                             \
  X(response_norm, void, (const ResponseNorm<T>&, int64_t first, int64_t last, T* workspace))   \
  X(max_pool_workspace, int64_t, (const MaxPool<T>&))                                           \
  X(max_pool, void, (const MaxPool<T>&, int64_t first, int64_t last, T* workspace))             \
  X(max_pool_gradient, void, (const MaxPoolGradient<T>&, int64_t first, int64_t last))          \
  X(add_shift, void, (const ColorShift<T, T>&, int64_t first, int64_t last, T* workspace))      \
  X(add_shift_to_bytes, void,                                                                   \
    (const ColorShift<uint8_t, ByteShift>&, int64_t first, int64_t last, uint8_t* workspace))   \
  X(sum_pixels, void, (const ColorSums<T>&, int64_t first, int64_t last, double* workspace))    \
  X(color_moments, void,                                                                        \
    (const ColorMoments<T, double>&, int64_t first, int64_t last, double* workspace))           \
  X(byte_moments, void,                                                                         \
    (const ColorMoments<uint8_t, int64_t>&, int64_t first, int64_t last, int16_t* workspace))

namespace cnn_ext::cpu {

#define CNN_EXT_SLOT(name, result, arguments) result(*name) arguments;
template <typename T>
struct Kernels {
  CNN_EXT_GEMM_SLOTS(CNN_EXT_SLOT)
  CNN_EXT_DEPTHWISE_SLOTS(CNN_EXT_SLOT)
  CNN_EXT_KERNEL_SLOTS(CNN_EXT_SLOT)
};
template <>
struct Kernels<Pair> {
  using T = Pair;
  CNN_EXT_GEMM_SLOTS(CNN_EXT_SLOT)
  void (*pair_channels)(const Pairing&, int64_t first, int64_t last);
  void (*turn_map)(const BFloat16* from, int64_t from_row, int64_t rows, int64_t columns,
                   BFloat16* to, int64_t to_row);
};
template <>
struct Kernels<BFloat16> {
  using T = BFloat16;
  CNN_EXT_DEPTHWISE_SLOTS(CNN_EXT_SLOT)
};
#undef CNN_EXT_SLOT

namespace scalar {
template <typename T>
const Kernels<T>& kernels();
}
namespace avx2 {
template <typename T>
const Kernels<T>& kernels();
}
namespace avx512 {
template <typename T>
const Kernels<T>& kernels();
}
namespace avx512_bf16 {
const Kernels<Pair>& kernels_of_pairs();
const Kernels<BFloat16>& kernels();
}  // namespace avx512_bf16

// The kernels of the capability in use; T is float or double.
template <typename T>
const Kernels<T>& kernels() {
#if defined(__x86_64__)
  if (capability() >= Capability::avx512) return avx512::kernels<T>();
  if (capability() == Capability::avx2) return avx2::kernels<T>();
#endif
  return scalar::kernels<T>();
}

// Whether the processor multiplies bfloat16; only then there are kernels of it and its pairs.
inline bool multiplies_bfloat16() { return capability() >= Capability::avx512_bf16; }

template <>
inline const Kernels<Pair>& kernels<Pair>() {
#if defined(__x86_64__)
  return avx512_bf16::kernels_of_pairs();
#else
  std::abort();
#endif
}

template <>
inline const Kernels<BFloat16>& kernels<BFloat16>() {
#if defined(__x86_64__)
  return avx512_bf16::kernels();
#else
  std::abort();
#endif
}

}  // namespace cnn_ext::cpu
