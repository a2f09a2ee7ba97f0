// What kernels are told of a convolution, from tensors: the same for every device.
#pragma once

#include <ATen/ATen.h>

#include "../../cpu/convolution/problem.h"
#include "convolution.h"

namespace cnn_ext {

// Keeps offsets along an axis, those into the padding included, from overflowing. An axis of one
// cell or one tap is never stepped along, and its stride in memory may be any number.
inline void bound_axis(cpu::Convolution& c, int axis, int64_t padding_after) {
  constexpr double kMostElements = 0x1p60;
  constexpr int64_t kLongStep = int64_t{1} << 32;
  if (c.filter[axis] == 1) c.dilation[axis] = c.weight.spatial[axis] = 1;
  if (c.in[axis] == 1 && c.input.spatial[axis] > kLongStep) c.input.spatial[axis] = 1;
  const auto reach = [&](int64_t cells) {
    return static_cast<double>(cells) * static_cast<double>(c.input.spatial[axis]);
  };
  TORCH_CHECK(reach(c.in[axis] + c.padding[axis] + padding_after) < kMostElements,
              "convolution: padding: expected less, for offsets into the padded input overflow: ",
              c.padding[axis], " before and ", padding_after, " after ", c.in[axis],
              " cells that are ", c.input.spatial[axis], " elements apart");
  TORCH_CHECK(reach(c.stride[axis]) < kMostElements, "convolution: stride: expected less, for ",
              "offsets overflow: ", c.stride[axis], " cells that are ", c.input.spatial[axis],
              " elements apart");
}

// The arguments as numbers, with leading axes of size 1 up to three, and strides.
inline cpu::Convolution describe(const Tensor& input, const Tensor& weight, const Tensor& output,
                                 const Parameters& p) {
  cpu::Convolution c{};
  c.N = input.size(0);
  c.G = p.groups.expect_int();
  c.C = weight.size(1);
  c.K = weight.size(0) / c.G;
  c.input = {input.stride(0), c.C * input.stride(1), input.stride(1), {}};
  c.output = {output.stride(0), c.K * output.stride(1), output.stride(1), {}};
  c.weight = {c.K * weight.stride(0), weight.stride(0), weight.stride(1), {}};
  const int missing = cpu::kSpatial + 2 - static_cast<int>(input.dim());
  for (int axis = 0; axis < cpu::kSpatial; ++axis) {
    c.in[axis] = c.out[axis] = c.filter[axis] = c.stride[axis] = c.dilation[axis] = 1;
    if (axis < missing) continue;
    const int from = axis - missing;
    c.in[axis] = input.size(from + 2);
    c.out[axis] = output.size(from + 2);
    c.filter[axis] = weight.size(from + 2);
    c.stride[axis] = p.stride[from].expect_int();
    c.padding[axis] = p.padding_before[from].expect_int();
    c.dilation[axis] = p.dilation[from].expect_int();
    c.input.spatial[axis] = input.stride(from + 2);
    c.output.spatial[axis] = output.stride(from + 2);
    c.weight.spatial[axis] = weight.stride(from + 2);
    bound_axis(c, axis, p.padding_after[from].expect_int());
  }
  return c;
}

}  // namespace cnn_ext
