// Colour PCA: one colour added to every pixel of an image, the gradient of that colour, and the
// moments of which the principal components are made. Schemas, argument checks, CPU driver,
// derivatives; the arithmetic is in csrc/cpu/color_pca/, the mathematics in docs/color_pca.md.

#include <ATen/ATen.h>
#include <ATen/OpMathType.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <array>
#include <vector>

#include "../cpu/kernels.h"

namespace cnn_ext {
namespace {

using at::Tensor;
using c10::SymInt;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// ------------------------------------------------------------------------------ argument checks

bool is_image_type(at::ScalarType type) { return type == at::kByte || at::isFloatingType(type); }

void check_image(const char* op, const char* name, const Tensor& image) {
  TORCH_CHECK(image.dim() >= 3, op, ": ", name,
              ": expected at least 3 dimensions, (..., C, H, W), ", "got shape ",
              image.sym_sizes());
}

void check_parameter(const char* name, const Tensor& tensor, const Tensor& input) {
  constexpr auto op = "color_pca";
  TORCH_CHECK(at::isFloatingType(tensor.scalar_type()), op, ": ", name,
              ": expected a floating-point dtype, got ", tensor.scalar_type());
  TORCH_CHECK(tensor.device() == input.device(), op, ": ", name, ": expected a tensor on ",
              input.device(), ", the device of input, got one on ", tensor.device());
}

// The still empty result.
Tensor check_color_pca(const Tensor& input, const Tensor& eigenvectors, const Tensor& eigenvalues,
                       const Tensor& alphas) {
  constexpr auto op = "color_pca";
  TORCH_CHECK(is_image_type(input.scalar_type()), op,
              ": input: expected uint8 or a floating-point dtype, got ", input.scalar_type());
  check_image(op, "input", input);
  check_parameter("eigenvectors", eigenvectors, input);
  check_parameter("eigenvalues", eigenvalues, input);
  check_parameter("alphas", alphas, input);
  const SymInt C = input.sym_size(-3);
  const c10::SymDimVector square = {C, C};
  TORCH_CHECK(eigenvectors.sym_sizes().equals(square), op, ": eigenvectors: expected shape [", C,
              ", ", C, "], one column for each of the input's channels, got ",
              eigenvectors.sym_sizes());
  TORCH_CHECK(eigenvalues.dim() == 1 && eigenvalues.sym_size(0) == C, op,
              ": eigenvalues: expected shape [", C, "], one for each channel of input, got ",
              eigenvalues.sym_sizes());
  c10::SymDimVector rows(input.sym_sizes().begin(), input.sym_sizes().end() - 3);
  rows.push_back(C);
  TORCH_CHECK(alphas.sym_sizes().equals(rows) || (alphas.dim() == 1 && alphas.sym_size(0) == C), op,
              ": alphas: expected shape [", C, "], or ", c10::SymIntArrayRef(rows),
              ", one row for each image, got ", alphas.sym_sizes());
  return at::empty_like(input);
}

Tensor check_shift_gradient(const Tensor& grad_output) {
  constexpr auto op = "color_pca_shift_gradient";
  TORCH_CHECK(at::isFloatingType(grad_output.scalar_type()), op,
              ": grad_output: expected a floating-point dtype, got ", grad_output.scalar_type());
  check_image(op, "grad_output", grad_output);
  const auto sizes = grad_output.sym_sizes();
  const auto type = at::toOpMathType(grad_output.scalar_type());
  return at::empty_symint(sizes.slice(0, sizes.size() - 2), grad_output.options().dtype(type));
}

// Both results, still empty: (C,) and (C, C).
std::tuple<Tensor, Tensor> check_color_moments(const Tensor& input) {
  constexpr auto op = "color_moments";
  const auto type = input.scalar_type();
  TORCH_CHECK(is_image_type(type), op, ": input: expected uint8 or a floating-point dtype, got ",
              type);
  check_image(op, "input", input);
  const SymInt C = input.sym_size(-3);
  const auto options = input.options().dtype(type == at::kByte ? at::kLong : at::kDouble);
  return {at::empty_symint({C}, options), at::empty_symint({C, C}, options)};
}

// ----------------------------------------------------------------------------------- CPU driver

constexpr int64_t kPattern = 1024;                  // cells, at least where rows are that long
constexpr int64_t kBytesWorthAThread = 256 * 1024;  // of an image
constexpr int64_t kPixelsOfATask = 64 * 1024;       // in a sum of moments

// Whether the channels of a pixel lie together in a dense image, (..., H, W, C) in memory. Where it
// is read as planes just as well, planes are meant, unless they are single pixels.
bool is_pixels(const Tensor& image) {
  const int64_t axes = image.dim();
  int64_t expected = 1;
  for (int64_t i = 0; i < axes; ++i) {  // C, W, H, then outwards
    const int64_t axis = i < 3 ? axes - (i + 2) % 3 - 1 : axes - i - 1;
    if (image.size(axis) != 1 && image.stride(axis) != expected) return false;
    expected *= image.size(axis);
  }
  return !image.is_contiguous() || image.size(-1) * image.size(-2) == 1;
}

// The same values as `image`, in one of the two layouts that the kernels know.
Tensor laid_out(const Tensor& image, bool pixels) {
  if (!pixels || is_pixels(image)) return pixels ? image : image.contiguous();
  return image.movedim(-3, -1).contiguous().movedim(-1, -3);
}

cpu::ColorRows rows_of(const Tensor& image, bool pixels) {
  const int64_t C = image.size(-3), cells = image.numel();
  const int64_t pixels_of_image = image.size(-1) * image.size(-2);
  const int64_t length = pixels ? C * pixels_of_image : pixels_of_image;
  return {cells / length, length, pixels ? C : 1};
}

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
  Tensor output = check_color_pca(input, eigenvectors, eigenvalues, alphas);
  if (input.numel() == 0) return output;
  if (at::isReducedFloatingType(input.scalar_type())) {  // computed in float32, rounded once
    return output.copy_(color_pca_cpu(input.to(at::kFloat), eigenvectors, eigenvalues, alphas));
  }
  const std::vector<double> exact = shifts_of(eigenvectors, eigenvalues, alphas);
  if (input.scalar_type() == at::kByte) {
    std::vector<std::array<uint8_t, 256>> tables;
    const std::vector<cpu::ByteShift> shifts = byte_shifts(exact, tables);
    add_shifts<uint8_t>(input, output, shifts, 2, cpu::kernels<float>().add_shift_to_bytes);
    return output;
  }
  AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), "color_pca", [&] {
    const std::vector<scalar_t> shifts(exact.begin(), exact.end());
    add_shifts<scalar_t>(input, output, shifts, 1, cpu::kernels<scalar_t>().add_shift);
  });
  return output;
}

