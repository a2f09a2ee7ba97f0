// The same convolution with fewer axes or taps, where memory allows. No torch.
#pragma once

#include "problem.h"

namespace cnn_ext::cpu {

// An equal convolution with fewer taps and more channels, where memory allows: a tap along an axis
// whose windows never touch padding is a channel by another name. A filter as large as its input
// becomes a matrix product, and an image of one channel gets rows of channels to copy. Windows that
// overlap may be read so, but not written: `written` is for the input gradient.
inline Convolution merge_taps_into_channels(Convolution c, bool written) {
  const auto foldable = [&](int axis) {
    const int64_t extent = (c.filter[axis] - 1) * c.dilation[axis] + 1;
    const bool inside =
        c.padding[axis] == 0 && (c.out[axis] - 1) * c.stride[axis] + extent <= c.in[axis];
    const bool whole = c.out[axis] == 1 && c.filter[axis] == c.in[axis] && c.dilation[axis] == 1;
    return c.filter[axis] > 1 && inside && (whole || !written);
  };
  const auto fold = [&](int axis, int64_t input_step, int64_t weight_step) {
    c.C *= c.filter[axis];
    c.input.c = input_step;
    c.weight.c = weight_step;
    c.in[axis] = (c.out[axis] - 1) * c.stride[axis] + 1;
    c.filter[axis] = 1;
  };
  for (int axis = 0; axis < kSpatial; ++axis) {  // taps inside channels, as in NCHW
    const int64_t step = c.dilation[axis] * c.input.spatial[axis];
    const int64_t weight_step = c.weight.spatial[axis], F = c.filter[axis];
    if (foldable(axis) && c.C > 1 && c.input.c == F * step && c.weight.c == F * weight_step) {
      fold(axis, step, weight_step);
    }
  }
  for (int axis = kSpatial - 1; axis >= 0; --axis) {  // channels inside taps, as in channels_last
    const int64_t step = c.dilation[axis] * c.input.spatial[axis];
    const int64_t weight_step = c.weight.spatial[axis];
    if (!foldable(axis)) continue;
    if (c.C == 1) {
      fold(axis, step, weight_step);
    } else if (step == c.C * c.input.c && weight_step == c.C * c.weight.c) {
      fold(axis, c.input.c, c.weight.c);
    }
  }
  return c;
}

// Once no taps are left, pixels that lie evenly in memory are one long row, across images too.
inline Convolution merge_pixels(Convolution c, bool written) {
  for (int axis = 0; axis < kSpatial; ++axis) {
    const bool inside = c.padding[axis] == 0 && (c.out[axis] - 1) * c.stride[axis] < c.in[axis];
    const bool whole = c.stride[axis] == 1 && c.in[axis] == c.out[axis];
    if (c.filter[axis] != 1 || !inside || (written && !whole)) return c;
  }
  for (int axis = 0; axis < kSpatial; ++axis) {
    c.in[axis] = c.out[axis];
    c.input.spatial[axis] *= c.stride[axis];
    c.stride[axis] = 1;
  }
  // Each axis swallows the one outside it; the batch is outermost.
  for (int inner = kSpatial - 1; inner >= 0; --inner) {
    for (int outer = inner - 1; outer >= -1; --outer) {
      int64_t& count = outer < 0 ? c.N : c.out[outer];
      const int64_t input_step = outer < 0 ? c.input.n : c.input.spatial[outer];
      const int64_t output_step = outer < 0 ? c.output.n : c.output.spatial[outer];
      if (count == 1) continue;
      if (c.out[inner] == 1) {
        c.input.spatial[inner] = input_step;
        c.output.spatial[inner] = output_step;
      } else if (input_step != c.out[inner] * c.input.spatial[inner] ||
                 output_step != c.out[inner] * c.output.spatial[inner]) {
        break;
      }
      c.in[inner] = c.out[inner] *= count;
      count = 1;
      if (outer >= 0) c.in[outer] = 1;
    }
  }
  return c;
}

// The same convolution as its kernels like it best. `written`: its input is what they write.
inline Convolution simplify(const Convolution& c, bool written) {
  return merge_pixels(merge_taps_into_channels(c, written), written);
}

}  // namespace cnn_ext::cpu
