// The drivers and kernels of csrc/cuda/, compiled for the CPU by emulated_cuda.h. Loading this
// library beside cnn_ext puts them in the place of the CPU's kernels for the whole process, so that
// every test of the operations is a test of them.

#define CNN_EXT_EMULATED_CUDA

#include <torch/library.h>

#undef TORCH_LIBRARY_IMPL
#define TORCH_LIBRARY_IMPL(ns, key, m) _TORCH_LIBRARY_IMPL(ns, CPU, m, C10_UID)

#include "../../../csrc/cuda/color_pca.cu"
#include "../../../csrc/cuda/convolution.cu"
#include "../../../csrc/cuda/local_response_norm.cu"
#include "../../../csrc/cuda/max_pool.cu"

extern "C" {
__attribute__((visibility("default"))) void emulated_set(bool descending, int capability) {
  emulated::descending = descending;
  emulated::compute_capability = capability;
}
__attribute__((visibility("default"))) int64_t emulated_launches() { return emulated::launches; }
}
