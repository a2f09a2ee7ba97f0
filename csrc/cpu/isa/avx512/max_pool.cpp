#if defined(__x86_64__)
// clang-format off: the order of inclusion opens and closes a namespace and a target region
#include "../../max_pool/geometry.h"
#include "begin.h"
#include "../../max_pool/gradient.h"
#include "../../max_pool/max_pool.h"
CNN_EXT_FILL(MaxPoolKernels, CNN_EXT_MAX_POOL_SLOTS, float)
CNN_EXT_FILL(MaxPoolKernels, CNN_EXT_MAX_POOL_SLOTS, double)
#include "../end.h"
#endif
