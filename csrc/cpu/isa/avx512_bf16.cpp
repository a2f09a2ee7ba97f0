// The kernels of bfloat16 for x86-64 processors that multiply it (AVX512-BF16).

#if defined(__x86_64__)
#include <immintrin.h>

#include "../kernels.h"

#define CNN_EXT_VECTOR_BYTES 64
#define CNN_EXT_VECTOR_REGISTERS 32
#define CNN_EXT_BFLOAT16 1

#if defined(__clang__)
#pragma clang attribute push(                                                          \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")
#endif
namespace cnn_ext::cpu::avx512_bf16 {
#include "../vec.h"
#include "../lanes.h"
#include "../gemm.h"
#include "../convolution/pack.h"
#include "../convolution/pairs.h"
#include "../convolution/implicit_gemm.h"
#include "../convolution/dense.h"
#include "../convolution/narrow_groups.h"
#include "../convolution/depthwise.h"

#define CNN_EXT_SLOT(name, result, arguments) &name<T>,
const Kernels<Pair>& kernels_of_pairs() {
  using T = Pair;
  static constexpr Kernels<Pair> table = {CNN_EXT_GEMM_SLOTS(CNN_EXT_SLOT) & pair_channels,
                                          &turn_map<BFloat16>};
  return table;
}
const Kernels<BFloat16>& kernels() {
  using T = BFloat16;
  static constexpr Kernels<BFloat16> table = {CNN_EXT_DEPTHWISE_SLOTS(CNN_EXT_SLOT)};
  return table;
}
#undef CNN_EXT_SLOT
}  // namespace cnn_ext::cpu::avx512_bf16
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
