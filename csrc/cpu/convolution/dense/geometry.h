// The table of kernels of few pixels, such as a dense layer's.
#pragma once

#include "../../family.h"
#include "../problem.h"

namespace cnn_ext::cpu {

constexpr int64_t kFewPixels = 256;  // that a dense product has, at most

// X(slot, result, arguments), for an element type T; of pairs of bfloat16 there is the first alone.
#define CNN_EXT_DENSE_SLOTS(X)                                                \
  X(dense, void, (const ConvolutionForward<T>&, int64_t first, int64_t last)) \
  X(dense_weight_gradient, void,                                              \
    (const ConvolutionWeightGradient<T>&, int64_t first, int64_t last))       \
  X(dense_columns, int64_t, (const Convolution&))                             \
  X(dense_by_channels, void,                                                  \
    (const ConvolutionForward<T>&, int64_t first, int64_t last, T* workspace))

#define CNN_EXT_PAIR_DENSE_SLOTS(X) \
  X(dense, void, (const ConvolutionForward<T>&, int64_t first, int64_t last))

CNN_EXT_FAMILY(DenseKernels, CNN_EXT_DENSE_SLOTS);
CNN_EXT_FAMILY(PairDenseKernels, CNN_EXT_PAIR_DENSE_SLOTS);

}  // namespace cnn_ext::cpu
