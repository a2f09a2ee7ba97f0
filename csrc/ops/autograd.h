// What the autograd kernels of every operation share.
#pragma once

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/AutogradState.h>

#include <algorithm>
#include <initializer_list>

namespace cnn_ext {

// An operation by its name, to be called through the dispatcher.
template <typename Signature>
auto operation(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

// A forward-mode tangent that reaches an operation's own autograd kernel would be dropped without a
// word, and is refused.
inline void refuse_tangents(const char* op, std::initializer_list<const at::Tensor*> tensors) {
  if (!c10::AutogradState::get_tls_state().get_fw_grad_mode()) return;
  for (const at::Tensor* tensor : tensors) {
    TORCH_CHECK_NOT_IMPLEMENTED(
        !tensor->defined() || !tensor->_fw_grad(0).defined(), "torch.ops.cnn_ext.", op,
        " has no forward-mode derivative of its own, nor has compiled code: call "
        "cnn_ext.functional or the Function in cnn_ext.ops, outside torch.compile");
  }
}

// Whether a gradient is to be recorded.
inline bool records_gradient(const char* op, std::initializer_list<const at::Tensor*> tensors) {
  refuse_tangents(op, tensors);
  if (!at::GradMode::is_enabled()) return false;
  return std::any_of(tensors.begin(), tensors.end(), [](const at::Tensor* tensor) {
    return tensor->defined() && tensor->requires_grad();
  });
}

}  // namespace cnn_ext
