#if defined(__x86_64__)
// clang-format off: the order of inclusion opens and closes a namespace and a target region
#include "../../local_response_norm/geometry.h"
#include "begin.h"
#include "../../local_response_norm/response_norm.h"
CNN_EXT_FILL(ResponseNormKernels, CNN_EXT_RESPONSE_NORM_SLOTS, float)
CNN_EXT_FILL(ResponseNormKernels, CNN_EXT_RESPONSE_NORM_SLOTS, double)
#include "../end.h"
#endif
