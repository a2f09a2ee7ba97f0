#if defined(__x86_64__)
// clang-format off: the order of inclusion opens and closes a namespace and a target region
#include "../../convolution/dense/geometry.h"
#include "begin.h"
#include "../../convolution/dense/dense.h"
CNN_EXT_FILL(DenseKernels, CNN_EXT_DENSE_SLOTS, float)
CNN_EXT_FILL(DenseKernels, CNN_EXT_DENSE_SLOTS, double)
#include "../end.h"
#endif
