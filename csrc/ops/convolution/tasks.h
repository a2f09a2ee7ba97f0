// How a call is shared out: threads, their workspaces, and the parts of a sum.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>

#include "../../cpu/convolution/schedule.h"
#include "../trace.h"

namespace cnn_ext {

using at::Tensor;
using cpu::divide_up;
using cpu::kSpatial;

inline int64_t threads_for(const cpu::Convolution& c) {
  return cpu::threads_worth(c, at::get_num_threads());
}

// Memory for elements of a kernel.
template <typename T>
Tensor empty_of(int64_t count, const Tensor& like) {
  return cnn_ext::fresh_workspace({count},
                                  like.options().dtype(c10::CppTypeToScalarType<T>::value));
}

// Runs task(first, last, workspace of this thread) over 0 <= i < tasks on at most `threads`
// threads.
template <typename T, typename Task>
void run_tasks(int64_t tasks, int64_t threads, int64_t workspace_size, const Tensor& like,
               const Task& task) {
  const int64_t each = (workspace_size + 15) / 16 * 16;
  const Tensor workspace = empty_of<T>(threads * each, like);
  T* const base = workspace.mutable_data_ptr<T>();
  const int64_t grain = (tasks + threads - 1) / threads;
  at::parallel_for(0, tasks, std::max<int64_t>(grain, 1), [&](int64_t first, int64_t last) {
    task(first, last, base + at::get_thread_num() * each);
  });
}

// f(first, last) over 0 <= i < count on at most `threads` threads.
template <typename F>
void share(int64_t threads, int64_t count, const F& f) {
  if (threads == 1) {
    const at::internal::ThreadIdGuard first(0);  // whichever thread of a caller's this is
    return f(int64_t{0}, count);
  }
  at::parallel_for(0, count, std::max<int64_t>((count + threads - 1) / threads, 1), f);
}

// A weight gradient whose tasks share out its sum: each part a result of its own, added in order.
struct Parts {
  const Tensor& result;
  Tensor parts;

  Parts(const Tensor& of, int64_t count) : result(of) {
    if (count > 1) {
      parts = fresh_workspace({count * of.numel()}, of.options())
                  .as_strided({count, of.numel()}, {of.numel(), 1});
    }
  }
  template <typename T>
  T* data() const {
    return (parts.defined() ? parts : result).mutable_data_ptr<T>();
  }
  // Not at::sum, whose order of summation depends on the number of threads.
  template <typename T>
  void add() const {
    if (!parts.defined()) return;
    const int64_t count = parts.size(0), size = parts.size(1);
    const T* const from = parts.const_data_ptr<T>();
    T* const to = result.mutable_data_ptr<T>();
    constexpr int64_t kBlock = 4096;  // elements: the sums stay in L1
    at::parallel_for(0, divide_up(size, kBlock), 8, [&](int64_t begin, int64_t end) {
      for (int64_t first = begin * kBlock; first < end * kBlock; first += kBlock) {
        const int64_t last = std::min(first + kBlock, size);
        std::copy(from + first, from + last, to + first);
        for (int64_t part = 1; part < count; ++part) {
          const T* const more = from + part * size;
          for (int64_t i = first; i < last; ++i) to[i] += more[i];
        }
      }
    });
  }
};

}  // namespace cnn_ext
