// What the kernels of hard shrinkage are told. Plain data, no torch.
#pragma once

#include "../family.h"

namespace cnn_ext::cpu {

// output[i] = 0 where -bound <= input[i] <= bound, values[i] elsewhere, NaN included. Forward, the
// values are the input; in the gradient they are grad_output. All lie together in memory.
template <typename T>
struct Hardshrink {
  const T* input;
  const T* values;
  T* output;
  T bound;
};

// X(slot, result, arguments), for an element type T.
#define CNN_EXT_HARDSHRINK_SLOTS(X) \
  X(hardshrink, void, (const Hardshrink<T>&, int64_t first, int64_t last))

CNN_EXT_FAMILY(HardshrinkKernels, CNN_EXT_HARDSHRINK_SLOTS);

}  // namespace cnn_ext::cpu
