// Maps between NCHW and channels_last. Included by isa/ (see vec.h).
#pragma once

#include "../pack.h"

// to[j * to_row + i] = from[i * from_row + j] for i < rows and j < columns.
template <typename T>
void transpose_map(const T* from, int64_t from_row, int64_t rows, int64_t columns, T* to,
                   int64_t to_row) {
  transpose(from, 1, from_row, columns, rows, to, to_row);
}
