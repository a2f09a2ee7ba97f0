// Convolution and its gradients on the CPU: the drivers, which choose an algorithm, cut the work
// into tasks and hand them to threads. The arithmetic is in csrc/cpu/convolution/; schemas and
// checks are in convolution.cpp.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include "../../cpu/convolution/transpose/geometry.h"
#include "convolution.h"
#include "bfloat16.h"
#include "gemm.h"
#include "shape.h"
#include "../memory.h"

namespace cnn_ext {
namespace {

using cpu::kSpatial;

void check_direct(const cpu::Convolution& shape) {
  TORCH_CHECK(cpu::direct_serves(shape), "convolution: algorithm: \"direct\" copies whole rows of ",
              "the input to a band in the cache, and those of one channel would take ",
              cpu::least_band(shape), " elements here, where at most ", cpu::kMostBand,
              " are allowed; use \"auto\"");
}

template <typename T>
void direct(const cpu::Convolution& shape, const T* input, const T* weight, const T* bias,
            T* output, const Tensor& like) {
  check_direct(shape);
  const auto& kernels = cpu::kernels<cpu::BandKernels<T>>();
  const int64_t threads = threads_for(shape);
  const cpu::Band band = kernels.plan_band(shape);
  const Tensor packed = at::empty({kernels.band_filters(shape, band)}, like.options());
  const cpu::ConvolutionForward<T> p{shape, input, weight, bias, packed.mutable_data_ptr<T>(),
                                     output};
  for (int64_t g = 0; g < shape.G; ++g) kernels.pack_band_filters(p, band, g);
  run_tasks<T>(band.tasks(shape), threads, kernels.band_workspace(band), like,
               [&](int64_t first, int64_t last, T* workspace) {
                 kernels.convolve_bands(p, band, first, last, workspace);
               });
}

// Winograd, in one of two ways. Where tiles are many and transformed filters small, each thread
// carries small blocks of tiles of its own from input to output. Otherwise the threads share one
// large block. Filters are transformed once if there are several blocks and, where these are
// shared, the cache holds them; if not, each thread transforms them as it needs them.
struct WinogradCut {
  cpu::Winograd plan;
  bool shared;
};

constexpr int64_t kOwnBlock = 28;             // tiles
constexpr int64_t kLeastShared = 56;          // tiles: each block reads or makes all filters
constexpr int64_t kOwnFilters = 1 << 20;      // elements, transformed
constexpr int64_t kKeptFilters = 1 << 22;     // elements: read again for every shared block
constexpr int64_t kPhaseMemory = 1 << 20;     // elements of images by phases, per thread
constexpr int64_t kWinogradMemory = 1 << 20;  // elements of a shared block, per thread
constexpr int64_t kGradientMemory = 7 << 18;  // of a weight gradient's, best without any other

template <typename T>
WinogradCut cut_winograd(const cpu::Convolution& shape, int64_t threads, bool weight_gradient) {
  const auto plan = [&](int64_t tiles) {
    return cpu::kernels<cpu::WinogradKernels<T>>().plan_winograd(shape, tiles, threads,
                                                                 weight_gradient);
  };
  WinogradCut cut{plan(weight_gradient ? 2 * kOwnBlock : kOwnBlock), false};
  const int64_t filters = cpu::kTileCells * shape.C * shape.K;
  if (filters <= kOwnFilters && cut.plan.blocks * shape.G >= threads) return cut;
  const int64_t memory = (weight_gradient ? kGradientMemory : kWinogradMemory) * threads;
  const int64_t most = memory / (cpu::kTileCells * (shape.C + 64 * threads));
  return {plan(std::max(most, kLeastShared)), true};
}

// f(first, last) over 0 <= i < count on at most `threads` threads.
template <typename F>
void share(int64_t threads, int64_t count, const F& f) {
  if (threads == 1) return f(int64_t{0}, count);
  at::parallel_for(0, count, std::max<int64_t>((count + threads - 1) / threads, 1), f);
}

// The transformed input tiles of a block.
template <typename T>
void spread_tiles(const cpu::Convolution& shape, const cpu::Winograd& plan, const T* input,
                  int64_t g, int64_t block, int64_t threads, T* tiles) {
  const auto& kernels = cpu::kernels<cpu::WinogradKernels<T>>();
  const T* const from = input + g * shape.input.g;
  share(threads, kernels.vectors(shape.C), [&](int64_t first, int64_t last) {
    kernels.winograd_input(shape, plan, from, block, first, last, tiles);
  });
}

// `frozen`: filters that winograd_filters_cpu transformed before, or null.
template <typename T>
void winograd(const cpu::Convolution& shape, const T* input, const T* weight, const T* bias,
              T* output, const Tensor& like, const T* frozen = nullptr) {
  const auto& kernels = cpu::kernels<cpu::WinogradKernels<T>>();
  const int64_t threads = threads_for(shape);
  const auto [plan, shared] = cut_winograd<T>(shape, threads, false);
  const int64_t panels = shape.G * plan.panels;
  // The kernels here only read p.filters; winograd_filters alone writes.
  cpu::WinogradForward<T> p{shape, plan, input, weight, bias, const_cast<T*>(frozen), output};
  Tensor filters;
  const int64_t filters_size = panels * cpu::kTileCells * plan.filter_cell;
  const bool kept = plan.blocks > 1 && (!shared || filters_size <= kKeptFilters);
  if (kept && frozen == nullptr) {
    filters = at::empty({filters_size}, like.options());
    p.filters = filters.mutable_data_ptr<T>();
    share(threads, panels,
          [&](int64_t first, int64_t last) { kernels.winograd_filters(p, first, last); });
  }

  const int64_t tiles_size = cpu::kTileCells * plan.channel_cell;
  const int64_t each = (kernels.winograd_workspace(plan) + 15) / 16 * 16;
  if (shared) {
    const int64_t working = std::min(threads, plan.panels);
    const Tensor memory = with_huge_pages(at::empty({tiles_size + working * each}, like.options()));
    T* const tiles = memory.mutable_data_ptr<T>();
    for (int64_t task = 0; task < shape.G * plan.blocks; ++task) {
      const int64_t g = task / plan.blocks, block = task % plan.blocks;
      spread_tiles(shape, plan, input, g, block, threads, tiles);
      share(threads, plan.panels, [&](int64_t first, int64_t last) {
        kernels.winograd_panels(p, g, block, first, last, tiles,
                                tiles + tiles_size + at::get_thread_num() * each);
      });
    }
  } else {
    run_tasks<T>(shape.G * plan.blocks, threads, tiles_size + each, like,
                 [&](int64_t first, int64_t last, T* tiles) {
                   for (int64_t task = first; task < last; ++task) {
                     const int64_t g = task / plan.blocks, block = task % plan.blocks;
                     spread_tiles(shape, plan, input, g, block, 1, tiles);
                     kernels.winograd_panels(p, g, block, 0, plan.panels, tiles,
                                             tiles + tiles_size);
                   }
                 });
  }
}

template <typename T>
void winograd_weight_gradient(const cpu::Convolution& shape, const T* grad_output, const T* input,
                              const Tensor& result) {
  const auto& kernels = cpu::kernels<cpu::WinogradKernels<T>>();
  const int64_t threads = threads_for(shape);
  const auto [plan, shared] = cut_winograd<T>(shape, threads, true);
  const cpu::WinogradWeightGradient<T> p{shape, plan, input, grad_output,
                                         result.mutable_data_ptr<T>()};
  const int64_t tiles_size = cpu::kTileCells * plan.channel_cell;
  const int64_t each = kernels.winograd_weight_workspace(plan);
  if (!shared && plan.blocks == 1) {  // groups are shared out
    run_tasks<T>(
        shape.G, threads, tiles_size + each, result, [&](int64_t first, int64_t last, T* tiles) {
          for (int64_t g = first; g < last; ++g) {
            spread_tiles(shape, plan, input, g, 0, 1, tiles);
            kernels.winograd_weight_panels(p, g, 0, plan.panels, tiles, tiles + tiles_size);
          }
        });
    return;
  }
  if (plan.blocks == 1) {  // the sums of a panel are complete at once
    const Tensor memory =
        with_huge_pages(at::empty({tiles_size + threads * each}, result.options()));
    T* const tiles = memory.mutable_data_ptr<T>();
    for (int64_t g = 0; g < shape.G; ++g) {
      spread_tiles(shape, plan, input, g, 0, threads, tiles);
      share(threads, plan.panels, [&](int64_t first, int64_t last) {
        kernels.winograd_weight_panels(p, g, first, last, tiles,
                                       tiles + tiles_size + at::get_thread_num() * each);
      });
    }
    return;
  }
  const int64_t panel_sums = cpu::kTileCells * plan.sums_cell;
  const int64_t gradient_size = cpu::kTileCells * plan.panel_cell;
  const int64_t parts = shared ? 1 : std::min(threads, plan.blocks);
  const int64_t sharers = shared ? threads : 1;
  const int64_t part_sums = plan.panels * panel_sums;
  const Tensor sums = with_huge_pages(at::empty({parts * part_sums}, result.options()));
  const Tensor memory = at::empty({parts * tiles_size + threads * gradient_size}, result.options());
  T* const all_tiles = memory.mutable_data_ptr<T>();
  for (int64_t g = 0; g < shape.G; ++g) {
    const auto run = [&](int64_t first_part, int64_t last_part) {
      for (int64_t part = first_part; part < last_part; ++part) {
        T* const tiles = all_tiles + part * tiles_size;
        T* const to = sums.mutable_data_ptr<T>() + part * part_sums;
        const int64_t begin = part * plan.blocks / parts, end = (part + 1) * plan.blocks / parts;
        for (int64_t block = begin; block < end; ++block) {
          spread_tiles(shape, plan, input, g, block, sharers, tiles);
          share(sharers, plan.panels, [&](int64_t first, int64_t last) {
            T* const gradients =
                all_tiles + parts * tiles_size + at::get_thread_num() * gradient_size;
            for (int64_t panel = first; panel < last; ++panel) {
              kernels.winograd_gradient_panel(p, g, block, panel, tiles, gradients,
                                              to + panel * panel_sums, block > begin);
            }
          });
        }
      }
    };
    if (shared) {
      run(0, 1);
    } else {
      at::parallel_for(0, parts, 1, run);
    }
    share(threads, plan.panels, [&](int64_t first, int64_t last) {
      for (int64_t panel = first; panel < last; ++panel) {
        kernels.winograd_weight(p, g, panel, sums.const_data_ptr<T>() + panel * panel_sums, parts,
                                part_sums);
      }
    });
  }
}

// Winograd of a strided convolution, by its phases: some images at a time are copied to channels
// that are phases, and the filters once.
template <typename T>
struct Phases {
  cpu::Convolution shape, phased;
  int64_t images;  // at a time
  int64_t image;   // elements, of all groups
  Tensor memory;

