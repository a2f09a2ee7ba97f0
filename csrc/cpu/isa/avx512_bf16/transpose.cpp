#if defined(__x86_64__)
// clang-format off: the order of inclusion opens and closes a namespace and a target region
#include "../../convolution/transpose/geometry.h"
#include "begin.h"
#include "../../convolution/transpose/transpose.h"
CNN_EXT_FILL(TransposeKernels, CNN_EXT_TRANSPOSE_SLOTS, BFloat16)
#include "../end.h"
#endif
