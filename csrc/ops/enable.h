// torch's own operators on our kernels: what cnn_ext.enable() registers for aten:: on the CPU and
// cnn_ext.disable() releases, the guard that keeps torch's own kernels, and what was handed back.
//
// An operation lists its kernels in a function of its own (convolution/aten.cpp), and enable.cpp
// names that function. A kernel that does not serve a call hands it to torch's.
#pragma once

#include <ATen/ATen.h>
#include <torch/library.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "trace.h"

namespace cnn_ext {

// Why a call went to torch's kernel; `served`: it went to ours. `arguments` are those that torch
// refuses, or whose semantics are its own affair.
enum class Reason { served, dtype, not_plain, arguments, empty, output_padding };
constexpr int kReasons = 6;
const char* name_of(Reason reason);

// How many calls went where, and how many multiply-adds they took.
struct Count {
  std::atomic<int64_t> calls{0}, multiply_adds{0};
};
class Counts {
 public:
  void add(Reason reason, int64_t multiply_adds) {
    Count& count = by_reason_[static_cast<size_t>(reason)];
    count.calls.fetch_add(1, std::memory_order_relaxed);
    count.multiply_adds.fetch_add(multiply_adds, std::memory_order_relaxed);
  }
  const Count& of(Reason reason) const { return by_reason_[static_cast<size_t>(reason)]; }

 private:
  std::array<Count, kReasons> by_reason_;
};

// One of torch's operators and our kernel for it.
struct Override {
  const char* name;    // "convolution"
  const char* schema;  // that the kernel was written for
  void (*implement)(torch::Library& library);
  Counts* counts;
};

std::vector<Override> convolution_overrides();

// Registers all kernels. Raises, and registers none, where an operator is not what we know.
void register_overrides();
void release_overrides();
void check_override(const std::string& name, const std::string& schema);

// The registry: of every operation that serves operators of torch's.
const std::vector<Override>& overrides();

// What "auto" means to torch's operators: what cnn_ext.default_algorithm set for this thread's
// block ("": there is none), otherwise for the process.
void set_process_algorithm(const std::string& name);
void set_thread_algorithm(const std::string& name);
c10::string_view default_algorithm();

// Hands a call to torch's kernel, and has the trace and the counts tell why.
// call() is torch's kernel; work(result): its multiply-adds.
template <typename Call, typename Work>
auto hand_back(Counts& counts, const char* op, const char* pass, Reason reason,
               const at::Tensor& input, const Call& call, const Work& work) {
  Traced traced;
  auto result = call();
  trace(traced, op, pass, name_of(reason), input);
  counts.add(reason, work(result));
  return result;
}

}  // namespace cnn_ext