  Phases(const cpu::Convolution& c, const Tensor& like) : shape(c), phased(cpu::of_phases(c)) {
    const int64_t plane = phased.in[1] * phased.in[2], taps = phased.taps();
    image = c.G * phased.C * plane;
    images = std::min(c.N, std::max<int64_t>(1, at::get_num_threads() * kPhaseMemory / image));
    phased.input = {image, phased.C * plane, plane, {0, phased.in[2], 1}};
    phased.weight = {phased.K * phased.C * taps, phased.C * taps, taps, {0, phased.filter[2], 1}};
    memory = at::empty({images * image}, like.options());
  }
  T* data() const { return memory.mutable_data_ptr<T>(); }
  Tensor empty_filters() const {
    return at::empty({shape.G * shape.K * phased.reduction()}, memory.options());
  }
  // f(shape of some images, the first of them)
  template <typename F>
  void each(const F& f) const {
    for (int64_t first = 0; first < shape.N; first += images) {
      cpu::Convolution some = phased;
      some.N = std::min(images, shape.N - first);
      f(some, first);
    }
  }
  // f(map of the phases, offset of its image and group in the input, channel)
  template <typename F>
  void each_channel(int64_t count, int64_t first, const F& f) const {
    const int64_t channels = count * shape.G * shape.C;
    at::parallel_for(0, channels, std::max<int64_t>(1, 32768 * shape.C * shape.G / image),
                     [&](int64_t begin, int64_t end) {
                       for (int64_t i = begin; i < end; ++i) {
                         const int64_t c = i % shape.C, g = i / shape.C % shape.G;
                         const int64_t n = i / shape.C / shape.G;
                         f(data() + n * image + g * phased.input.g,
                           (first + n) * shape.input.n + g * shape.input.g, c);
                       }
                     });
  }
  void split(const T* input, int64_t count, int64_t first) const {
    each_channel(count, first, [&](T* map, int64_t at, int64_t c) {
      cpu::kernels<cpu::BandKernels<T>>().split_phases(shape, input + at, c, c + 1, map);
    });
  }
  void join(T* input, int64_t count, int64_t first) const {
    each_channel(count, first, [&](const T* map, int64_t at, int64_t c) {
      cpu::kernels<cpu::BandKernels<T>>().join_phases(shape, map, c, c + 1, input + at);
    });
  }
  // f(cell of a filter by phases, its offset in the weight, or -1 where the filter has no such
  // cell)
  template <typename F>
  void each_filter_cell(const F& f) const {
    const int64_t R = phased.filter[1], S = phased.filter[2];
    int64_t to = 0;
    for (int64_t k = 0; k < shape.G * shape.K; ++k) {
      const int64_t filter = k / shape.K * shape.weight.g + k % shape.K * shape.weight.k;
      for (int64_t c = 0; c < phased.C; ++c) {
        const int64_t phase_x = c % shape.stride[2],
                      phase_y = c / shape.stride[2] % shape.stride[1];
        const int64_t channel = c / shape.stride[2] / shape.stride[1];
        for (int64_t r = 0; r < R; ++r) {
          for (int64_t s = 0; s < S; ++s) {
            const int64_t y = r * shape.stride[1] + phase_y, x = s * shape.stride[2] + phase_x;
            const bool there = y < shape.filter[1] && x < shape.filter[2];
            f(to++, there ? filter + channel * shape.weight.c + y * shape.weight.spatial[1] +
                                x * shape.weight.spatial[2]
                          : -1);
          }
        }
      }
    }
  }
  Tensor filters(const T* weight) const {
    const Tensor result = empty_filters();
    T* const to = result.mutable_data_ptr<T>();
    each_filter_cell(
        [&](int64_t cell, int64_t from) { to[cell] = from < 0 ? T(0) : weight[from]; });
    return result;
  }
};

template <typename T>
void winograd_by_phases(const cpu::Convolution& shape, const T* input, const T* weight,
                        const T* bias, T* output, const Tensor& like) {
  const Phases<T> phases(shape, like);
  const Tensor filters = phases.filters(weight);
  phases.each([&](const cpu::Convolution& some, int64_t first) {
    phases.split(input, some.N, first);
    winograd<T>(some, phases.data(), filters.const_data_ptr<T>(), bias,
                output + first * shape.output.n, like);
  });
}

template <typename T>
void winograd_input_gradient_by_phases(const cpu::Convolution& shape, const T* grad_output,
                                       const T* weight, T* grad_input, const Tensor& result) {
  const Phases<T> phases(shape, result);
  const Tensor filters = phases.filters(weight);
  phases.each([&](const cpu::Convolution& some, int64_t first) {
    input_gradient_by_phases<T>(some, grad_output + first * shape.output.n,
                                filters.const_data_ptr<T>(), phases.data(), result,
                                [](const auto&... arguments) { winograd<T>(arguments...); });
    phases.join(grad_input, some.N, first);
  });
}

template <typename T>
void winograd_weight_gradient_by_phases(const cpu::Convolution& shape, const T* grad_output,
                                        const T* input, const Tensor& result) {
  const Phases<T> phases(shape, result);
  Tensor sum;
  phases.each([&](const cpu::Convolution& some, int64_t first) {
    phases.split(input, some.N, first);
    const Tensor part = phases.empty_filters();
    winograd_weight_gradient<T>(some, grad_output + first * shape.output.n, phases.data(), part);
    sum = sum.defined() ? sum.add_(part) : part;
  });
  const T* from = sum.const_data_ptr<T>();
  T* const to = result.mutable_data_ptr<T>();
  phases.each_filter_cell([&](int64_t cell, int64_t at) {
    if (at >= 0) to[at] = from[cell];
  });
}

template <typename T>
void direct_weight_gradient(const cpu::Convolution& shape, const T* grad_output, const T* input,
                            const Tensor& result) {
  if (cpu::narrow_groups(shape)) {
    return depthwise_weight_gradient<T>(shape, grad_output, input, result);
  }
  check_direct(shape);
  const auto& kernels = cpu::kernels<cpu::BandKernels<T>>();
  const int64_t threads = threads_for(shape);
  const cpu::BandGradient cut = kernels.plan_band_gradient(shape, threads);
  const Parts parts(result, cut.splits);
  const cpu::ConvolutionWeightGradient<T> p{shape, input, grad_output, parts.data<T>(),
                                            result.numel()};
  run_tasks<T>(cut.tasks(shape.G), threads, kernels.band_gradient_workspace(shape, cut), result,
               [&](int64_t first, int64_t last, T* workspace) {
                 kernels.band_weight_gradient(p, cut, first, last, workspace);
               });
  parts.add();
}

// Each pass by the algorithm named, or by the one that "auto" means for its shape.

template <typename T>
void forward(std::optional<Algorithm> named, const cpu::Convolution& shape, const T* input,
             const T* weight, const T* bias, T* output, const Tensor& like,
             const T* frozen = nullptr) {
  switch (named.value_or(cpu::choose(shape, std::is_same_v<T, float>))) {
    case Algorithm::direct:  // a band holds all taps along the depth, with planes of padding
      if (cpu::narrow_groups(shape)) {
        return depthwise<T>(shape, false, input, weight, bias, output, like);
      }
      return each_region(shape, {1, 0.97, 1024}, [&](const auto& part, auto x, auto w, auto y) {
        direct(part, input + x, weight + w, bias, output + y, like);
      });
    case Algorithm::winograd:
      return cpu::winograd_serves(shape)
                 ? winograd(shape, input, weight, bias, output, like, frozen)
                 : winograd_by_phases(shape, input, weight, bias, output, like);
    default:
      // Wide dilations.
      each_region(shape, {kSpatial, 0.75, 64}, [&](const auto& part, auto x, auto w, auto y) {
        implicit_gemm(simplify(part, false), input + x, weight + w, bias, output + y, like);
      });
  }
}

constexpr int64_t kTileMemory = 1 << 20;     // elements of windows at a time, whatever the batch,
constexpr int64_t kMostOfAnImage = 1 << 21;  // unless one image has more, up to this

// Whether the windows lie side by side, each cell of the input in one at most.
bool windows_tile(const cpu::Convolution& c) {
  bool strided = false;
  for (int axis = 0; axis < kSpatial; ++axis) {
    const bool inside = c.padding[axis] == 0 && c.out[axis] * c.stride[axis] <= c.in[axis];
    if (c.filter[axis] != c.stride[axis] || !inside) return false;
    if (c.filter[axis] > 1 && c.dilation[axis] != 1) return false;
    strided = strided || c.stride[axis] > 1;
  }
  return c.G == 1 && strided;
}

// Whether filters are dense, and images small enough, for `input_gradient_by_tiles`.
bool tiles_fit(const cpu::Convolution& c) {
  int64_t cells = c.C, last = (c.C - 1) * c.weight.c;
  for (int axis = 0; axis < kSpatial; ++axis) {
    cells *= c.filter[axis];
    last += (c.filter[axis] - 1) * c.weight.spatial[axis];
  }
  return last + 1 == cells && cells * c.out[0] * c.out[1] * c.out[2] <= kMostOfAnImage;
}

constexpr int64_t kChannelsOfRows = 32;  // fewer are faster by whole windows

// Whether the rows of windows side by side lie together, channels innermost: the input gradient of
// such a row of every window is one product, written where it belongs.
bool rows_lie_together(const cpu::Convolution& c) {
  return c.input.c == 1 && c.C >= kChannelsOfRows && c.input.spatial[2] == c.C;
}

template <typename T>
void input_gradient_by_rows(const cpu::Convolution& c, const T* grad_output, const T* weight,
                            T* grad_input, const Tensor& result) {
  const auto& s = c.weight;
  const Tensor filters =
      at::from_blob(const_cast<T*>(weight), {c.filter[0], c.filter[1], c.filter[2], c.C, c.K},
                    {s.spatial[0], s.spatial[1], s.spatial[2], s.c, s.k}, result.options())
          .contiguous();
  cpu::Convolution g = c;
  g.C = c.K;
  g.K = c.filter[2] * c.C;
  g.input = c.output;
  g.output = c.input;
  g.weight.k = c.K;
  g.weight.c = 1;
  bool covered = true;
  for (int axis = 0; axis < kSpatial; ++axis) {
    covered = covered && c.in[axis] == c.out[axis] * c.stride[axis];
    g.in[axis] = c.out[axis];
    g.filter[axis] = g.stride[axis] = g.dilation[axis] = 1;
    g.output.spatial[axis] *= c.stride[axis];
  }
  if (!covered) result.zero_();
  const T* row_filters = filters.const_data_ptr<T>();
  for (int64_t t = 0; t < c.filter[0]; ++t) {
    for (int64_t r = 0; r < c.filter[1]; ++r, row_filters += g.K * g.C) {
      T* const row = grad_input + t * c.input.spatial[0] + r * c.input.spatial[1];
      implicit_gemm<T>(simplify(g, false), grad_output, row_filters, nullptr, row, result);
    }
  }
}

// A product with as many filters as a window has cells, some images at a time; then each window is
// put in its place.
template <typename T>
void input_gradient_by_tiles(const cpu::Convolution& c, const T* grad_output, const T* weight,
                             const Tensor& result) {
  cpu::Convolution g = c;  // of windows, with the filters' cells as output channels
  g.C = c.K;
  g.K = c.C * c.filter[0] * c.filter[1] * c.filter[2];
  g.input = c.output;
  g.weight.k = 1;
  g.weight.c = c.weight.k;
  const int64_t pixels = c.out[0] * c.out[1] * c.out[2];
  g.output.c = pixels;
  g.output.n = g.K * pixels;
  g.output.spatial[0] = c.out[1] * c.out[2];
  g.output.spatial[1] = c.out[2];
  g.output.spatial[2] = 1;
  bool covered = true;
  at::DimVector size{0, c.C}, from{g.output.n, c.weight.c * pixels}, to{c.input.n, c.input.c};
  for (int axis = 0; axis < kSpatial; ++axis) {
    covered = covered && c.in[axis] == c.out[axis] * c.stride[axis];
    g.in[axis] = c.out[axis];
    g.filter[axis] = g.stride[axis] = g.dilation[axis] = 1;
    size.append({c.filter[axis], c.out[axis]});
    from.append({c.weight.spatial[axis] * pixels, g.output.spatial[axis]});
    to.append({c.input.spatial[axis], c.stride[axis] * c.input.spatial[axis]});
  }
  if (!covered) result.zero_();
  const int64_t images = std::clamp<int64_t>(kTileMemory / g.output.n, 1, c.N);
  const Tensor windows = at::empty({images * g.output.n}, result.options());
  for (int64_t n = 0; n < c.N; n += images) {
    size[0] = g.N = std::min(images, c.N - n);
    implicit_gemm<T>(simplify(g, false), grad_output + n * c.output.n, weight, nullptr,
                     windows.mutable_data_ptr<T>(), result);
    result.as_strided(size, to, n * c.input.n + result.storage_offset())
        .copy_(windows.as_strided(size, from));
  }
}

template <typename T>
void input_gradient(std::optional<Algorithm> named, const cpu::Convolution& shape,
                    const T* grad_output, const T* weight, T* grad_input, const Tensor& result) {
  const auto by_phases = [&](const cpu::Convolution& whole) {
    if (!phases_cover(whole)) result.zero_();
    input_gradient_by_phases<T>(whole, grad_output, weight, grad_input, result,
                                [&](const cpu::Convolution& phase, const auto&... rest) {
                                  forward<T>(named, phase, rest...);
                                });
  };
  const auto chosen = named.value_or(cpu::choose(shape, std::is_same_v<T, float>));
  if (chosen == Algorithm::winograd && !cpu::winograd_serves(shape)) {
    return winograd_input_gradient_by_phases(shape, grad_output, weight, grad_input, result);
  }
  if (chosen == Algorithm::direct && cpu::narrow_groups(shape)) {
    return depthwise<T>(shape, true, grad_output, weight, nullptr, grad_input, result);
  }
  if (chosen == Algorithm::implicit_gemm && windows_tile(shape)) {
    if (rows_lie_together(shape)) {
      return input_gradient_by_rows(shape, grad_output, weight, grad_input, result);
    }
    if (tiles_fit(shape)) return input_gradient_by_tiles(shape, grad_output, weight, result);
  }
  by_phases(chosen == Algorithm::implicit_gemm ? simplify(shape, true) : shape);
}

template <typename T>
void weight_gradient(std::optional<Algorithm> named, const cpu::Convolution& shape,
                     const T* grad_output, const T* input, const Tensor& result) {
  switch (named.value_or(cpu::choose(shape, std::is_same_v<T, float>, true))) {
    case Algorithm::direct:
      return direct_weight_gradient(shape, grad_output, input, result);
    case Algorithm::winograd:
      return cpu::winograd_serves(shape)
                 ? winograd_weight_gradient(shape, grad_output, input, result)
                 : winograd_weight_gradient_by_phases(shape, grad_output, input, result);
    default:
      return implicit_gemm_weight_gradient<T>(shape, grad_output, input, result);
  }
}

// ---------------------------------------------------------------------------------------------
// The three operations
// ---------------------------------------------------------------------------------------------

bool has_kernels(at::ScalarType dtype) { return dtype == at::kFloat || dtype == at::kDouble; }

// Whether the processor's own instructions multiply a tensor.
bool multiplied(const Tensor& t) {
  return t.scalar_type() == at::kBFloat16 && cpu::multiplies_bfloat16();
}

// Whether maps of a tensor's dtype can be turned to channels_last: volumes of float64 are never so.
bool can_turn(const Tensor& t) {
  if (t.dim() == 5 && t.scalar_type() == at::kDouble) return false;
  return has_kernels(t.scalar_type()) || multiplied(t);
}

// The algorithm of a whole pass: the one named, or what "auto" means.
Algorithm chosen_for(const Tensor& operand, std::optional<Algorithm> named,
                     const cpu::Convolution& shape, bool weight_gradient = false) {
  if (named.has_value()) return *named;
  const auto dtype = c10::toRealValueType(operand.scalar_type());
  const auto precision = dtype == at::kDouble  ? cpu::Precision::float64
                         : multiplied(operand) ? cpu::Precision::bfloat16
                                               : cpu::Precision::float32;
  const bool half = c10::isReducedFloatingType(dtype);  // of dense float32, some images at a time
  return cpu::choose(shape, precision, weight_gradient, half || can_turn(operand));
}

// Whether the processor's own instructions serve direct convolution of a tensor's dtype.
bool directly_in_bfloat16(const Tensor& t, Algorithm chosen, const cpu::Convolution& shape) {
  return multiplied(t) && chosen == Algorithm::direct && depthwise_in_bfloat16(shape);
}

// The same for some images: not chosen anew for fewer of them. By name Winograd takes no volumes.
c10::string_view for_parts(Algorithm chosen, c10::string_view algorithm, int64_t dims) {
  return chosen == Algorithm::winograd && dims != 4 ? algorithm : name_of(chosen);
}

// f(images, of the result likewise) for some images at a time, so many that these and theirs of the
// result have at most `memory` elements for each thread, unless one has more.
template <typename F>
void each_images(const Tensor& input, const Tensor& result, int64_t memory, const F& f) {
  const int64_t N = input.size(0);
  const int64_t image = (input.numel() + result.numel()) / N;
  const int64_t images = std::clamp<int64_t>(at::get_num_threads() * memory / image, 1, N);
  for (int64_t first = 0; first < N; first += images) {
    const int64_t here = std::min(images, N - first);
    f(input.narrow(0, first, here), result.narrow(0, first, here));
  }
}

constexpr int64_t kRoundedMemory = 1 << 21;  // elements in float32

// result = f(input) in float32, rounded once: for float16, and for bfloat16 where it is not
// multiplied as it is.
template <typename F>
void in_float32(const Tensor& input, const Tensor& result, const F& f) {
  each_images(input, result, kRoundedMemory,
              [&](const Tensor& from, const Tensor& to) { to.copy_(f(from.to(at::kFloat))); });
}

// What the filters of a group, transformed, are as a tensor. Every instruction set has a layout and
// so a shape of its own.
template <typename T>
std::array<int64_t, 4> transformed_size(const cpu::Convolution& shape) {
  const cpu::Winograd plan =
      cpu::kernels<cpu::WinogradKernels<T>>().plan_winograd(shape, 1, 1, false);
  return {shape.G, plan.panels, cpu::kTileCells, plan.filter_cell};
}

// Frozen filters, if they can be used: not those that another processor's kernels laid out.
template <typename T>
const T* frozen_filters(const std::optional<Tensor>& filters, const cpu::Convolution& shape) {
  if (!filters.has_value() || !cpu::winograd_serves(shape)) return nullptr;
  if (filters->sizes() != at::IntArrayRef(transformed_size<T>(shape))) return nullptr;
  return filters->const_data_ptr<T>();
}

// ---------------------------------------------------------------------------------------------
// Small maps in NCHW, turned to channels_last and back
// ---------------------------------------------------------------------------------------------

// Whether a convolution has its maps turned.
bool turns(const Tensor& operand, Algorithm chosen, const cpu::Convolution& shape) {
  if (chosen == Algorithm::implicit_gemm) return can_turn(operand) && cpu::turning_pays(shape);
  return chosen == Algorithm::direct && multiplied(operand) && cpu::turning_groups_pays(shape);
}

// Between maps (N, rows, columns) and (N, columns, rows), each map dense.
template <typename T, typename Turn>
void turn_maps(const Tensor& from, const Tensor& to, int64_t rows, int64_t columns,
               const Turn& turn) {
  constexpr int64_t kRows = 64;  // for a task
  const T* const source = reinterpret_cast<const T*>(from.const_data_ptr());
  T* const target = reinterpret_cast<T*>(to.mutable_data_ptr());
  const int64_t stretches = cpu::divide_up(rows, kRows);
  at::parallel_for(0, from.size(0) * stretches, std::max<int64_t>(1, 65536 / (kRows * columns)),
                   [&](int64_t first, int64_t last) {
                     for (int64_t i = first; i < last; ++i) {
                       const int64_t n = i / stretches, row = i % stretches * kRows;
                       turn(source + n * from.stride(0) + row * columns, columns,
                            std::min(kRows, rows - row), columns, target + n * to.stride(0) + row,
                            rows);
                     }
                   });
}

void turn_maps(const Tensor& from, const Tensor& to, int64_t rows, int64_t columns) {
  if (from.scalar_type() == at::kBFloat16) {
    return turn_maps<cpu::BFloat16>(
        from, to, rows, columns,
        cpu::kernels<cpu::TransposeKernels<cpu::BFloat16>>().transpose_map);
  }
  AT_DISPATCH_FLOATING_TYPES(from.scalar_type(), "convolution", [&] {
    turn_maps<scalar_t>(from, to, rows, columns,
                        cpu::kernels<cpu::TransposeKernels<scalar_t>>().transpose_map);
  });
}

constexpr int64_t kTurnMemory = 1 << 20;  // elements

// result = f(input), where f takes and returns channels_last.
template <typename F>
void turned(const Tensor& input, const Tensor& result, const F& f) {
  const auto format =
      input.dim() == 5 ? at::MemoryFormat::ChannelsLast3d : at::MemoryFormat::ChannelsLast;
  each_images(input, result, kTurnMemory, [&](const Tensor& from, const Tensor& to) {
    const int64_t N = from.size(0), C = from.size(1), K = to.size(1);
    const Tensor some = at::empty(from.sizes(), from.options().memory_format(format));
    turn_maps(from, some, C, from.numel() / N / C);
    const Tensor result_of_some = f(some);
    TORCH_INTERNAL_ASSERT(result_of_some.is_contiguous(format));
    turn_maps(result_of_some, to, to.numel() / N / K, K);
  });
}

Tensor convolve(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                const std::optional<Tensor>& filters, SymIntArrayRef stride, SymIntArrayRef padding,
                SymIntArrayRef dilation, SymInt groups, bool relu, c10::string_view algorithm) {
  const Tensor output = empty_output(input, weight, bias, stride, padding, dilation, groups);
  const auto p =
      make_parameters("convolution", weight.dim() - 2, stride, padding, dilation, groups);
  const auto named = named_algorithm("convolution", algorithm, weight.sym_sizes(), p);
  if (output.numel() == 0) return output;
  with_huge_pages(output);
  if (weight.numel() == 0) {  // a sum over no channels
    Tensor sum = output.zero_();
    add_bias(sum, bias);
    return relu ? output.relu_() : output;
  }

  auto shape = describe(input, weight, output, p);
  shape.relu = relu;
  const Algorithm chosen = chosen_for(input, named, shape);
  if (turns(input, chosen, shape)) {
    turned(input, output, [&](const Tensor& x) {
      return convolve(x, weight, bias, filters, stride, padding, dilation, groups, relu,
                      name_of(chosen));
    });
    return output;
  }
  if (multiplied(input) && chosen == Algorithm::implicit_gemm) {
    convolution_bfloat16(shape, input, weight, bias, output);
    return output;
  }
  if (directly_in_bfloat16(input, chosen, shape)) {
    depthwise_bfloat16(shape, false, input, weight, bias, output);
    return output;
  }
  if (!has_kernels(input.scalar_type())) {
    if (input.is_complex()) {
      Tensor result = by_real_parts(input, weight, [&](const Tensor& x, const Tensor& w) {
        return convolve(x, w, std::nullopt, filters, stride, padding, dilation, groups, false,
                        algorithm);
      });
      return output.copy_(add_bias(result, bias));
    }
    const Tensor w = weight.to(at::kFloat);
    std::optional<Tensor> b;
    if (bias.has_value()) b = bias->to(at::kFloat);
    const auto way = for_parts(chosen, algorithm, input.dim());
    in_float32(input, output, [&](const Tensor& x) {
      return convolve(x, w, b, filters, stride, padding, dilation, groups, relu, way);
    });
    return output;
  }
  if (named == Algorithm::im2col) {
    im2col_convolution(input, weight, bias, p, output);
    return relu ? output.relu_() : output;
  }

  const Tensor packed_bias = bias.has_value() ? bias->contiguous() : Tensor();
  AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), "convolution", [&] {
    const auto x = input.const_data_ptr<scalar_t>();
    const auto w = weight.const_data_ptr<scalar_t>();
    const auto b = bias.has_value() ? packed_bias.const_data_ptr<scalar_t>() : nullptr;
    const auto y = output.mutable_data_ptr<scalar_t>();
    forward<scalar_t>(named, shape, x, w, b, y, output, frozen_filters<scalar_t>(filters, shape));
  });
  return output;
}

