// What a tensor on a GPU meets where this library was built without CUDA kernels: an error that
// says how to build them.

#include "ops/torch.h"

#if !defined(CNN_EXT_CUDA)

namespace cnn_ext {
namespace {

void refuse(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack*) {
  TORCH_CHECK_NOT_IMPLEMENTED(
      false, op.schema().operator_name().name,
      ": input: got a tensor on a GPU, and this cnn_ext was ",
      "built without CUDA kernels. With a CUDA toolkit of torch's version type: ",
      "CNN_EXT_CUDA=1 pip install --no-build-isolation --force-reinstall --no-deps .");
}

}  // namespace

TORCH_LIBRARY_IMPL(cnn_ext, CUDA, m) {
  for (const char* name :
       {"convolution", "convolution_input_gradient", "convolution_weight_gradient", "max_pool2d",
        "max_pool2d_with_taps", "max_pool2d_backward", "local_response_norm",
        "local_response_norm_backward", "color_pca", "color_pca_shift_gradient", "color_moments"}) {
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&refuse>());
  }
}

}  // namespace cnn_ext

#endif
