// The kernels for x86-64 processors with AVX-512 (F, BW, DQ, VL).

#if defined(__x86_64__)
#include <immintrin.h>

#include "../kernels.h"

#define CNN_EXT_VECTOR_BYTES 64
#define CNN_EXT_VECTOR_REGISTERS 32

#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#endif
namespace cnn_ext::cpu::avx512 {
#include "all_kernels.inc"
}
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
