// Hard shrinkage, vector by vector. Included by isa/ (see vec.h).
#pragma once

#include "../vec.h"

// The elements first <= i < last.
template <typename T>
void hardshrink(const Hardshrink<T>& p, int64_t first, int64_t last) {
  using V = Vec<T>;
  const V high = V::broadcast(p.bound), low = V::broadcast(-p.bound);
  int64_t i = first;
  for (; i + V::kLanes <= last; i += V::kLanes) {
    const V x = V::load(p.input + i), value = V::load(p.values + i);
    const V result = {(x.lanes >= low.lanes) & (x.lanes <= high.lanes) ? V::zero().lanes
                                                                       : value.lanes};
    result.store(p.output + i);
  }
  for (; i < last; ++i) {
    p.output[i] = p.input[i] >= -p.bound && p.input[i] <= p.bound ? T(0) : p.values[i];
  }
}
