// unfold and fold on the CPU. Both are loops over memory: a copy of rows of cells, and a sum of
// them, which wait for memory whatever the instruction set. So there are no kernels for each.
//
// Letters: N batch, C channels, H x W image, R x S window, P x Q patches.

#include "ops/torch.h"

#include "../memory.h"
#include "../trace.h"
#include "unfold.h"

namespace cnn_ext {
namespace {

constexpr int64_t kElementsPerTask = 32768;  // worth a thread

struct Axis {
  int64_t cells, taps, dilation, padding, stride, patches;

  // The cell under a tap of a patch; outside of the image where it is padding.
  int64_t cell(int64_t patch, int64_t tap) const {
    return patch * stride - padding + tap * dilation;
  }
  // The patches whose tap lies inside the image.
  std::pair<int64_t, int64_t> inside(int64_t tap) const {
    const int64_t start = cell(0, tap);
    const int64_t first = start >= 0 ? 0 : (-start - 1) / stride + 1;
    const int64_t last = start >= cells ? 0 : (cells - 1 - start) / stride + 1;
    return {std::min(first, patches), std::clamp(last, std::min(first, patches), patches)};
  }
};

Axis axis_of(int axis, int64_t cells, SymIntArrayRef kernel_size, SymIntArrayRef dilation,
             SymIntArrayRef padding, SymIntArrayRef stride) {
  const auto of = [axis](SymIntArrayRef values) { return values[axis].expect_int(); };
  Axis a{cells, of(kernel_size), of(dilation), of(padding), of(stride), 0};
  a.patches = patches_along(a.cells, a.taps, a.dilation, a.padding, a.stride);
  return a;
}

// Row (n, c, r, s) of the columns holds one tap of every patch. T: any type of the element's size.
template <typename T>
void unfold_rows(const Tensor& input, const Axis& h, const Axis& w, const Tensor& output) {
  const auto* const image = static_cast<const T*>(input.const_data_ptr());
  auto* const columns = static_cast<T*>(output.mutable_data_ptr());
  const int64_t C = input.size(1), cells = h.patches * w.patches, step = input.stride(3);
  const auto unfold_row = [&](int64_t row) {
    const int64_t s = row % w.taps, r = row / w.taps % h.taps, map = row / (w.taps * h.taps);
    const T* const plane = image + map / C * input.stride(0) + map % C * input.stride(1);
    const auto [first, last] = w.inside(s);
    T* to = columns + row * cells;
    for (int64_t p = 0; p < h.patches; ++p, to += w.patches) {
      const int64_t y = h.cell(p, r);
      if (y < 0 || y >= h.cells || first == last) {
        std::fill_n(to, w.patches, T{});
        continue;
      }
      const T* const from = plane + y * input.stride(2) + w.cell(first, s) * step;
      std::fill_n(to, first, T{});
      for (int64_t q = first; q < last; ++q) to[q] = from[(q - first) * w.stride * step];
      std::fill(to + last, to + w.patches, T{});
    }
  };
  at::parallel_for(0, output.size(0) * output.size(1),
                   std::max<int64_t>(1, kElementsPerTask / cells), [&](int64_t begin, int64_t end) {
                     for (int64_t row = begin; row < end; ++row) unfold_row(row);
                   });
}

// Row (n, c, y) of the image is the sum of the taps that lie on it, in their order. (Not in a
// std::vector, whose bools are bits.)
template <typename T>
void fold_rows(const Tensor& input, const Axis& h, const Axis& w, const Tensor& output) {
  using Sum = at::opmath_type<T>;
  const T* const columns = input.const_data_ptr<T>();
  T* const image = output.mutable_data_ptr<T>();
  const int64_t C = output.size(1), step = input.stride(2);
  const auto add_row = [&](int64_t row, c10::SmallVector<Sum, 64>& sums) {
    const int64_t y = row % h.cells, map = row / h.cells;
    const T* const from = columns + map / C * input.stride(0);
    sums.assign(w.cells, Sum(0));
    for (int64_t r = 0; r < h.taps; ++r) {
      const int64_t at = y - h.cell(0, r);  // of the patch whose tap lies on this row
      if (at < 0 || at % h.stride != 0 || at / h.stride >= h.patches) continue;
      for (int64_t s = 0; s < w.taps; ++s) {
        const int64_t tap = (map % C * h.taps + r) * w.taps + s;
        const T* const cells = from + tap * input.stride(1) + at / h.stride * w.patches * step;
        const auto [first, last] = w.inside(s);
        for (int64_t q = first; q < last; ++q) {
          Sum& sum = sums[w.cell(q, s)];
          sum = sum + static_cast<Sum>(cells[q * step]);
        }
      }
    }
    std::copy(sums.begin(), sums.end(), image + row * w.cells);
  };
  const int64_t additions = h.taps * w.taps * w.patches;
  at::parallel_for(0, output.size(0) * C * h.cells,
                   std::max<int64_t>(1, kElementsPerTask / additions),
                   [&](int64_t begin, int64_t end) {
                     c10::SmallVector<Sum, 64> sums;
                     for (int64_t row = begin; row < end; ++row) add_row(row, sums);
                   });
}

Tensor unfold_cpu(const Tensor& input, SymIntArrayRef kernel_size, SymIntArrayRef dilation,
                  SymIntArrayRef padding, SymIntArrayRef stride) {
  const Tensor output = empty_columns(input, kernel_size, dilation, padding, stride);
  if (output.numel() == 0) return output;
  with_huge_pages(output);
  Traced traced;
  trace(traced, "unfold", "forward", "rows", input);
  const Axis h = axis_of(0, input.size(2), kernel_size, dilation, padding, stride);
  const Axis w = axis_of(1, input.size(3), kernel_size, dilation, padding, stride);
  switch (input.element_size()) {
    case 1:
      unfold_rows<uint8_t>(input, h, w, output);
      break;
    case 2:
      unfold_rows<uint16_t>(input, h, w, output);
      break;
    case 4:
      unfold_rows<uint32_t>(input, h, w, output);
      break;
    case 8:
      unfold_rows<uint64_t>(input, h, w, output);
      break;
    default:
      TORCH_INTERNAL_ASSERT(input.element_size() == 16);
      unfold_rows<std::array<uint64_t, 2>>(input, h, w, output);
  }
  return output;
}

Tensor fold_cpu(const Tensor& input, SymIntArrayRef output_size, SymIntArrayRef kernel_size,
                SymIntArrayRef dilation, SymIntArrayRef padding, SymIntArrayRef stride) {
  const Tensor output = empty_image(input, output_size, kernel_size, dilation, padding, stride);
  if (output.numel() == 0) return output;
  with_huge_pages(output);
  Traced traced;
  trace(traced, "fold", "forward", "rows", input);
  const Axis h = axis_of(0, output.size(2), kernel_size, dilation, padding, stride);
  const Axis w = axis_of(1, output.size(3), kernel_size, dilation, padding, stride);
  AT_DISPATCH_ALL_TYPES_AND_COMPLEX_AND3(at::kHalf, at::kBFloat16, at::kBool, input.scalar_type(),
                                         "fold", [&] { fold_rows<scalar_t>(input, h, w, output); });
  return output;
}

}  // namespace

TORCH_LIBRARY_IMPL(cnn_ext, CPU, m) {
  m.impl("unfold", unfold_cpu);
  m.impl("fold", fold_cpu);
}

}  // namespace cnn_ext
