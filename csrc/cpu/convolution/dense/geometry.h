// The table of kernels of few pixels, such as a dense layer's.
#pragma once

#include "../../family.h"
#include "../problem.h"

namespace cnn_ext::cpu {

// Few pixels, all of them cells of the input, with so many filters that packing these would take
// longer than multiplying: a dense layer's product, or that of the last maps of one image.
inline bool few_pixels(const Convolution& c) {
  for (int axis = 0; axis < kSpatial; ++axis) {
    if (c.padding[axis] != 0 || (c.out[axis] - 1) * c.stride[axis] >= c.in[axis]) return false;
  }
  if (c.G != 1 || c.taps() != 1 || c.pixels() != c.out[2] || c.stride[2] != 1) return false;
  const int64_t filters = c.K * c.C;
  return filters >= kDenseWeights &&
         c.pixels() <= (filters > kManyWeights ? kManyInputs : kDenseInputs);
}

// Whether they are multiplied without packing: filters have their channels together, or channels
// their filters. Of pairs of bfloat16 the first alone.
template <typename T>
bool dense_serves(const Convolution& c) {
  if (!few_pixels(c) || c.input.c != 1) return false;
  return c.weight.c == 1 || (!kPairs<T> && c.weight.k == 1 && c.output.c == 1);
}

inline bool dense_weight_gradient_serves(const Convolution& c) {
  return few_pixels(c) && c.input.c == 1 && c.output.c == 1 && c.weight.c == 1;
}

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
