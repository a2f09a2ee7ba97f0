#include "ops/torch.h"

#include "bfloat16.h"

#include "../../cpu/convolution/pairs/geometry.h"
#include "../../cpu/convolution/phases.h"
#include "../../cpu/convolution/simplify.h"
#include "drivers.h"
#include "tasks.h"

namespace cnn_ext {
namespace {

using cpu::BFloat16;
using cpu::Pair;

const BFloat16* bits(const Tensor& t) {
  return reinterpret_cast<const BFloat16*>(t.const_data_ptr<at::BFloat16>());
}
BFloat16* mutable_bits(const Tensor& t) {
  return reinterpret_cast<BFloat16*>(t.mutable_data_ptr<at::BFloat16>());
}

struct Axis {
  int64_t size;
  int64_t* step;  // of bfloat16, and then of pairs
};
constexpr int kAxes = cpu::Pairing::kAxes;
using Axes = std::array<Axis, kAxes>;

// Whether neighbouring channels already lie in memory as pairs.
bool paired(const BFloat16* from, const Axes& axes, const Axis& channels) {
  if (channels.size % 2 != 0 || *channels.step != 1) return false;
  const bool even = std::all_of(axes.begin(), axes.end(), [](const Axis& axis) {
    return axis.size == 1 || *axis.step % 2 == 0;
  });
  return even && reinterpret_cast<uintptr_t>(from) % sizeof(Pair) == 0;
}

void pair_channels(const cpu::Pairing& p) {
  const int64_t row = std::max<int64_t>(p.size[kAxes - 1], 1);
  at::parallel_for(0, p.rows(), std::max<int64_t>(1, 32768 / row), [&](int64_t begin, int64_t end) {
    cpu::kernels<cpu::PairsKernels<Pair>>().pair_channels(p, begin, end);
  });
}

// The pairs of a tensor's channels, in the order of its axes in memory; `axes` and `channels` come
// to hold their steps. `memory` holds them, unless they are there already.
const Pair* pair_up(const BFloat16* from, const Axes& axes, const Axis& channels,
                    const Tensor& like, Tensor& memory) {
  if (paired(from, axes, channels)) {
    for (const Axis& axis : axes) *axis.step /= 2;
    return reinterpret_cast<const Pair*>(from);
  }
  std::array<Axis, kAxes + 1> order;
  std::copy(axes.begin(), axes.end(), order.begin());
  order[kAxes] = {cpu::divide_up(channels.size, 2), channels.step};
  std::stable_sort(order.begin(), order.end(), [](const Axis& a, const Axis& b) {
    return std::abs(*a.step) > std::abs(*b.step);
  });
  // Axes that follow one another evenly are one.
  cpu::Pairing p{};
  std::fill_n(p.size, kAxes, 1);
  p.channels = channels.size;
  p.from_channel = *channels.step;
  int64_t step = 1;
  int last = kAxes;
  bool apart = true;
  for (auto axis = order.rbegin(); axis != order.rend(); ++axis) {
    const int64_t from_step = *axis->step, size = axis->size;
    *axis->step = step;
    if (axis->step == channels.step) {
      p.to_pair = step;
      apart = true;
    } else if (size > 1) {
      if (!apart && from_step == p.size[last] * p.from_step[last]) {
        p.size[last] *= size;
      } else {
        --last;
        p.size[last] = size;
        p.from_step[last] = from_step;
        p.to_step[last] = step;
      }
      apart = false;
    }
    step *= size;
  }
  memory = empty_of<Pair>(step, like);
  p.from = from;
  p.to = memory.mutable_data_ptr<Pair>();
  pair_channels(p);
  return p.to;
}

const Pair* pair_filters(const Tensor& weight, cpu::Convolution& c, int64_t filters,
                         int64_t channels, int64_t* filter_step, int64_t* channel_step,
                         Tensor& memory) {
  auto& s = c.weight;
  return pair_up(bits(weight),
                 {{{c.G, &s.g},
                   {filters, filter_step},
                   {c.filter[0], &s.spatial[0]},
                   {c.filter[1], &s.spatial[1]},
                   {c.filter[2], &s.spatial[2]}}},
                 {channels, channel_step}, weight, memory);
}

// f(their pairs, the first, how many) for some images at a time; `strides` become those of pairs.
template <typename F>
void each_paired(const Tensor& map, int64_t N, int64_t G, int64_t channels, const int64_t* spatial,
                 cpu::FeatureMapStrides& strides, const F& f) {
  const BFloat16* const from = bits(map);
  const cpu::FeatureMapStrides of_map = strides;
  const auto axes = [&](int64_t images) -> Axes {
    return {{{images, &strides.n},
             {G, &strides.g},
             {spatial[0], &strides.spatial[0]},
             {spatial[1], &strides.spatial[1]},
             {spatial[2], &strides.spatial[2]}}};
  };
  const int64_t image = G * cpu::divide_up(channels, 2) * spatial[0] * spatial[1] * spatial[2];
  const bool there = paired(from, axes(N), {channels, &strides.c});
  const int64_t images = there ? N : std::clamp<int64_t>(cpu::kPairMemory / image, 1, N);
  for (int64_t first = 0; first < N; first += images) {
    const int64_t here = std::min(images, N - first);
    Tensor pairs;
    strides = of_map;
    f(pair_up(from + first * of_map.n, axes(here), {channels, &strides.c}, map, pairs), first,
      here);
  }
}

// With the padding beside them, some images at a time, a row of a window is one stretch of memory:
// the channels of one tap, which those of the next pixel overlap.
void convolve_rows(const cpu::Convolution& shape, const Tensor& input, const Tensor& weight,
                   const float* bias, BFloat16* output, const Tensor& like) {
  cpu::Convolution c = shape;
  const int64_t pairs = cpu::divide_up(c.C, 2);
  const Tensor innermost = weight.movedim(1, -1).contiguous();
  c.weight = {0, c.taps() * c.C, 1, {c.filter[1] * c.filter[2] * c.C, c.filter[2] * c.C, c.C}};
  Tensor filters;
  const Pair* const w = pair_filters(innermost, c, c.K, c.C, &c.weight.k, &c.weight.c, filters);

  cpu::Pairing p{};
  p.channels = c.C;
  p.from_channel = p.to_pair = p.size[1] = 1;
  int64_t image = pairs, corner = 0;
  for (int axis = cpu::kSpatial - 1; axis >= 0; --axis) {
    const int64_t reach = (c.filter[axis] - 1) * c.dilation[axis];
    const int64_t padded = (c.out[axis] - 1) * c.stride[axis] + reach + 1;
    p.size[axis + 2] = std::clamp<int64_t>(padded - c.padding[axis], 0, c.in[axis]);
    p.from_step[axis + 2] = c.input.spatial[axis];
    p.to_step[axis + 2] = c.input.spatial[axis] = image;
    corner += c.padding[axis] * image;
    c.in[axis] = padded;
    c.padding[axis] = 0;
    image *= padded;
  }
  p.from_step[0] = c.input.n;
  p.to_step[0] = c.input.n = image;
  c.C = c.filter[2] * pairs;
  c.filter[2] = 1;
  const int64_t images = std::clamp<int64_t>(cpu::kPairMemory / image, 1, c.N);
  for (int64_t first = 0; first < shape.N; first += images) {
    c.N = p.size[0] = std::min(images, shape.N - first);
    const Tensor padded = empty_of<Pair>(c.N * image, like).zero_();
    Pair* const from = padded.mutable_data_ptr<Pair>();
    p.from = bits(input) + first * p.from_step[0];
    p.to = from + corner;
    pair_channels(p);
    implicit_gemm<Pair>(c, false, from, w, bias, output + first * c.output.n, like);
  }
}

}  // namespace

void convolution_bfloat16(const cpu::Convolution& shape, cpu::Step step, const Tensor& input,
                          const Tensor& weight, const std::optional<Tensor>& bias,
                          const Tensor& output) {
  cpu::Convolution c = shape;
  Tensor filters, floats;
  if (bias.has_value()) floats = bias->to(at::kFloat).contiguous();
  const float* const b = bias.has_value() ? floats.const_data_ptr<float>() : nullptr;
  BFloat16* const to = mutable_bits(output);
  if (step.split == cpu::Split::padded_rows) return convolve_rows(c, input, weight, b, to, output);
  const Pair* const w = pair_filters(weight, c, c.K, c.C, &c.weight.k, &c.weight.c, filters);
  c.C = cpu::divide_up(c.C, 2);
  each_paired(input, c.N, c.G, shape.C, c.in, c.input,
              [&](const Pair* from, int64_t first, int64_t images) {
                c.N = images;
                implicit_gemm<Pair>(c, step.split == cpu::Split::regions, from, w, b,
                                    to + first * c.output.n, output);
              });
}

void input_gradient_bfloat16(const cpu::Convolution& shape, const std::vector<cpu::Step>& phases,
                             const Tensor& grad_output, const Tensor& weight,
                             const Tensor& grad_input) {
  cpu::Convolution c = shape;
  Tensor filters;
  const Pair* const w = pair_filters(weight, c, c.C, c.K, &c.weight.c, &c.weight.k, filters);
  c.K = cpu::divide_up(c.K, 2);
  BFloat16* const to = mutable_bits(grad_input);
  if (!phases_cover(c)) grad_input.zero_();
  each_paired(grad_output, c.N, c.G, shape.K, c.out, c.output,
              [&](const Pair* from, int64_t first, int64_t images) {
                c.N = images;
                auto step = phases.begin();
                each_phase(simplify(c, true), [&](const auto& phase, auto filter, auto cells) {
                  const bool regions = step++->split == cpu::Split::regions;
                  implicit_gemm<Pair>(phase, regions, from, w + filter, nullptr,
                                      to + first * c.input.n + cells, grad_input);
                });
              });
}

void depthwise_bfloat16(const cpu::Convolution& shape, bool gradient, const Tensor& input,
                        const Tensor& weight, const std::optional<Tensor>& bias,
                        const Tensor& output) {
  Tensor floats;
  if (bias.has_value()) floats = bias->to(at::kFloat).contiguous();
  const float* const b = bias.has_value() ? floats.const_data_ptr<float>() : nullptr;
  depthwise<BFloat16>(shape, gradient, bits(input), bits(weight), b, mutable_bits(output), output);
}

namespace {

// grad_weight = f(a result in float32), rounded once.
template <typename F>
void rounded_sums(const Tensor& grad_weight, const F& f) {
  const Tensor sums = at::empty_like(grad_weight, grad_weight.options().dtype(at::kFloat));
  TORCH_INTERNAL_ASSERT(sums.strides() == grad_weight.strides());  // which a shape has
  f(sums);
  grad_weight.copy_(sums);
}

}  // namespace

void weight_gradient_bfloat16(const cpu::Convolution& shape, bool by_taps,
                              const Tensor& grad_output, const Tensor& input,
                              const Tensor& grad_weight) {
  rounded_sums(grad_weight, [&](const Tensor& sums) {
    implicit_gemm_weight_gradient<Pair>(shape, by_taps, bits(grad_output), bits(input), sums);
  });
}

void depthwise_weight_gradient_bfloat16(const cpu::Convolution& shape, const Tensor& grad_output,
                                        const Tensor& input, const Tensor& grad_weight) {
  rounded_sums(grad_weight, [&](const Tensor& sums) {
    depthwise_weight_gradient<BFloat16>(shape, bits(grad_output), bits(input), sums);
  });
}

}  // namespace cnn_ext
