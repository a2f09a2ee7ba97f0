// Kernels for x86-64 processors with AVX2 and FMA.
// Begins the region that every file of this folder compiles its kernels in; ../end.h ends it.
// Standard headers and geometry.h come before it: the linker might keep the copy of an inline
// function that was compiled here, and then older processors would crash.

#include <immintrin.h>

#define CNN_EXT_VECTOR_BYTES 32
#define CNN_EXT_VECTOR_REGISTERS 16

#define CNN_EXT_TARGET
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

namespace cnn_ext::cpu::avx2 {
