// clang-format off: the order of inclusion opens and closes a namespace and a target region
#include "../../convolution/winograd/geometry.h"
#include "begin.h"
#include "../../convolution/winograd/winograd.h"
CNN_EXT_FILL(WinogradKernels, CNN_EXT_WINOGRAD_SLOTS, float)
CNN_EXT_FILL(WinogradKernels, CNN_EXT_WINOGRAD_SLOTS, double)
#include "../end.h"
