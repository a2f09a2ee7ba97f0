#if defined(__x86_64__)
// clang-format off: the order of inclusion opens and closes a namespace and a target region
#include "../../color_pca/geometry.h"
#include "begin.h"
#include "../../color_pca/moments.h"
#include "../../color_pca/shift.h"
CNN_EXT_FILL(ColorPCAKernels, CNN_EXT_COLOR_PCA_SLOTS, float)
CNN_EXT_FILL(ColorPCAKernels, CNN_EXT_COLOR_PCA_SLOTS, double)
#include "../end.h"
#endif
