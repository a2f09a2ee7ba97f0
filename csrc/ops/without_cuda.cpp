// What a tensor on a GPU meets where this library was built without CUDA kernels: an error that
// says how to build them. Which operations there are, torch's dispatcher knows.

#include "ops/torch.h"

#include "without_cuda.h"

namespace cnn_ext {

#if defined(CNN_EXT_CUDA)

void refuse_gpu_tensors() {}

#else

namespace {

void refuse(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack*) {
  TORCH_CHECK_NOT_IMPLEMENTED(
      false, op.schema().operator_name().name,
      ": input: got a tensor on a GPU, and this cnn_ext was ",
      "built without CUDA kernels. With a CUDA toolkit of torch's version type: ",
      "CNN_EXT_CUDA=1 pip install --no-build-isolation --force-reinstall --no-deps .");
}

}  // namespace

void refuse_gpu_tensors() {
  static torch::Library registrations(torch::Library::IMPL, "cnn_ext", c10::DispatchKey::CUDA,
                                      __FILE__, __LINE__);
  auto& dispatcher = c10::Dispatcher::singleton();
  for (const c10::OperatorName& name : dispatcher.getAllOpNames()) {
    if (name.getNamespace() != "cnn_ext") continue;
    const auto op = dispatcher.findOp(name);
    if (!op || !op->hasKernelForDispatchKey(c10::DispatchKey::CPU)) continue;
    // Or composed of other operations, which speak for themselves.
    const bool served = op->hasKernelForDispatchKey(c10::DispatchKey::CUDA) ||
                        op->hasKernelForDispatchKey(c10::DispatchKey::CompositeExplicitAutograd);
    if (!served) {
      registrations.impl(name.name.c_str(), torch::CppFunction::makeFromBoxedFunction<&refuse>());
    }
  }
}

#endif

}  // namespace cnn_ext
