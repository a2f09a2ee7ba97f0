#include "ops/torch.h"

#include "adapters.h"

#include "../../cpu/convolution/transpose/geometry.h"

namespace cnn_ext {
namespace {

template <typename T>
void transpose_maps_of(const Tensor& from, const Tensor& to, int64_t rows, int64_t columns) {
  constexpr int64_t kRows = 64;  // for a task
  const auto transpose = cpu::kernels<cpu::TransposeKernels<T>>().transpose_map;
  const T* const source = reinterpret_cast<const T*>(from.const_data_ptr());
  T* const target = reinterpret_cast<T*>(to.mutable_data_ptr());
  const int64_t stretches = cpu::divide_up(rows, kRows);
  at::parallel_for(0, from.size(0) * stretches, std::max<int64_t>(1, 65536 / (kRows * columns)),
                   [&](int64_t first, int64_t last) {
                     for (int64_t i = first; i < last; ++i) {
                       const int64_t n = i / stretches, row = i % stretches * kRows;
                       transpose(source + n * from.stride(0) + row * columns, columns,
                                 std::min(kRows, rows - row), columns,
                                 target + n * to.stride(0) + row, rows);
                     }
                   });
}

}  // namespace

void transpose_maps(const Tensor& from, const Tensor& to, int64_t rows, int64_t columns) {
  if (from.scalar_type() == at::kBFloat16) {
    return transpose_maps_of<cpu::BFloat16>(from, to, rows, columns);
  }
  AT_DISPATCH_FLOATING_TYPES(from.scalar_type(), "convolution",
                             [&] { transpose_maps_of<scalar_t>(from, to, rows, columns); });
}

}  // namespace cnn_ext
