// The names of all kernels, for `doctor` and the tests. Apart from kernels.h, so that a new family
// compiles none of the files that include this.
#pragma once

#include <string>
#include <vector>

namespace cnn_ext::cpu {

// Those that every instruction set provides, in the order of kernels.h.
std::vector<std::string> kernel_names();

}  // namespace cnn_ext::cpu
