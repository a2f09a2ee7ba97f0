#if defined(__x86_64__)
// clang-format off: the order of inclusion opens and closes a namespace and a target region
#include "../../convolution/pairs/geometry.h"
#include "begin.h"
#include "../../convolution/pairs/pairs.h"
template <>
const PairsKernels<Pair>& kernels<PairsKernels<Pair>>() {
  static constexpr PairsKernels<Pair> table = {&pair_channels};
  return table;
}
#include "../end.h"
#endif
