// Which instruction set the kernels use. The processor is asked once, when the library is loaded;
// the environment variable CNN_EXT_CPU_CAPABILITY, and tests, may only lower the answer.
#pragma once

#include <string>

namespace cnn_ext::cpu {

// Ordered: a processor that has one level has all the levels before it.
enum class Capability { scalar, avx2, avx512, avx512_bf16 };

// The best level of this processor that this library was compiled with.
Capability best_capability();

// The level in use: best_capability(), unless lowered.
Capability capability();

// Throws std::invalid_argument for a name that is unknown or above best_capability().
void set_capability(const std::string& name);

const char* name_of(Capability capability);

}  // namespace cnn_ext::cpu
