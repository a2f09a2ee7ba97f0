// How a call is shared out: threads, their workspaces, and the parts of a sum.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>

#include "../../cpu/convolution/problem.h"
#include "../trace.h"

namespace cnn_ext {

using at::Tensor;
using cpu::kSpatial;

// Waking a thread costs about as much as this many multiplications and additions.
inline constexpr double kOperationsPerThread = 5e5;

inline int64_t threads_for(const cpu::Convolution& c) {
  const double operations = 2.0 * c.pixels() * c.G * c.K * c.reduction();
  const double worth = std::max(1.0, operations / kOperationsPerThread);
  return static_cast<int64_t>(std::min<double>(at::get_num_threads(), worth));
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
  if (threads == 1) return f(int64_t{0}, count);
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
  void add() const {
    if (!parts.defined()) return;
    Tensor flat = result.as_strided({result.numel()}, {1});
    at::sum_out(flat, parts, 0);
  }
};

}  // namespace cnn_ext
