// The registry of kernel families. Whoever lists kernels reads it: the tests and `doctor`.
#pragma once

#include "color_pca/geometry.h"
#include "convolution/band/geometry.h"
#include "convolution/dense/geometry.h"
#include "convolution/depthwise/geometry.h"
#include "convolution/implicit_gemm/geometry.h"
#include "convolution/transpose/geometry.h"
#include "convolution/winograd/geometry.h"
#include "local_response_norm/geometry.h"
#include "max_pool/geometry.h"

// X(family)
#define CNN_EXT_FAMILIES(X) \
  X(ImplicitGemmKernels)    \
  X(DenseKernels)           \
  X(WinogradKernels)        \
  X(BandKernels)            \
  X(DepthwiseKernels)       \
  X(TransposeKernels)       \
  X(ResponseNormKernels)    \
  X(MaxPoolKernels)         \
  X(ColorPCAKernels)