Tensor convolution_cpu(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                       SymIntArrayRef stride, SymIntArrayRef padding, SymIntArrayRef dilation,
                       SymInt groups, c10::string_view algorithm) {
  return convolve(input, weight, bias, std::nullopt, stride, padding, dilation, std::move(groups),
                  false, algorithm);
}

Tensor convolution_relu_cpu(const Tensor& input, const Tensor& weight,
                            const std::optional<Tensor>& bias, SymIntArrayRef stride,
                            SymIntArrayRef padding, SymIntArrayRef dilation, SymInt groups,
                            c10::string_view algorithm) {
  check_relu("convolution_relu", input, true);
  return convolve(input, weight, bias, std::nullopt, stride, padding, dilation, std::move(groups),
                  true, algorithm);
}

Tensor convolution_frozen_cpu(const Tensor& input, const Tensor& weight,
                              const std::optional<Tensor>& bias,
                              const std::optional<Tensor>& filters, SymIntArrayRef stride,
                              SymIntArrayRef padding, SymIntArrayRef dilation, SymInt groups,
                              bool relu, c10::string_view algorithm) {
  check_relu("convolution_frozen", input, relu);
  check_frozen_filters(weight, filters, groups);
  return convolve(input, weight, bias, filters, stride, padding, dilation, std::move(groups), relu,
                  algorithm);
}

