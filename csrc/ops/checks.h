// Checks that operations share.
#pragma once

#include <ATen/ATen.h>

namespace cnn_ext {

// `other` must have the dtype and the device of `reference`, which must be floating point or
// complex.
inline void check_same_kind(const char* op, const char* name, const at::Tensor& reference,
                            const char* other, const at::Tensor& tensor) {
  TORCH_CHECK(at::isFloatingType(reference.scalar_type()) || reference.is_complex(), op, ": ", name,
              ": expected a floating-point or complex dtype, got ", reference.scalar_type());
  TORCH_CHECK(tensor.scalar_type() == reference.scalar_type(), op, ": ", other, ": expected ",
              reference.scalar_type(), ", the dtype of ", name, ", got ", tensor.scalar_type());
  TORCH_CHECK(tensor.device() == reference.device(), op, ": ", other, ": expected a tensor on ",
              reference.device(), ", the device of ", name, ", got one on ", tensor.device());
}

}  // namespace cnn_ext
