// Windows that lie side by side, each cell of the input in one at most: their input gradient is one
// product. No torch.
#pragma once

#include "problem.h"

namespace cnn_ext::cpu {

// Whether the windows lie side by side, each cell of the input in one at most.
inline bool windows_tile(const Convolution& c) {
  bool strided = false;
  for (int axis = 0; axis < kSpatial; ++axis) {
    const bool inside = c.padding[axis] == 0 && c.out[axis] * c.stride[axis] <= c.in[axis];
    if (c.filter[axis] != c.stride[axis] || !inside) return false;
    if (c.filter[axis] > 1 && c.dilation[axis] != 1) return false;
    strided = strided || c.stride[axis] > 1;
  }
  return c.G == 1 && strided;
}

// Whether filters are dense, and images small enough, for products of whole windows.
inline bool windows_fit(const Convolution& c) {
  int64_t cells = c.C, last = (c.C - 1) * c.weight.c;
  for (int axis = 0; axis < kSpatial; ++axis) {
    cells *= c.filter[axis];
    last += (c.filter[axis] - 1) * c.weight.spatial[axis];
  }
  return last + 1 == cells && cells * c.out[0] * c.out[1] * c.out[2] <= kWindowElements;
}

// Whether the rows of windows side by side lie together, channels innermost: the input gradient of
// such a row of every window is one product, written where it belongs.
inline bool rows_lie_together(const Convolution& c) {
  return c.input.c == 1 && c.C >= kChannelsOfRows && c.input.spatial[2] == c.C;
}

}  // namespace cnn_ext::cpu
