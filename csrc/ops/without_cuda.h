// Errors in place of CUDA kernels, where this library was built without them.
#pragma once

namespace cnn_ext {

// Gives every operation that has a kernel for the CPU and none for CUDA an error that says how to
// build one. Called once all operations are registered.
void refuse_gpu_tensors();

}  // namespace cnn_ext