// For both, the still empty result and the filters that fill it.
template <typename T>
Tensor transform_filters(const Tensor& weight, int64_t groups, bool fill) {
  cpu::Convolution shape{};
  shape.N = 1;
  shape.G = groups;
  shape.C = weight.size(1);
  shape.K = weight.size(0) / groups;
  for (int axis = 0; axis < kSpatial; ++axis) {
    shape.out[axis] = shape.stride[axis] = shape.dilation[axis] = 1;
    shape.in[axis] = shape.filter[axis] = axis == 0 ? 1 : weight.size(axis + 1);
    shape.weight.spatial[axis] = axis == 0 ? 0 : weight.stride(axis + 1);
  }
  shape.weight.g = shape.K * weight.stride(0);
  shape.weight.k = weight.stride(0);
  shape.weight.c = weight.stride(1);
  const Tensor filters = at::empty(transformed_size<T>(shape), weight.options());
  if (!fill || filters.numel() == 0) return filters;
  with_huge_pages(filters).zero_();  // the gaps between the cells too
  const auto& kernels = cpu::kernels<cpu::WinogradKernels<T>>();
  const cpu::WinogradForward<T> p{shape,   kernels.plan_winograd(shape, 1, 1, false),
                                  nullptr, weight.const_data_ptr<T>(),
                                  nullptr, filters.mutable_data_ptr<T>(),
                                  nullptr};
  at::parallel_for(0, groups * p.plan.panels, 1,
                   [&](int64_t first, int64_t last) { kernels.winograd_filters(p, first, last); });
  return filters;
}

