#if defined(__x86_64__)
// clang-format off: the order of inclusion opens and closes a namespace and a target region
#include "../../convolution/dense/geometry.h"
#include "begin.h"
#include "../../convolution/dense/dense.h"
CNN_EXT_FILL(PairDenseKernels, CNN_EXT_PAIR_DENSE_SLOTS, Pair)
#include "../end.h"
#endif
