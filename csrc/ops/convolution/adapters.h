// What a route may wrap around a step: some images at a time, in float32, or transposed to
// channels_last and back.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>

#include "../../cpu/convolution/problem.h"
#include "../trace.h"

namespace cnn_ext {

using at::Tensor;

// f(images, of the result likewise) for some images at a time, so many that these and theirs of the
// result have at most `memory` elements, unless one has more. Not so many for each thread: how many
// images there are at a time may change the last bits of a result.
template <typename F>
void each_images(const Tensor& input, const Tensor& result, int64_t memory, const F& f) {
  const int64_t N = input.size(0);
  const int64_t image = (input.numel() + result.numel()) / N;
  const int64_t images = std::clamp<int64_t>(memory / image, 1, N);
  for (int64_t first = 0; first < N; first += images) {
    const int64_t here = std::min(images, N - first);
    f(input.narrow(0, first, here), result.narrow(0, first, here));
  }
}

// A fresh tensor of the sizes of one and the options of another, in a memory format.
inline Tensor empty_part(const Tensor& sizes, const Tensor& options, at::MemoryFormat format) {
  return fresh_workspace(sizes.sizes(), options.options().memory_format(format));
}

// The memory format of tensors with their channels innermost, or contiguous.
inline at::MemoryFormat format_of(const Tensor& tensor, bool channels_last) {
  if (!channels_last) return at::MemoryFormat::Contiguous;
  return tensor.dim() == 5 ? at::MemoryFormat::ChannelsLast3d : at::MemoryFormat::ChannelsLast;
}

// A copy in float32, without gaps.
inline Tensor to_float32(const Tensor& tensor, bool channels_last) {
  const Tensor single = tensor.to(at::kFloat, /*non_blocking=*/false, /*copy=*/false,
                                  format_of(tensor, channels_last));
  return single.contiguous(format_of(tensor, channels_last));
}

// f(input in float32, a fresh result in float32), rounded once to `result`.
template <typename F>
void in_float32(const Tensor& input, const Tensor& result, bool channels_last, const F& f) {
  const auto format = format_of(result, channels_last);
  each_images(input, result, cpu::kRoundedMemory, [&](const Tensor& from, const Tensor& to) {
    const Tensor some = to_float32(from, channels_last);
    const Tensor sums = empty_part(to, some, format);
    f(some, sums);
    to.copy_(sums);
  });
}

// From maps (N, rows, columns) to maps (N, columns, rows), each map dense.
void transpose_maps(const Tensor& from, const Tensor& to, int64_t rows, int64_t columns);

// f(input in channels_last, a fresh result in channels_last), transposed to `result`.
template <typename F>
void in_channels_last(const Tensor& input, const Tensor& result, const F& f) {
  const auto format = format_of(input, true);
  each_images(input, result, cpu::kTransposeMemory, [&](const Tensor& from, const Tensor& to) {
    const int64_t N = from.size(0), C = from.size(1), K = to.size(1);
    const Tensor some = empty_part(from, from, format);
    transpose_maps(from, some, C, from.numel() / N / C);
    const Tensor result_of_some = empty_part(to, to, format);
    f(some, result_of_some);
    transpose_maps(result_of_some, to, to.numel() / N / K, K);
  });
}

}  // namespace cnn_ext
