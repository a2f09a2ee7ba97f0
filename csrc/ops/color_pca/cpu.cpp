// Colour PCA on the CPU: the drivers. The arithmetic is in csrc/cpu/color_pca/; schemas, checks and
// derivatives are in color_pca.cpp.

#include "ops/torch.h"

#include "color_pca.h"
#include "../memory.h"
#include "../trace.h"

namespace cnn_ext {
namespace {

constexpr int64_t kPattern = 1024;                  // cells, at least where rows are that long
constexpr int64_t kBytesWorthAThread = 256 * 1024;  // of an image
constexpr int64_t kPixelsOfATask = 64 * 1024;       // in a sum of moments

// Cells of a pattern: whole cycles, and whole cache lines where the row is that long.
int64_t pattern_of(const cpu::ColorRows& rows) {
  const int64_t unit = rows.length < kPattern ? rows.cycle : 64 * rows.cycle;
  return (std::min(rows.length, kPattern) + unit - 1) / unit * unit;
}

// What one thread of several needs, `each` elements, in cache lines of its own.
struct Workspace {
  int64_t each;
  Tensor all;

  Workspace(int64_t elements, at::TensorOptions options)
      : each((elements + 63) / 64 * 64), all(at::empty({each * at::get_num_threads()}, options)) {}
  template <typename T>
  T* mine() const {
    return all.mutable_data_ptr<T>() + each * at::get_thread_num();
  }
};

// The values in double precision, without a tensor in between where they lie in order.
std::vector<double> values_of(const Tensor& tensor) {
  const Tensor t = tensor.contiguous();
  if (t.scalar_type() == at::kFloat) {
    const float* const from = t.const_data_ptr<float>();
    return {from, from + t.numel()};
  }
  const Tensor exact = t.to(at::kDouble);
  const double* const from = exact.const_data_ptr<double>();
  return {from, from + exact.numel()};
}

// eigenvectors @ (alphas * eigenvalues), in double precision: (images or 1, C).
std::vector<double> shifts_of(const Tensor& eigenvectors, const Tensor& eigenvalues,
                              const Tensor& alphas) {
  const std::vector<double> P = values_of(eigenvectors), scale = values_of(eigenvalues);
  std::vector<double> shifts = values_of(alphas);
  const size_t C = scale.size();
  std::vector<double> along(C);
  for (size_t n = 0; n < shifts.size(); n += C) {
    for (size_t k = 0; k < C; ++k) along[k] = shifts[n + k] * scale[k];
    for (size_t c = 0; c < C; ++c) {
      shifts[n + c] = 0;
      for (size_t k = 0; k < C; ++k) shifts[n + c] += P[c * C + k] * along[k];
    }
  }
  return shifts;
}

uint8_t rounded_byte(double value) {  // to nearest, ties to even; what is no number becomes 0
  return std::isnan(value) ? 0
                           : static_cast<uint8_t>(std::clamp(std::nearbyint(value), 0.0, 255.0));
}

// A sum within 2^-45 of a tie is rounded on to it.
bool is_near_tie(double shift) {
  const double by = 255 * shift;
  return std::abs(std::abs(by - std::nearbyint(by)) - 0.5) < 0x1p-40;
}

// What each shift makes of a byte: rounded_byte(byte + shift) as float64 has it. Near
// ties, where that depends on the byte, it is a table.
std::vector<cpu::ByteShift> byte_shifts(const std::vector<double>& shifts,
                                        std::vector<std::array<uint8_t, 256>>& tables) {
  std::vector<cpu::ByteShift> result;
  tables.reserve(std::count_if(shifts.begin(), shifts.end(), is_near_tie));  // pointers stay
  for (const double shift : shifts) {
    const double by = std::isnan(shift) ? -256 : std::clamp(255 * shift, -256.0, 256.0);
    const double nearest = std::nearbyint(by);
    cpu::ByteShift entry{static_cast<uint8_t>(std::clamp(nearest, 0.0, 255.0)),
                         static_cast<uint8_t>(std::clamp(-nearest, 0.0, 255.0)), nullptr};
    if (is_near_tie(shift)) {
      tables.emplace_back();
      for (int x = 0; x < 256; ++x) tables.back()[x] = rounded_byte(x + 255 * shift);
      entry.table = tables.back().data();
    }
    result.push_back(entry);
  }
  return result;
}

template <typename T, typename Shift, typename Kernel>
void add_shifts(const Tensor& input, Tensor& output, const std::vector<Shift>& shifts,
                int64_t workspace_patterns, Kernel kernel) {
  const bool pixels = is_pixels(output);
  const Tensor x = laid_out(input, pixels);
  const Tensor y = pixels || output.is_contiguous() ? output : at::empty(x.sizes(), x.options());
  cpu::ColorShift<T, Shift> p{};
  p.input = x.const_data_ptr<T>();
  p.output = y.mutable_data_ptr<T>();
  p.shifts = shifts.data();
  p.layout = rows_of(y, pixels);
  p.shift_rows = static_cast<int64_t>(shifts.size()) / p.layout.cycle;
  p.pattern = pattern_of(p.layout);
  p.block = p.pattern * std::max<int64_t>(1, 32 * kPattern / p.pattern);
  p.blocks = (p.layout.length + p.block - 1) / p.block;
  const int64_t tasks = p.layout.rows * p.blocks;
  const int64_t bytes_of_a_task = y.numel() * y.element_size() / tasks + 1;
  const Workspace workspace(workspace_patterns * p.pattern, y.options());
  at::parallel_for(
      0, tasks, kBytesWorthAThread / bytes_of_a_task + 1,
      [&](int64_t first, int64_t last) { kernel(p, first, last, workspace.mine<T>()); });
  if (!y.is_same(output)) output.copy_(y);
}

Tensor color_pca_cpu(const Tensor& input, const Tensor& eigenvectors, const Tensor& eigenvalues,
                     const Tensor& alphas) {
  Traced traced;
  trace(traced, "color_pca", "forward", "shift", input);
  Tensor output = check_color_pca(input, eigenvectors, eigenvalues, alphas);
  if (input.numel() == 0) return output;
  with_huge_pages(output);
  if (at::isReducedFloatingType(input.scalar_type())) {  // computed in float32, rounded once
    return output.copy_(color_pca_cpu(input.to(at::kFloat), eigenvectors, eigenvalues, alphas));
  }
  const std::vector<double> exact = shifts_of(eigenvectors, eigenvalues, alphas);
  if (input.scalar_type() == at::kByte) {
    std::vector<std::array<uint8_t, 256>> tables;
    const std::vector<cpu::ByteShift> shifts = byte_shifts(exact, tables);
    add_shifts<uint8_t>(input, output, shifts, 2,
                        cpu::kernels<cpu::ColorPCAKernels<float>>().add_shift_to_bytes);
    return output;
  }
  AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), "color_pca", [&] {
    const std::vector<scalar_t> shifts(exact.begin(), exact.end());
    add_shifts<scalar_t>(input, output, shifts, 1,
                         cpu::kernels<cpu::ColorPCAKernels<scalar_t>>().add_shift);
  });
  return output;
}

