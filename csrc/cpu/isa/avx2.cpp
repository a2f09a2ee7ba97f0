// The kernels for x86-64 processors with AVX2 and FMA.

#if defined(__x86_64__)
#include <immintrin.h>

#include "../kernels.h"

#define CNN_EXT_VECTOR_BYTES 32
#define CNN_EXT_VECTOR_REGISTERS 16

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
namespace cnn_ext::cpu::avx2 {
#include "all_kernels.inc"
}
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
