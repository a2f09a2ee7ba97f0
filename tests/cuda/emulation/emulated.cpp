// The drivers and kernels of one operation in csrc/cuda/, compiled for the CPU by emulated_cuda.h.
// Loading this library beside cnn_ext puts them in the place of the CPU's kernels for the whole
// process, so that every test of the operation is a test of them. The command that compiles this
// says which: CNN_EXT_CUDA_SOURCE is the name of a file.

#define CNN_EXT_EMULATED_CUDA

#include <torch/library.h>

#undef TORCH_LIBRARY_IMPL
#define TORCH_LIBRARY_IMPL(ns, key, m) _TORCH_LIBRARY_IMPL(ns, CPU, m, C10_UID)

#include CNN_EXT_CUDA_SOURCE

extern "C" {
__attribute__((visibility("default"))) void emulated_set(bool descending, int capability) {
  emulated::descending = descending;
  emulated::compute_capability = capability;
}
__attribute__((visibility("default"))) int64_t emulated_launches() { return emulated::launches; }
}
