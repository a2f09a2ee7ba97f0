#if defined(__x86_64__)
// clang-format off: the order of inclusion opens and closes a namespace and a target region
#include "../../convolution/depthwise/geometry.h"
#include "begin.h"
#include "../../convolution/depthwise/depthwise.h"
#include "../../convolution/depthwise/weight_gradient.h"
CNN_EXT_FILL(DepthwiseKernels, CNN_EXT_DEPTHWISE_SLOTS, float)
CNN_EXT_FILL(DepthwiseKernels, CNN_EXT_DEPTHWISE_SLOTS, double)
#include "../end.h"
#endif
