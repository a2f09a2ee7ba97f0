// Assertions of a debug build (CNN_EXT_DEBUG=1): ranges of tasks, alignment, sizes. In a release
// build they are nothing.
#pragma once

#include <cstdint>

namespace cnn_ext::cpu {
[[noreturn]] void failed_check(const char* file, int line, const char* what);
}  // namespace cnn_ext::cpu

#if defined(NDEBUG)
#define CNN_EXT_CHECK(condition) static_cast<void>(0)
#else
#define CNN_EXT_CHECK(condition)      \
  ((condition) ? static_cast<void>(0) \
               : ::cnn_ext::cpu::failed_check(__FILE__, __LINE__, #condition))
#endif

// That a range of tasks is one of those there are, and that a workspace is aligned for vectors.
#define CNN_EXT_CHECK_TASKS(first, last, count) \
  CNN_EXT_CHECK(0 <= (first) && (first) <= (last) && (last) <= (count))
#define CNN_EXT_CHECK_ALIGNED(pointer) CNN_EXT_CHECK(reinterpret_cast<uintptr_t>(pointer) % 64 == 0)