Tensor color_pca_shift_gradient_cpu(const Tensor& grad_output) {
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
                       cpu::kernels<scalar_t>().sum_pixels(p, first, last,
                                                           workspace.mine<double>());
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
        x, pixels, 0, cpu::kernels<float>().byte_moments);
    const Tensor total = found.sum(0);
    first.copy_(total.slice(0, 0, C));
    second.copy_(total.slice(0, C).view({C, C}));
  } else {
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "color_moments", [&] {
      const Tensor found = moments_of_tasks<scalar_t, double, double>(
          x, pixels, C + C * C, cpu::kernels<scalar_t>().color_moments);
      join_tasks(found, x.size(-1) * x.size(-2), first, second);
    });
  }
  return {first, second};
}

// ---------------------------------------------------------------------------------- derivatives

Tensor call_color_pca(const Tensor& input, const Tensor& eigenvectors, const Tensor& eigenvalues,
                      const Tensor& alphas) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("cnn_ext::color_pca", "")
                             .typed<decltype(color_pca_cpu)>();
  return op.call(input, eigenvectors, eigenvalues, alphas);
}

Tensor call_shift_gradient(const Tensor& grad_output) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("cnn_ext::color_pca_shift_gradient", "")
                             .typed<decltype(color_pca_shift_gradient_cpu)>();
  return op.call(grad_output);
}

// (..., C) as a matrix.
Tensor as_rows(const Tensor& t) {
  const auto sizes = t.sym_sizes();
  return t.reshape_symint({c10::multiply_integers(sizes.begin(), sizes.end() - 1), t.sym_size(-1)});
}

// The shift is P (a * l) with P the eigenvectors; with s its gradient,
//   dL/da = (P' s) * l,   dL/dl = sum over images (P' s) * a,   dL/dP = sum s (a * l)'.
struct ColorPCANode : torch::autograd::Function<ColorPCANode> {
  static constexpr bool is_traceable = true;

  static Tensor forward(AutogradContext* context, const Tensor& input, const Tensor& eigenvectors,
                        const Tensor& eigenvalues, const Tensor& alphas) {
    at::AutoDispatchBelowADInplaceOrView below;
    context->save_for_backward({eigenvectors, eigenvalues, alphas});
    return call_color_pca(input, eigenvectors, eigenvalues, alphas);
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    variable_list result(4);
    if (!grads[0].defined()) return result;
    result[0] = grads[0];
    const auto saved = context->get_saved_variables();
    if (!context->needs_input_grad(1) && !context->needs_input_grad(2) &&
        !context->needs_input_grad(3)) {
      return result;
    }
    const Tensor P = saved[0].to(at::kDouble), l = saved[1].to(at::kDouble);
    const Tensor a = saved[2].to(at::kDouble);
    Tensor s = call_shift_gradient(grads[0]).to(at::kDouble);
    if (a.dim() < s.dim()) s = as_rows(s).sum(0);
    const Tensor along = s.matmul(P);
    if (context->needs_input_grad(1)) {
      result[1] = as_rows(s).t().matmul(as_rows(a * l)).to(saved[0].scalar_type());
    }
    if (context->needs_input_grad(2)) {
      result[2] = as_rows(along * a).sum(0).to(saved[1].scalar_type());
    }
    if (context->needs_input_grad(3)) result[3] = (along * l).to(saved[2].scalar_type());
    return result;
  }
};

