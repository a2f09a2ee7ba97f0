// A family of kernels: those of one algorithm, compiled as one object for every instruction set.
// Its geometry.h says what they are told and lists them, once, as slots; isa/<level>/<family>.cpp
// fills the table. Kernels know nothing of torch, start no threads and allocate nothing; a range of
// tasks lets the caller share the work out.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <type_traits>
#include <utility>

#include "capability.h"
#include "check.h"
#include "elements.h"

#define CNN_EXT_SLOT(name, result, arguments) result(*name) arguments;
#define CNN_EXT_SLOT_NAME(name, result, arguments) #name,
#define CNN_EXT_SLOT_ADDRESS(name, result, arguments) &name<T>,

// Declares a table: one pointer for each slot of a list, for an element type T.
#define CNN_EXT_FAMILY(Family, SLOTS)                                   \
  template <typename Element>                                           \
  struct Family {                                                       \
    using T = Element;                                                  \
    SLOTS(CNN_EXT_SLOT)                                                 \
    static constexpr const char* kNames[] = {SLOTS(CNN_EXT_SLOT_NAME)}; \
  }

// Fills it, in the namespace of an instruction set.
#define CNN_EXT_FILL(Family, SLOTS, Element)                          \
  template <>                                                         \
  const Family<Element>& kernels<Family<Element>>() {                 \
    using T = Element;                                                \
    static constexpr Family<T> table = {SLOTS(CNN_EXT_SLOT_ADDRESS)}; \
    return table;                                                     \
  }

namespace cnn_ext::cpu {

namespace scalar {
template <typename Table>
const Table& kernels();
}
namespace avx2 {
template <typename Table>
const Table& kernels();
}
namespace avx512 {
template <typename Table>
const Table& kernels();
}
namespace avx512_bf16 {
template <typename Table>
const Table& kernels();
}

// Whether the processor multiplies bfloat16; only then are there kernels of it and its pairs.
inline bool multiplies_bfloat16() { return capability() >= Capability::avx512_bf16; }

// The kernels of the instruction set in use, such as kernels<WinogradKernels<float>>().
template <typename Table>
const Table& kernels() {
  using T = typename Table::T;
  constexpr bool kBFloat16 = std::is_same_v<T, Pair> || std::is_same_v<T, BFloat16>;
#if defined(__x86_64__)
  if constexpr (kBFloat16) {
    return avx512_bf16::kernels<Table>();
  } else {
    if (capability() >= Capability::avx512) return avx512::kernels<Table>();
    if (capability() == Capability::avx2) return avx2::kernels<Table>();
    return scalar::kernels<Table>();
  }
#else
  if constexpr (kBFloat16) {
    std::abort();
  } else {
    return scalar::kernels<Table>();
  }
#endif
}

}  // namespace cnn_ext::cpu
