#include "kernel_names.h"

#include "kernels.h"

namespace cnn_ext::cpu {

std::vector<std::string> kernel_names() {
  std::vector<std::string> names;
#define CNN_EXT_NAMES(Family) \
  for (const char* name : Family<float>::kNames) names.emplace_back(name);
  CNN_EXT_FAMILIES(CNN_EXT_NAMES)
#undef CNN_EXT_NAMES
  return names;
}

}  // namespace cnn_ext::cpu
