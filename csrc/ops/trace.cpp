#include "ops/torch.h"

#include "trace.h"

#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <tuple>

namespace cnn_ext {
namespace {

bool is_verbose() {
  const char* const value = std::getenv("CNN_EXT_VERBOSE");
  return value != nullptr && std::string(value) == "1";
}

const bool verbose = is_verbose();
std::mutex mutex;
std::map<size_t, std::vector<Record>> open_traces;
using Key = std::tuple<std::string, std::string, std::string>;  // op, pass, route
std::map<size_t, std::map<Key, Total>> open_totals;
size_t next_trace = 0;
thread_local size_t workspace_bytes = 0;

void print(const Record& r) {
  std::fprintf(stderr, "cnn_ext,%s,%s,%s,%s,%s,%s,threads:%lld,workspace:%lld,ms:%.4f\n",
               r.op.c_str(), r.pass.c_str(), r.route.c_str(), r.sizes.c_str(), r.dtype.c_str(),
               r.layout.c_str(), static_cast<long long>(r.threads),
               static_cast<long long>(r.workspace_bytes), r.milliseconds);
}

}  // namespace

std::atomic<int> traces{verbose ? 1 : 0};

size_t begin_trace() {
  const std::lock_guard<std::mutex> lock(mutex);
  open_traces[next_trace];
  ++traces;
  return next_trace++;
}

std::vector<Record> end_trace(size_t trace) {
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = open_traces.find(trace);
  if (found == open_traces.end()) return {};
  std::vector<Record> records = std::move(found->second);
  open_traces.erase(found);
  --traces;
  return records;
}

size_t begin_totals() {
  const std::lock_guard<std::mutex> lock(mutex);
  open_totals[next_trace];
  ++traces;
  return next_trace++;
}

std::vector<Total> end_totals(size_t totals) {
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = open_totals.find(totals);
  if (found == open_totals.end()) return {};
  std::vector<Total> all;
  for (const auto& [key, total] : found->second) all.push_back(total);
  open_totals.erase(found);
  --traces;
  return all;
}

void count_workspace(size_t bytes) { workspace_bytes += bytes; }

void Traced::begin() {
  outer_ = workspace_bytes;
  workspace_bytes = 0;
  start_ = std::chrono::steady_clock::now();
}

void Traced::end() {
  const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start_;
  record_.milliseconds = took.count();
  record_.workspace_bytes = static_cast<int64_t>(workspace_bytes);
  workspace_bytes += outer_;
  if (record_.op.empty()) return;  // it ended in an error
  const std::lock_guard<std::mutex> lock(mutex);
  if (verbose) print(record_);
  for (auto& [trace, records] : open_traces) records.push_back(record_);
  for (auto& [name, totals] : open_totals) {
    const Key key{record_.op, record_.pass, record_.route};
    Total& total = totals.try_emplace(key, Total{record_.op, record_.pass, record_.route, 0, 0.0})
                       .first->second;
    ++total.calls;
    total.milliseconds += record_.milliseconds;
  }
}

std::string sizes_of(at::IntArrayRef sizes) {
  std::string words;
  for (const int64_t size : sizes) words += (words.empty() ? "" : "x") + std::to_string(size);
  return words;
}

const char* layout_of(const at::Tensor& tensor) {
  if (tensor.is_contiguous()) return "contiguous";
  if (tensor.dim() == 4 && tensor.is_contiguous(at::MemoryFormat::ChannelsLast)) {
    return "channels_last";
  }
  if (tensor.dim() == 5 && tensor.is_contiguous(at::MemoryFormat::ChannelsLast3d)) {
    return "channels_last";
  }
  return "strided";
}

const char* dtype_of(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return "float32";
    case at::kDouble:
      return "float64";
    case at::kHalf:
      return "float16";
    case at::kBFloat16:
      return "bfloat16";
    case at::kByte:
      return "uint8";
    case at::kComplexHalf:
      return "complex32";
    case at::kComplexFloat:
      return "complex64";
    case at::kComplexDouble:
      return "complex128";
    default:
      return c10::toString(tensor.scalar_type());
  }
}

}  // namespace cnn_ext
