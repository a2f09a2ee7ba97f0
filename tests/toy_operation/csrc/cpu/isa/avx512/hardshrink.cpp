#if defined(__x86_64__)
// clang-format off: the order of inclusion opens and closes a namespace and a target region
#include "../../hardshrink/geometry.h"
#include "begin.h"
#include "../../hardshrink/hardshrink.h"
CNN_EXT_FILL(HardshrinkKernels, CNN_EXT_HARDSHRINK_SLOTS, float)
CNN_EXT_FILL(HardshrinkKernels, CNN_EXT_HARDSHRINK_SLOTS, double)
#include "../end.h"
#endif
