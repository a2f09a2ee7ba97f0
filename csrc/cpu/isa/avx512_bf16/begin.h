// Kernels of bfloat16 for x86-64 processors that multiply it (AVX512-BF16).
// Begins the region that every file of this folder compiles its kernels in; ../end.h ends it.
// Standard headers and geometry.h come before it: the linker might keep the copy of an inline
// function that was compiled here, and then older processors would crash.

#include <immintrin.h>

#define CNN_EXT_VECTOR_BYTES 64
#define CNN_EXT_VECTOR_REGISTERS 32
#define CNN_EXT_BFLOAT16 1

#define CNN_EXT_TARGET
#if defined(__clang__)
#pragma clang attribute push(                                                          \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")
#endif

namespace cnn_ext::cpu::avx512_bf16 {
