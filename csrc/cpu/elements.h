// The element types of kernels: float, double, bfloat16 and pairs of it. No torch.
#pragma once

#include <cstdint>
#include <type_traits>

namespace cnn_ext::cpu {

// bfloat16, as its bits. Processors with AVX512-BF16 multiply it two by two: an element of a
// product is a pair of neighbouring steps of the sum, the first in the lower half, and both
// products are added to one float32. Kernels copy, pack and transpose pairs as they do other
// elements.
using BFloat16 = uint16_t;
using Pair = uint32_t;

constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

// What operands are stored as, what their products are summed in, what results are stored as, and
// packed filters.
template <typename T>
struct Numbers {
  using Operand = T;
  using Sum = T;
  using Result = T;
  using Packed = T;
};
template <>
struct Numbers<Pair> {
  using Operand = BFloat16;
  using Sum = float;
  using Result = BFloat16;
  using Packed = Pair;
};
template <>
struct Numbers<BFloat16> : Numbers<Pair> {  // one by one, as floats
  using Packed = float;
};
template <typename T>
constexpr bool kPairs = std::is_same_v<T, Pair>;
template <typename T>
using Operand = typename Numbers<T>::Operand;
template <typename T>
using Sum = typename Numbers<T>::Sum;
template <typename T>
using Result = typename Numbers<T>::Result;
template <typename T>
using Packed = typename Numbers<T>::Packed;

}  // namespace cnn_ext::cpu