struct ShiftGradientNode : torch::autograd::Function<ShiftGradientNode> {
  static constexpr bool is_traceable = true;

  static Tensor forward(AutogradContext* context, const Tensor& grad_output) {
    at::AutoDispatchBelowADInplaceOrView below;
    context->saved_data["size"] = grad_output.sym_sizes();
    context->saved_data["dtype"] = grad_output.scalar_type();
    return call_shift_gradient(grad_output);
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    if (!grads[0].defined()) return variable_list(1);
    return {grads[0]
                .to(context->saved_data["dtype"].toScalarType())
                .unsqueeze(-1)
                .unsqueeze(-1)
                .expand_symint(context->saved_data["size"].toSymIntVector())};
  }
};

// Whether a gradient is to be recorded. A forward-mode tangent that reached this far would be
// dropped without a word, and is refused.
bool records_gradient(const char* op, std::initializer_list<const Tensor*> tensors) {
  const bool forward_mode = c10::AutogradState::get_tls_state().get_fw_grad_mode();
  bool required = false;
  for (const Tensor* tensor : tensors) {
    TORCH_CHECK_NOT_IMPLEMENTED(
        !forward_mode || !tensor->_fw_grad(0).defined(), "torch.ops.cnn_ext.", op,
        " has no forward-mode derivative of its own, nor has compiled code: call "
        "cnn_ext.functional or the Function in cnn_ext.ops, outside torch.compile");
    required = required || tensor->requires_grad();
  }
  return required && at::GradMode::is_enabled();
}

// Rounded to bytes, the image has no derivative in anything.
Tensor color_pca_autograd(const Tensor& input, const Tensor& eigenvectors,
                          const Tensor& eigenvalues, const Tensor& alphas) {
  if (records_gradient("color_pca", {&input, &eigenvectors, &eigenvalues, &alphas}) &&
      at::isFloatingType(input.scalar_type())) {
    return ColorPCANode::apply(input, eigenvectors, eigenvalues, alphas);
  }
  at::AutoDispatchBelowADInplaceOrView below;
  return call_color_pca(input, eigenvectors, eigenvalues, alphas);
}

Tensor color_pca_shift_gradient_autograd(const Tensor& grad_output) {
  if (records_gradient("color_pca_shift_gradient", {&grad_output})) {
    return ShiftGradientNode::apply(grad_output);
  }
  at::AutoDispatchBelowADInplaceOrView below;
  return call_shift_gradient(grad_output);
}

std::tuple<Tensor, Tensor> color_moments_autograd(const Tensor& input) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("cnn_ext::color_moments", "")
                             .typed<decltype(color_moments_cpu)>();
  TORCH_CHECK_NOT_IMPLEMENTED(!records_gradient("color_moments", {&input}),
                              "color_moments: input: expected one that requires no gradient, for "
                              "moments have no derivative here; call it with input.detach()");
  at::AutoDispatchBelowADInplaceOrView below;
  return op.call(input);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(cnn_ext, m) {
  m.def(
      "color_pca(Tensor input, Tensor eigenvectors, Tensor eigenvalues, Tensor alphas) -> Tensor");
  m.def("color_pca_shift_gradient(Tensor grad_output) -> Tensor");
  m.def("color_moments(Tensor input) -> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(cnn_ext, CPU, m) {
  m.impl("color_pca", color_pca_cpu);
  m.impl("color_pca_shift_gradient", color_pca_shift_gradient_cpu);
  m.impl("color_moments", color_moments_cpu);
}

TORCH_LIBRARY_IMPL(cnn_ext, Meta, m) {
  m.impl("color_pca", check_color_pca);
  m.impl("color_pca_shift_gradient", check_shift_gradient);
  m.impl("color_moments", check_color_moments);
}

TORCH_LIBRARY_IMPL(cnn_ext, Autograd, m) {
  m.impl("color_pca", color_pca_autograd);
  m.impl("color_pca_shift_gradient", color_pca_shift_gradient_autograd);
  m.impl("color_moments", color_moments_autograd);
}

}  // namespace cnn_ext
