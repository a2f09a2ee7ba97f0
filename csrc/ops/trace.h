// A record of every call: one line on stderr under CNN_EXT_VERBOSE=1, and what cnn_ext.trace()
// returns. Off, it costs one load.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <atomic>
#include <chrono>
#include <string>
#include <vector>

#include "torch_only.h"

#pragma GCC visibility push(default)  // tests/cuda/emulation is linked with these

namespace cnn_ext {

struct Record {
  std::string op, pass, route, sizes, dtype, layout;
  int64_t threads, workspace_bytes;
  double milliseconds;
};

extern std::atomic<int> traces;  // how many want records, the verbose mode among them

// Starts a trace; what it returns names it.
size_t begin_trace();
// Ends it: the calls of all threads since it began.
std::vector<Record> end_trace(size_t trace);

// The same for the totals of all calls by operation, pass and route, which take no memory for a
// call.
struct Total {
  std::string op, pass, route;
  int64_t calls;
  double milliseconds;
};
size_t begin_totals();
std::vector<Total> end_totals(size_t totals);

// Adds to the workspace of the call that this thread is in.
void count_workspace(size_t bytes);

// One call, from its construction to its end. What it asks of torch is torch's.
class Traced {
 public:
  Traced() : on_(traces.load(std::memory_order_relaxed) > 0) {
    if (on_) begin();
  }
  ~Traced() {
    if (on_) end();
  }
  Traced(const Traced&) = delete;
  Traced& operator=(const Traced&) = delete;

  // fill(record): everything but the workspace and the time.
  template <typename F>
  void facts(const F& fill) {
    if (on_) fill(record_);
  }

 private:
  void begin();
  void end();

  TorchOnly inside_;
  bool on_;
  Record record_{};
  size_t outer_ = 0;  // workspace of the call that this one is part of
  std::chrono::steady_clock::time_point start_{};
};

// "16x64x56x56"
std::string sizes_of(at::IntArrayRef sizes);
// "channels_last", "contiguous" or "strided"
const char* layout_of(const at::Tensor& tensor);

// "float32", as torch names it in Python
const char* dtype_of(const at::Tensor& tensor);

// Fills the facts of a call that one kernel family serves, whatever its arguments.
inline void trace(Traced& traced, const char* op, const char* pass, const char* route,
                  const at::Tensor& input) {
  traced.facts([&](Record& record) {
    record = {op,
              pass,
              route,
              sizes_of(input.sizes()),
              dtype_of(input),
              layout_of(input),
              at::get_num_threads(),
              0,
              0.0};
  });
}

// Memory that a call needs beside its operands and its result.
inline at::Tensor fresh_workspace(at::IntArrayRef size, at::TensorOptions options) {
  at::Tensor memory = at::empty(size, options);
  if (traces.load(std::memory_order_relaxed) > 0) count_workspace(memory.nbytes());
  return memory;
}

}  // namespace cnn_ext

#pragma GCC visibility pop
