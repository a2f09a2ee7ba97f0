// Kernels for any processor: no instruction beyond the platform's baseline (SSE2 or NEON).
// Begins the region that every file of this folder compiles its kernels in; ../end.h ends it.
// Standard headers and geometry.h come before it: the linker might keep the copy of an inline
// function that was compiled here, and then older processors would crash.

#define CNN_EXT_VECTOR_BYTES 16
#if defined(__aarch64__)
#define CNN_EXT_VECTOR_REGISTERS 32
#else
#define CNN_EXT_VECTOR_REGISTERS 16
#endif

namespace cnn_ext::cpu::scalar {
