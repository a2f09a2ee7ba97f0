#if defined(__x86_64__)
// clang-format off: the order of inclusion opens and closes a namespace and a target region
#include "../../convolution/implicit_gemm/geometry.h"
#include "begin.h"
#include "../../convolution/implicit_gemm/implicit_gemm.h"
CNN_EXT_FILL(ImplicitGemmKernels, CNN_EXT_IMPLICIT_GEMM_SLOTS, float)
CNN_EXT_FILL(ImplicitGemmKernels, CNN_EXT_IMPLICIT_GEMM_SLOTS, double)
#include "../end.h"
#endif
