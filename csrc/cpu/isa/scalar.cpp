// The kernels for any processor: no instruction beyond the platform's baseline (SSE2 or NEON).

#include "../kernels.h"

#define CNN_EXT_VECTOR_BYTES 16
#if defined(__aarch64__)
#define CNN_EXT_VECTOR_REGISTERS 32
#else
#define CNN_EXT_VECTOR_REGISTERS 16
#endif

namespace cnn_ext::cpu::scalar {
#include "all_kernels.inc"
}
