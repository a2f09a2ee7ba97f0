// clang-format off: the order of inclusion opens and closes a namespace and a target region
#include "../../convolution/band/geometry.h"
#include "begin.h"
#include "../../convolution/band/band.h"
#include "../../convolution/band/weight_gradient.h"
CNN_EXT_FILL(BandKernels, CNN_EXT_BAND_SLOTS, float)
CNN_EXT_FILL(BandKernels, CNN_EXT_BAND_SLOTS, double)
#include "../end.h"