Tensor color_pca_shift_gradient_cpu(const Tensor& grad_output) {
  Traced traced;
  trace(traced, "color_pca", "shift_gradient", "sum", grad_output);
  Tensor result = check_shift_gradient(grad_output);
  if (grad_output.numel() == 0) return result.zero_();
  const bool pixels = is_pixels(grad_output);
  const Tensor g = laid_out(grad_output, pixels).to(result.scalar_type());
  const Tensor sums = at::empty(result.sizes(), result.options().dtype(at::kDouble));
  AT_DISPATCH_FLOATING_TYPES(g.scalar_type(), "color_pca_shift_gradient", [&] {
    cpu::ColorSums<scalar_t> p{};
    p.input = g.const_data_ptr<scalar_t>();
    p.sums = sums.mutable_data_ptr<double>();
    p.layout = rows_of(g, pixels);
    p.pattern = pattern_of(p.layout);
    const int64_t bytes_of_a_row = p.layout.length * g.element_size();
    const Workspace workspace(p.pattern, sums.options());
    at::parallel_for(0, p.layout.rows, kBytesWorthAThread / bytes_of_a_row + 1,
                     [&](int64_t first, int64_t last) {
                       cpu::kernels<cpu::ColorPCAKernels<scalar_t>>().sum_pixels(
                           p, first, last, workspace.mine<double>());
                     });
  });
  return result.copy_(sums);
}