Tensor winograd_filters(const Tensor& weight, int64_t groups, bool fill) {
  check_winograd_filters(weight, groups);
  if (weight.scalar_type() == at::kDouble) return transform_filters<double>(weight, groups, fill);
  return transform_filters<float>(weight.to(at::kFloat), groups, fill);
}

Tensor winograd_filters_cpu(const Tensor& weight, int64_t groups) {
  return winograd_filters(weight, groups, true);
}

// The layout is the processor's, also where there are no numbers.
Tensor winograd_filters_meta(const Tensor& weight, int64_t groups) {
  return winograd_filters(weight, groups, false);
}

Tensor convolution_input_gradient_cpu(const Tensor& grad_output, const Tensor& weight,
                                      SymIntArrayRef input_size, SymIntArrayRef stride,
                                      SymIntArrayRef padding, SymIntArrayRef dilation,
                                      SymInt groups, c10::string_view algorithm) {
  constexpr auto op = "convolution_input_gradient";
  const Tensor grad_input =
      empty_input_gradient(grad_output, weight, input_size, stride, padding, dilation, groups);
  const auto p = make_parameters(op, weight.dim() - 2, stride, padding, dilation, groups);
  const auto named = named_algorithm(op, algorithm, weight.sym_sizes(), p);
  if (grad_input.numel() == 0) return grad_input;
  with_huge_pages(grad_input);
  if (weight.numel() == 0) return grad_input.zero_();
  const auto shape = describe(grad_input, weight, grad_output, p);
  const auto gradient = [&](const Tensor& g, const Tensor& w, c10::string_view way) {
    c10::SymDimVector size(input_size.begin(), input_size.end());  // of some images
    size[0] = g.sym_size(0);
    return convolution_input_gradient_cpu(g, w, size, stride, padding, dilation, groups, way);
  };
  const Algorithm chosen = chosen_for(weight, named, shape);
  if (turns(weight, chosen, shape)) {
    turned(grad_output, grad_input,
           [&](const Tensor& g) { return gradient(g, weight, name_of(chosen)); });
    return grad_input;
  }
  const bool by_windows = windows_tile(shape) && shape.taps() > cpu::kFewTaps;  // one product each
  if (multiplied(weight) && chosen == Algorithm::implicit_gemm && !by_windows) {
    input_gradient_bfloat16(shape, grad_output, weight, grad_input);
    return grad_input;
  }
  if (directly_in_bfloat16(weight, chosen, shape)) {
    depthwise_bfloat16(shape, true, grad_output, weight, std::nullopt, grad_input);
    return grad_input;
  }
  if (!has_kernels(weight.scalar_type())) {
    const auto in_real = [&](const Tensor& g, const Tensor& w) {
      return gradient(g, w, algorithm);
    };
    if (weight.is_complex()) return grad_input.copy_(by_real_parts(grad_output, weight, in_real));
    const Tensor w = weight.to(at::kFloat);
    in_float32(grad_output, grad_input, [&](const Tensor& g) { return in_real(g, w); });
    return grad_input;
  }

  if (named == Algorithm::im2col) {
    im2col_input_gradient(grad_output, weight, p, grad_input);
    return grad_input;
  }

  AT_DISPATCH_FLOATING_TYPES(weight.scalar_type(), op, [&] {
    const auto g = grad_output.const_data_ptr<scalar_t>();
    const auto w = weight.const_data_ptr<scalar_t>();
    const auto dx = grad_input.mutable_data_ptr<scalar_t>();
    input_gradient<scalar_t>(named, shape, g, w, dx, grad_input);
  });
  return grad_input;
}

