// The table of the kernel that transposes maps between NCHW and channels_last.
#pragma once

#include "../../family.h"
#include "../problem.h"

namespace cnn_ext::cpu {

// X(slot, result, arguments), for an element type T.
#define CNN_EXT_TRANSPOSE_SLOTS(X) \
  X(transpose_map, void,           \
    (const T* from, int64_t from_row, int64_t rows, int64_t columns, T* to, int64_t to_row))

CNN_EXT_FAMILY(TransposeKernels, CNN_EXT_TRANSPOSE_SLOTS);

}  // namespace cnn_ext::cpu
