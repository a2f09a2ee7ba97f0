// Hard shrinkage on CUDA: a thread for each element.
#pragma once

#include "../../cpu/hardshrink/geometry.h"
#include "../launch.cuh"

namespace cnn_ext::cuda {

template <typename T>
__global__ void hardshrink(cpu::Hardshrink<T> p, int64_t count) {
  const int64_t i = thread_index();
  if (i >= count) return;
  p.output[i] = p.input[i] >= -p.bound && p.input[i] <= p.bound ? T(0) : p.values[i];
}

}  // namespace cnn_ext::cuda