// Fills a row of `found` for every task, in whatever order.
template <typename T, typename Sum, typename Cell, typename Kernel>
Tensor moments_of_tasks(const Tensor& x, bool pixels, int64_t more_workspace, Kernel kernel) {
  cpu::ColorMoments<T, Sum> p{};
  p.C = x.size(-3);
  p.pixels = x.size(-1) * x.size(-2);
  p.image_stride = p.C * p.pixels;
  p.channel_stride = pixels ? 1 : p.pixels;
  p.pixel_stride = pixels ? p.C : 1;
  p.chunk = std::min(p.pixels, kPixelsOfATask);
  p.chunks = (p.pixels + p.chunk - 1) / p.chunk;
  const int64_t tasks = x.numel() / p.image_stride * p.chunks;
  const Tensor found =
      at::empty({tasks, p.C + p.C * p.C}, x.options().dtype(c10::CppTypeToScalarType<Sum>::value));
  p.input = x.const_data_ptr<T>();
  p.found = found.mutable_data_ptr<Sum>();
  const int64_t pixels_worth_a_thread = kPixelsOfATask / 2 / p.C;
  const Workspace workspace(p.C * cpu::kMomentPixels + more_workspace,
                            x.options().dtype(c10::CppTypeToScalarType<Cell>::value));
  at::parallel_for(0, tasks, pixels_worth_a_thread / p.chunk + 1, [&](int64_t first, int64_t last) {
    kernel(p, first, last, workspace.mine<Cell>());
  });
  return found;
}

// The mean and the products around it of all pixels, from those of every task in their order.
void join_tasks(const Tensor& found, int64_t pixels_of_image, Tensor& mean, Tensor& products) {
  const int64_t C = mean.size(0);
  const Tensor joined = at::zeros({C + C * C}, mean.options());
  const int64_t chunk = std::min(pixels_of_image, kPixelsOfATask);
  double before = 0;
  for (int64_t task = 0, start = 0; task < found.size(0); ++task) {
    const auto count = static_cast<double>(std::min(chunk, pixels_of_image - start));
    const double* const from = found.const_data_ptr<double>() + task * (C + C * C);
    cpu::join_moments(C, before, count, from, from + C, joined.mutable_data_ptr<double>());
    before += count;
    start = start + chunk < pixels_of_image ? start + chunk : 0;
  }
  mean.copy_(joined.slice(0, 0, C));
  products.copy_(joined.slice(0, C).view({C, C}));
}

std::tuple<Tensor, Tensor> color_moments_cpu(const Tensor& input) {
  auto [first, second] = check_color_moments(input);
  if (input.numel() == 0) return {first.zero_(), second.zero_()};
  if (at::isReducedFloatingType(input.scalar_type()))
    return color_moments_cpu(input.to(at::kFloat));
  const bool pixels = is_pixels(input);
  const Tensor x = laid_out(input, pixels);
  const int64_t C = x.size(-3);
  if (x.scalar_type() == at::kByte) {
    const Tensor found = moments_of_tasks<uint8_t, int64_t, int16_t>(
        x, pixels, 0, cpu::kernels<cpu::ColorPCAKernels<float>>().byte_moments);
    const Tensor total = found.sum(0);
    first.copy_(total.slice(0, 0, C));
    second.copy_(total.slice(0, C).view({C, C}));
  } else {
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "color_moments", [&] {
      const Tensor found = moments_of_tasks<scalar_t, double, double>(
          x, pixels, C + C * C, cpu::kernels<cpu::ColorPCAKernels<scalar_t>>().color_moments);
      join_tasks(found, x.size(-1) * x.size(-2), first, second);
    });
  }
  return {first, second};
}

}  // namespace

TORCH_LIBRARY_IMPL(cnn_ext, CPU, m) {
  m.impl("color_pca", color_pca_cpu);
  m.impl("color_pca_shift_gradient", color_pca_shift_gradient_cpu);
  m.impl("color_moments", color_moments_cpu);
}

}  // namespace cnn_ext
