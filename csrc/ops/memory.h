// Fresh memory for results and workspaces.
#pragma once

#include <ATen/ATen.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace cnn_ext {

// Asks the system for huge pages under a large tensor that has just been allocated. Memory beyond
// the allocator's reach (32 MB with glibc) is fetched from the system for every tensor anew, and by
// pages of 4 kB that takes longer than many an operation on it.
inline const at::Tensor& with_huge_pages(const at::Tensor& fresh) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr size_t kLeast = size_t{16} << 20;
  constexpr uintptr_t kPage = 4096;
  if (fresh.nbytes() >= kLeast) {
    const auto begin = reinterpret_cast<uintptr_t>(fresh.mutable_data_ptr());
    const uintptr_t first = (begin + kPage - 1) / kPage * kPage;
    const uintptr_t last = (begin + fresh.nbytes()) / kPage * kPage;
    madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);  // advice: may fail
  }
#endif
  return fresh;
}

}  // namespace cnn_ext