Tensor convolution_weight_gradient_cpu(const Tensor& grad_output, const Tensor& input,
                                       SymIntArrayRef weight_size, SymIntArrayRef stride,
                                       SymIntArrayRef padding, SymIntArrayRef dilation,
                                       SymInt groups, c10::string_view algorithm) {
  constexpr auto op = "convolution_weight_gradient";
  const Tensor grad_weight =
      empty_weight_gradient(grad_output, input, weight_size, stride, padding, dilation, groups);
  const auto p = make_parameters(op, grad_weight.dim() - 2, stride, padding, dilation, groups);
  const auto named = named_algorithm(op, algorithm, weight_size, p);
  if (grad_weight.numel() == 0) return grad_weight;
  with_huge_pages(grad_weight);
  if (grad_output.numel() == 0) return grad_weight.zero_();
  const auto shape = describe(input, grad_weight, grad_output, p);
  const Algorithm chosen = chosen_for(input, named, shape, true);
  if (multiplied(input) && chosen == Algorithm::implicit_gemm) {
    weight_gradient_bfloat16(shape, grad_output, input, grad_weight);
    return grad_weight;
  }
  if (directly_in_bfloat16(input, chosen, shape)) {
    depthwise_weight_gradient_bfloat16(shape, grad_output, input, grad_weight);
    return grad_weight;
  }
  if (!has_kernels(input.scalar_type())) {
    const auto way = input.is_complex() ? algorithm : for_parts(chosen, algorithm, input.dim());
    const auto gradient = [&](const Tensor& g, const Tensor& x) {
      return convolution_weight_gradient_cpu(g, x, weight_size, stride, padding, dilation, groups,
                                             way);
    };
    if (input.is_complex()) return grad_weight.copy_(by_real_parts(grad_output, input, gradient));
    Tensor sum;
    each_images(input, grad_output, kRoundedMemory, [&](const Tensor& x, const Tensor& g) {
      const Tensor part = gradient(g.to(at::kFloat), x.to(at::kFloat));
      sum = sum.defined() ? sum.add_(part) : part;
    });
    return grad_weight.copy_(sum);
  }

  if (named == Algorithm::im2col) {
    im2col_weight_gradient(grad_output, input, p, grad_weight);
    return grad_weight;
  }

  AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), op, [&] {
    const auto g = grad_output.const_data_ptr<scalar_t>();
    const auto x = input.const_data_ptr<scalar_t>();
    weight_gradient<scalar_t>(named, shape, g, x, grad_weight);
  });
  return grad_weight;
}

}  // namespace

TORCH_LIBRARY_IMPL(cnn_ext, CPU, m) {
  m.impl("convolution", convolution_cpu);
  m.impl("convolution_relu", convolution_relu_cpu);
  m.impl("convolution_frozen", convolution_frozen_cpu);
  m.impl("winograd_filters", winograd_filters_cpu);
  m.impl("convolution_input_gradient", convolution_input_gradient_cpu);
  m.impl("convolution_weight_gradient", convolution_weight_gradient_cpu);
}

TORCH_LIBRARY_IMPL(cnn_ext, Meta, m) { m.impl("winograd_filters", winograd_filters_meta); }

}  // namespace cnn_ext
