// Which kernel takes a task of local response normalisation. Included by isa/.
#pragma once

#include "columns.h"
#include "rows.h"
#include "slabs.h"

constexpr int64_t kFewFilters = 9;  // a window up to here is summed cell by cell

template <Power kPower, typename T>
void response_norm_with(const ResponseNorm<T>& p, int64_t first, int64_t last, T* workspace) {
  if constexpr (kPower != Power::other) {
    if (p.layout == NormLayout::maps && p.step[0] >= Vec<T>::kLanes) {
      if (p.size[0] == 3) return norm_columns<kPower, 3>(p, first, last);
      if (p.size[0] == 5) return norm_columns<kPower, 5>(p, first, last);
    }
    if (p.layout == NormLayout::pixels && p.size[0] <= kFewFilters) {
      return norm_rows<kPower>(p, first, last, workspace);
    }
  }
  if (p.grad_output == nullptr) {
    response_norm_slabs<kPower>(p, first, last, workspace);
  } else {
    response_norm_gradient_slabs<kPower>(p, first, last, workspace);
  }
}

// Slabs first <= i < last. workspace: 3 * p.buffer elements.
template <typename T>
void response_norm(const ResponseNorm<T>& p, int64_t first, int64_t last, T* workspace) {
  switch (p.power) {
    case Power::half:
      return response_norm_with<Power::half>(p, first, last, workspace);
    case Power::three_quarters:
      return response_norm_with<Power::three_quarters>(p, first, last, workspace);
    case Power::one:
      return response_norm_with<Power::one>(p, first, last, workspace);
    case Power::other:
      return response_norm_with<Power::other>(p, first, last, workspace);
  }
}
