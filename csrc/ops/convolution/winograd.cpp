// Winograd's convolution: blocks of tiles, by one thread each or shared by all; strided
// convolutions by their phases; filters transformed beforehand.

#include "ops/torch.h"

#include "../../cpu/convolution/winograd/geometry.h"

#include "../../cpu/convolution/band/geometry.h"
#include "../../cpu/convolution/phases.h"
#include "../memory.h"
#include "convolution.h"
#include "drivers.h"
#include "tasks.h"

namespace cnn_ext {
namespace {

// How many tiles a block has that all threads share.
int64_t shared_block(const cpu::Convolution& shape, int64_t memory, int64_t threads) {
  const int64_t most = memory * threads / (cpu::kTileCells * (shape.C + 64 * threads));
  return std::max(most, cpu::kSharedBlock);
}

int64_t transformed_filters(const cpu::Convolution& shape) {
  return cpu::kTileCells * shape.C * shape.K;
}

// Winograd, in one of two ways. Where tiles are many and transformed filters small, each thread
// carries small blocks of tiles of its own from input to output. Otherwise the threads share one
// large block. Filters are transformed once if there are several blocks and, where these are
// shared, the cache holds them; if not, each thread transforms them as it needs them.
struct WinogradCut {
  cpu::Winograd plan;
  bool shared;
};

template <typename T>
WinogradCut schedule_winograd(const cpu::Convolution& shape, int64_t threads) {
  const auto& kernels = cpu::kernels<cpu::WinogradKernels<T>>();
  const WinogradCut own{kernels.plan_winograd(shape, cpu::kOwnBlock, threads), false};
  const bool small = transformed_filters(shape) <= cpu::kOwnFilters;
  if (small && own.plan.blocks * shape.G >= threads) return own;
  const int64_t tiles = shared_block(shape, cpu::kWinogradMemory, threads);
  return {kernels.plan_winograd(shape, tiles, threads), true};
}

// A weight gradient. Each thread has groups of its own, or parts of a group's sum, or the threads
// share the panels of filters. How many parts there are follows from the shape alone.
struct WinogradGradientCut {
  enum class Share { groups, parts, panels };
  int64_t block, parts;
  Share share;
};

int64_t gradient_memory() {
  const bool wide = cpu::capability() >= cpu::Capability::avx512;
  return wide ? cpu::kWideGradientMemory : cpu::kGradientMemory;
}

int64_t parts_of_tiles(const cpu::Convolution& shape, const cpu::Winograd& plan) {
  const int64_t filters = transformed_filters(shape);
  if (filters > cpu::kOwnFilters) return 1;
  const int64_t tiles = plan.tiles();
  const int64_t parts =
      std::min({cpu::kPartTasks, cpu::kPartElements / filters, tiles / cpu::kPartTiles});
  return cpu::power_of_two_below(std::max(parts, std::min<int64_t>(2, tiles / cpu::kHalfTiles)));
}

// The part of all work that the busiest of the threads has, where `tasks` equal ones are shared
// out.
double busiest(int64_t tasks, int64_t threads) {
  return static_cast<double>(cpu::divide_up(tasks, threads)) / static_cast<double>(tasks);
}

// The share with the least work for the busiest thread; of equal ones the first, whose sums stay in
// a thread's cache: all of a small group's, or those of a few channels where one block holds all
// tiles.
template <typename T>
WinogradGradientCut schedule_winograd_gradient(const cpu::Convolution& shape, int64_t threads) {
  using Share = WinogradGradientCut::Share;
  cpu::Winograd plan{};
  cpu::lay_tiles(shape, plan);
  const int64_t parts = parts_of_tiles(shape, plan), filters = transformed_filters(shape);
  const int64_t own = shared_block(shape, gradient_memory(), 1);
  const bool whole = parts == 1 && plan.tiles() <= own && filters <= cpu::kOwnFilters;
  const auto& kernels = cpu::kernels<cpu::WinogradKernels<T>>();
  const int64_t panels = kernels.plan_winograd_gradient(shape, own, 0, parts).panels;
  const bool groups = whole || filters <= cpu::kThreadSums;
  const double by_groups = busiest(shape.G, threads);
  const double by_parts = parts > 1 ? busiest(parts, threads) : 1.0;
  const double by_panels = busiest(panels, threads);
  const bool best = by_groups <= by_parts && by_groups <= by_panels;
  if (groups && best && (by_groups < 1.0 || threads == 1)) {
    return {whole ? own : cpu::kTileBlock, parts, Share::groups};
  }
  if (parts > 1 && by_parts <= by_panels) return {cpu::kTileBlock, parts, Share::parts};
  return {shared_block(shape, gradient_memory(), threads), parts, Share::panels};
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

}  // namespace

// `frozen`: filters that winograd_filters_cpu transformed before, or null.
template <typename T>
void winograd(const cpu::Convolution& shape, const T* input, const T* weight, const T* bias,
              T* output, const Tensor& like, const T* frozen) {
  const auto& kernels = cpu::kernels<cpu::WinogradKernels<T>>();
  const int64_t threads = threads_for(shape);
  const auto [plan, shared] = schedule_winograd<T>(shape, threads);
  const int64_t panels = shape.G * plan.panels;
  // The kernels here only read p.filters; winograd_filters alone writes.
  cpu::WinogradForward<T> p{shape, plan, input, weight, bias, const_cast<T*>(frozen), output};
  Tensor filters;
  const int64_t filters_size = panels * cpu::kTileCells * plan.filter_cell;
  const bool kept = plan.blocks > 1 && (!shared || filters_size <= cpu::kKeptFilters);
  if (kept && frozen == nullptr) {
    filters = fresh_workspace({filters_size}, like.options());
    p.filters = filters.mutable_data_ptr<T>();
    share(threads, panels,
          [&](int64_t first, int64_t last) { kernels.winograd_filters(p, first, last); });
  }

  const int64_t tiles_size = cpu::kTileCells * plan.channel_cell;
  const int64_t each = (kernels.winograd_workspace(plan) + 15) / 16 * 16;
  if (shared) {
    const int64_t working = std::min(threads, plan.panels);
    const Tensor memory =
        with_huge_pages(fresh_workspace({tiles_size + working * each}, like.options()));
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
class WinogradGradient {
  using Share = WinogradGradientCut::Share;

 public:
  WinogradGradient(const cpu::Convolution& shape, const T* grad_output, const T* input,
                   const Tensor& result)
      : threads_(threads_for(shape)),
        cut_(schedule_winograd_gradient<T>(shape, threads_)),
        p_{shape, plan_of(shape, 0), input, grad_output, result.mutable_data_ptr<T>()},
        result_(result),
        tiles_size_(cpu::kTileCells * p_.plan.channel_cell),
        panel_sums_(cpu::kTileCells * p_.plan.sums_cell),
        gradient_size_(cpu::kTileCells * p_.plan.panel_cell) {}

  void run() const {
    const bool whole = p_.plan.blocks == 1 && cut_.parts == 1;
    if (cut_.share == Share::parts) return by_parts(true);
    if (cut_.share == Share::panels) return whole ? by_panels() : by_parts(false);
    const int64_t each = whole ? kernels_.winograd_weight_workspace(p_.plan)
                               : cut_.parts * part_sums() + gradient_size_;
    run_tasks<T>(p_.shape.G, threads_, tiles_size_ + each, result_,
                 [&](int64_t first, int64_t last, T* tiles) {
                   for (int64_t g = first; g < last; ++g) {
                     whole ? whole_group(g, tiles) : group(g, tiles);
                   }
                 });
  }

 private:
  cpu::Winograd plan_of(const cpu::Convolution& shape, int64_t part) const {
    return kernels_.plan_winograd_gradient(shape, cut_.block, part, cut_.parts);
  }

  // One block holds all tiles, so that the sums of a few channels are complete at once.
  void whole_group(int64_t g, T* tiles) const {
    spread_tiles(p_.shape, p_.plan, p_.input, g, 0, 1, tiles);
    kernels_.winograd_weight_panels(p_, g, 0, p_.plan.panels, tiles, tiles + tiles_size_);
  }
  void by_panels() const {
    const int64_t each = kernels_.winograd_weight_workspace(p_.plan);
    const Tensor memory = with_huge_pages(fresh_workspace(
        {tiles_size_ + std::min(threads_, p_.plan.panels) * each}, result_.options()));
    T* const tiles = memory.mutable_data_ptr<T>();
    for (int64_t g = 0; g < p_.shape.G; ++g) {
      spread_tiles(p_.shape, p_.plan, p_.input, g, 0, threads_, tiles);
      share(threads_, p_.plan.panels, [&](int64_t first, int64_t last) {
        T* const own = tiles + tiles_size_ + at::get_thread_num() * each;
        kernels_.winograd_weight_panels(p_, g, first, last, tiles, own);
      });
    }
  }

  // By one thread, part after part.
  void group(int64_t g, T* tiles) const {
    T* const sums = tiles + tiles_size_;
    for (int64_t part = 0; part < cut_.parts; ++part) {
      add_blocks(g, part, 1, tiles, sums + part * part_sums(), sums + cut_.parts * part_sums());
    }
    collect(g, 0, p_.plan.panels, sums);
  }
  // Group after group, a part by one thread or, otherwise, all threads sharing its panels.
  void by_parts(bool own) const {
    const Tensor all_sums =
        with_huge_pages(fresh_workspace({cut_.parts * part_sums()}, result_.options()));
    const int64_t at_once = own ? threads_ : 1;  // parts
    const Tensor memory =
        fresh_workspace({at_once * tiles_size_ + threads_ * gradient_size_}, result_.options());
    T* const tiles = memory.mutable_data_ptr<T>();
    T* const gradients = tiles + at_once * tiles_size_;
    T* const sums = all_sums.mutable_data_ptr<T>();
    for (int64_t g = 0; g < p_.shape.G; ++g) {
      share(at_once, cut_.parts, [&](int64_t first, int64_t last) {
        const int64_t i = own ? at::get_thread_num() : 0;
        for (int64_t part = first; part < last; ++part) {
          add_blocks(g, part, own ? 1 : threads_, tiles + i * tiles_size_,
                     sums + part * part_sums(), gradients + i * gradient_size_);
        }
      });
      share(threads_, p_.plan.panels,
            [&](int64_t first, int64_t last) { collect(g, first, last, sums); });
    }
  }

  // The sums of a part, block by block. `gradients`: room for those of each of the sharers.
  void add_blocks(int64_t g, int64_t part, int64_t sharers, T* tiles, T* sums, T* gradients) const {
    cpu::WinogradWeightGradient<T> p = p_;
    p.plan = plan_of(p.shape, part);
    for (int64_t block = 0; block < p.plan.blocks; ++block) {
      spread_tiles(p.shape, p.plan, p.input, g, block, sharers, tiles);
      share(sharers, p.plan.panels, [&](int64_t first, int64_t last) {
        const int64_t i = sharers == 1 ? 0 : at::get_thread_num();
        for (int64_t panel = first; panel < last; ++panel) {
          kernels_.winograd_gradient_panel(p, g, block, panel, tiles,
                                           gradients + i * gradient_size_,
                                           sums + panel * panel_sums_, block > 0);
        }
      });
    }
  }
  void collect(int64_t g, int64_t first, int64_t last, const T* sums) const {
    for (int64_t panel = first; panel < last; ++panel) {
      kernels_.winograd_weight(p_, g, panel, sums + panel * panel_sums_, cut_.parts, part_sums());
    }
  }
  int64_t part_sums() const { return p_.plan.panels * panel_sums_; }

  const cpu::WinogradKernels<T>& kernels_ = cpu::kernels<cpu::WinogradKernels<T>>();
  const int64_t threads_;
  const WinogradGradientCut cut_;
  const cpu::WinogradWeightGradient<T> p_;
  const Tensor& result_;
  const int64_t tiles_size_, panel_sums_, gradient_size_;
};

template <typename T>
void winograd_weight_gradient(const cpu::Convolution& shape, const T* grad_output, const T* input,
                              const Tensor& result) {
  WinogradGradient<T>(shape, grad_output, input, result).run();
}

// Winograd of a strided convolution, by its phases: some images at a time are copied to channels
// that are phases, and the filters once.
template <typename T>
struct Phases {
  cpu::Convolution shape, phased;
  int64_t images;  // at a time
  int64_t image;   // elements, of all groups
  Tensor memory;

  // How many images there are at a time must not depend on the threads: tiles reach from one image
  // into the next.
  Phases(const cpu::Convolution& c, const Tensor& like) : shape(c), phased(cpu::of_phases(c)) {
    const int64_t plane = phased.in[1] * phased.in[2], taps = phased.taps();
    image = c.G * phased.C * plane;
    images = std::clamp<int64_t>(cpu::kPhaseMemory / image, 1, c.N);
    phased.input = {image, phased.C * plane, plane, {0, phased.in[2], 1}};
    phased.weight = {phased.K * phased.C * taps, phased.C * taps, taps, {0, phased.filter[2], 1}};
    memory = fresh_workspace({images * image}, like.options());
  }
  T* data() const { return memory.mutable_data_ptr<T>(); }
  Tensor empty_filters() const {
    return fresh_workspace({shape.G * shape.K * phased.reduction()}, memory.options());
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
                output + first * shape.output.n, like, nullptr);
  });
}

template <typename T>
void winograd_input_gradient_by_phases(const cpu::Convolution& shape, const T* grad_output,
                                       const T* weight, T* grad_input, const Tensor& result) {
  const Phases<T> phases(shape, result);
  const Tensor filters = phases.filters(weight);
  phases.each([&](const cpu::Convolution& some, int64_t first) {
    each_phase(some, [&](const cpu::Convolution& phase, int64_t w, int64_t x) {  // the only one
      winograd<T>(phase, grad_output + first * shape.output.n, filters.const_data_ptr<T>() + w,
                  nullptr, phases.data() + x, result, nullptr);
    });
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

// What the filters of a group, transformed, are as a tensor. Every instruction set has a layout and
// so a shape of its own.
template <typename T>
std::array<int64_t, 4> transformed_size(const cpu::Convolution& shape) {
  const cpu::Winograd plan = cpu::kernels<cpu::WinogradKernels<T>>().plan_winograd(shape, 1, 1);
  return {shape.G, plan.panels, cpu::kTileCells, plan.filter_cell};
}

// Frozen filters, if they can be used: not those that another processor's kernels laid out.
template <typename T>
const T* frozen_filters(const std::optional<Tensor>& filters, const cpu::Convolution& shape) {
  if (!filters.has_value() || !cpu::winograd_serves(shape)) return nullptr;
  if (filters->sizes() != at::IntArrayRef(transformed_size<T>(shape))) return nullptr;
  return filters->const_data_ptr<T>();
}

#define CNN_EXT_INSTANTIATE(T)                                                                     \
  template void winograd<T>(const cpu::Convolution&, const T*, const T*, const T*, T*,             \
                            const Tensor&, const T*);                                              \
  template void winograd_by_phases<T>(const cpu::Convolution&, const T*, const T*, const T*, T*,   \
                                      const Tensor&);                                              \
  template void winograd_input_gradient_by_phases<T>(const cpu::Convolution&, const T*, const T*,  \
                                                     T*, const Tensor&);                           \
  template void winograd_weight_gradient<T>(const cpu::Convolution&, const T*, const T*,           \
                                            const Tensor&);                                        \
  template void winograd_weight_gradient_by_phases<T>(const cpu::Convolution&, const T*, const T*, \
                                                      const Tensor&);                              \
  template const T* frozen_filters<T>(const std::optional<Tensor>&, const cpu::Convolution&);
CNN_EXT_INSTANTIATE(float)
CNN_EXT_INSTANTIATE(double)
#undef CNN_EXT_INSTANTIATE

namespace {

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
  const cpu::WinogradForward<T> p{
      shape,   kernels.plan_winograd(shape, 1, 1), nullptr, weight.const_data_ptr<T>(),
      nullptr, filters.mutable_data_ptr<T>(),      nullptr};
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

}  // namespace

TORCH_LIBRARY_IMPL(cnn_ext, CPU, m) { m.impl("winograd_filters", winograd_filters_cpu); }

TORCH_LIBRARY_IMPL(cnn_ext, Meta, m) { m.impl("winograd_filters", winograd_filters_meta); }

}  // namespace cnn_ext
