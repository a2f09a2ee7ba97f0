#include "capability.h"

#include "check.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>
#include <string>

namespace cnn_ext::cpu {

void failed_check(const char* file, int line, const char* what) {
  throw std::logic_error(std::string(file) + ":" + std::to_string(line) + ": expected " + what);
}

namespace {

constexpr const char* kNames[] = {"scalar", "avx2", "avx512", "avx512_bf16"};

Capability ask_processor() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx2 && avx512 && __builtin_cpu_supports("avx512bf16")) return Capability::avx512_bf16;
  if (avx2 && avx512) return Capability::avx512;
  if (avx2) return Capability::avx2;
#endif
  return Capability::scalar;
}

// An unusable value in the environment leaves the processor's own answer in place: raising here,
// while the library is being loaded, would end the process. `doctor` reports what is in use.
Capability initial_capability() {
  const Capability best = ask_processor();
  const char* wanted = std::getenv("CNN_EXT_CPU_CAPABILITY");
  for (int level = 0; wanted != nullptr && level < static_cast<int>(best); ++level) {
    if (std::string(wanted) == kNames[level]) return static_cast<Capability>(level);
  }
  return best;
}

std::atomic<Capability>& current() {
  static std::atomic<Capability> level{initial_capability()};
  return level;
}

}  // namespace

Capability best_capability() {
  static const Capability best = ask_processor();
  return best;
}

Capability capability() { return current().load(std::memory_order_relaxed); }

void set_capability(const std::string& name) {
  for (int level = 0; level <= static_cast<int>(best_capability()); ++level) {
    if (name == kNames[level]) return current().store(static_cast<Capability>(level));
  }
  throw std::invalid_argument("CPU capability: got \"" + name +
                              "\", expected one of scalar, avx2, avx512, avx512_bf16, at most \"" +
                              name_of(best_capability()) + "\", which is what this processor has");
}

const char* name_of(Capability capability) { return kNames[static_cast<int>(capability)]; }

}  // namespace cnn_ext::cpu
