#include "ops/torch.h"

#include "enable.h"

#include <ATen/core/dispatch/Dispatcher.h>

#include <atomic>
#include <memory>

namespace cnn_ext {
namespace {

// Holds the registrations; they end with it. torch does not lock its table of kernels against calls
// that other threads are in. Both kernels of an entry, ours and torch's, are functions without
// state, so that such a call runs the one or the other.
std::unique_ptr<torch::Library> library;

// Where a kernel was registered for exactly this key: "registered at FILE:LINE", or "".
std::string registration(const c10::OperatorHandle& op, c10::DispatchKey key) {
  if (!op.hasKernelForDispatchKey(key)) return "";
  const std::string state = "\n" + op.dumpState();
  const std::string begin = std::string("\n") + c10::toString(key) + ": ";
  const size_t at = state.find(begin);
  if (at == std::string::npos) return "registered";
  const size_t from = at + begin.size();
  return state.substr(from, state.find(" :: ", from) - from);
}

const char* algorithm_named(const std::string& name) {
  for (const char* known : {"auto", "im2col", "implicit_gemm", "winograd", "direct"}) {
    if (name == known) return known;
  }
  TORCH_CHECK(false, "default_algorithm: name: expected an algorithm, got \"", name, "\"");
}

std::atomic<const char*> process_algorithm{"auto"};
thread_local const char* thread_algorithm = nullptr;
thread_local int torch_only = 0;  // guards that this thread is in

}  // namespace

bool TorchOnly::is_on() { return torch_only > 0; }
void TorchOnly::enter() { ++torch_only; }
void TorchOnly::leave() { --torch_only; }

const std::vector<Override>& overrides() {
  static const std::vector<Override> all = convolution_overrides();
  return all;
}

const char* name_of(Reason reason) {
  switch (reason) {
    case Reason::served:
      return "";
    case Reason::dtype:
      return "torch: dtype";
    case Reason::not_plain:
      return "torch: not a plain CPU tensor";
    case Reason::arguments:
      return "torch: arguments";
    case Reason::empty:
      return "torch: no elements";
    case Reason::output_padding:
      return "torch: output_padding";
  }
  return "";
}

void check_override(const std::string& name, const std::string& schema) {
  const std::string full = "aten::" + name;
  const auto op = c10::Dispatcher::singleton().findSchema({full, ""});
  TORCH_CHECK(op.has_value(), "cnn_ext.enable: this torch has no operator ", full);
  const std::string found = toString(op->schema());
  TORCH_CHECK(found == full + schema, "cnn_ext.enable: ", full, ": this torch's schema is not the ",
              "one that cnn_ext has a kernel for: expected ", full, schema, ", found ", found);
  for (const auto key : {c10::DispatchKey::CPU, c10::DispatchKey::AutogradCPU}) {
    const std::string where = registration(*op, key);
    TORCH_CHECK(where.empty() || where.find("/ATen/RegisterCPU") != std::string::npos,
                "cnn_ext.enable: another library has a kernel of its own for ", full, " (", key,
                ": ", where, "), and torch keeps one: use one of the two libraries");
  }
}

void register_overrides() {
  if (library != nullptr) return;
  for (const Override& override : overrides()) check_override(override.name, override.schema);
  auto all = std::make_unique<torch::Library>(torch::Library::IMPL, "aten", c10::DispatchKey::CPU,
                                              __FILE__, __LINE__);
  for (const Override& override : overrides()) override.implement(*all);
  library = std::move(all);
}

void release_overrides() { library.reset(); }

void set_process_algorithm(const std::string& name) { process_algorithm = algorithm_named(name); }

void set_thread_algorithm(const std::string& name) {
  thread_algorithm = name.empty() ? nullptr : algorithm_named(name);
}

c10::string_view default_algorithm() {
  return thread_algorithm != nullptr ? thread_algorithm : process_algorithm.load();
}

}  // namespace cnn_ext
