// Groups of a few channels and as many filters, as in ResNeXt: the micro-kernels that depthwise
// convolution (depthwise.h) uses where a group has more than one channel. Vectors run along the
// channels, so that one holds several groups; a tap of the filter meets each channel of a group in
// turn, spread to the lanes of all of the group's filters. Three taps side by side meet the same
// cells, so that what is spread serves all three. The runs and their taps are depthwise.h's too.
// Included by isa/ (see vec.h).
#pragma once

#include "../../lanes.h"

// Where a tap of the filter meets a row of the result, in elements from a vector's first.
struct DepthwiseTap {
  int64_t cells, weight;
};

// Neighbouring cells of a result, and the taps that they all have.
template <typename T>
struct DepthwiseRun {
  const DepthwiseTap* taps;
  int64_t tap_count, triples;  // see `put_triples_first`
  const T* from;               // of the first cell, whose neighbours are `step` elements apart
  int64_t from_vector, step;
  const Sum<T>* weights;  // packed
  int64_t weights_vector;
  const Sum<T>* bias;  // or null
  bool relu;
  int64_t channels;
  T* to;
  int64_t to_vector, to_step;
};

// Puts taps whose cells are `step` apart, as three of a filter's row are where neighbouring results
// are one cell apart, before all others, by threes; how many threes.
inline int64_t put_triples_first(DepthwiseTap* taps, int64_t count, int64_t step) {
  DepthwiseTap others[kDirectTaps];
  int64_t triples = 0, rest = 0, t = 0;
  while (t < count) {
    const int64_t apart = t + 2 < count ? taps[t + 1].cells - taps[t].cells : 0;
    const bool even = apart != 0 && taps[t + 2].cells - taps[t + 1].cells == apart;
    if (even && (apart == step || apart == -step)) {
      const DepthwiseTap first = taps[t], second = taps[t + 1], third = taps[t + 2];
      DepthwiseTap* const to = taps + 3 * triples++;
      to[0] = apart == step ? first : third;
      to[1] = second;
      to[2] = apart == step ? third : first;
      t += 3;
    } else {
      others[rest++] = taps[t++];
    }
  }
  for (int64_t i = 0; i < rest; ++i) taps[3 * triples + i] = others[i];
  return triples;
}

// The channels of a vector's groups, of one cell: `kSteps` steps of the sum for each tap.
template <typename T, int Width>
struct Members {
  using V = Vec<Sum<T>>;
  using Element = Sum<T>;  // of the packed weights
  static constexpr int kSteps = Width;
  // Whether a group fills the vector, so that its members are read one by one.
  static constexpr bool kWide =
      Width > V::kLanes || (Width == V::kLanes && std::is_same_v<T, Sum<T>>);

  V lanes;
  const T* group;  // where `kWide`: its first channel
  int64_t vector;  // and elements from vector to vector of it

  static Members load(const T* cell, int64_t to_group, int64_t from_vector) {
    if constexpr (kWide) return {V::zero(), cell - to_group, from_vector};
    return {get(cell), nullptr, 0};
  }
  // Member `I` of every group, in each lane of the group.
  template <int I>
  V spread() const {
    if constexpr (kWide) {
      return V::broadcast(get_one(group + I / V::kLanes * vector + I % V::kLanes));
    } else {
      return spread_lanes<Sum<T>, Width, I>(lanes);
    }
  }
};

#if defined(CNN_EXT_BFLOAT16)

// Two by two, as the processor multiplies them.
template <int Width>
struct PairedMembers {
  using Element = Pair;
  static constexpr int kSteps = Width / 2;

  __m512i pairs;  // of a group of 32; of narrower ones in the lower half

  static PairedMembers load(const BFloat16* cell, int64_t to_group, int64_t) {
    if constexpr (Width == 32) return {_mm512_loadu_si512(cell - to_group)};
    return {_mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(cell)))};
  }
  template <int I>
  Vec<Pair> spread() const {
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i first = _mm512_and_si512(_mm512_srli_epi32(lane, 1), _mm512_set1_epi32(-kSteps));
    const __m512i from = _mm512_or_si512(first, _mm512_set1_epi32(I));
    return {reinterpret_cast<Vec<Pair>::Lanes>(_mm512_permutexvar_epi32(from, pairs))};
  }
};

#endif

template <typename T, int Width>
struct Multiplied {
  using Type = Members<T, Width>;
};
#if defined(CNN_EXT_BFLOAT16)
template <int Width>
struct Multiplied<BFloat16, Width> {
  using Type = PairedMembers<Width>;
};
#endif

// Elements back from a vector of channels to the first of its group.
template <typename T, int Width>
inline int64_t to_group(int64_t vector, int64_t step) {
  return vector % divide_up(Width, Vec<Sum<T>>::kLanes) * step;
}

// sum[i] += cells[i + t] * weights[t] for t < Taps, of one step of the sum, and of all of them.
template <int I, int Taps, typename M, int Pixels, typename T>
inline __attribute__((always_inline)) void add_member(Vec<T> (&sum)[Pixels],
                                                      const M (&cells)[Pixels + Taps - 1],
                                                      const typename M::Element* (&weights)[Taps]) {
  using Weights = Vec<typename M::Element>;
  Weights weight[Taps];
#pragma GCC unroll 3
  for (int t = 0; t < Taps; ++t) weight[t] = Weights::load(weights[t] + I * Weights::kLanes);
#pragma GCC unroll 10
  for (int i = 0; i < Pixels + Taps - 1; ++i) {
    const auto member = cells[i].template spread<I>();
#pragma GCC unroll 3
    for (int t = 0; t < Taps; ++t) {
      if (i - t >= 0 && i - t < Pixels) sum[i - t] = add_product(sum[i - t], member, weight[t]);
    }
  }
}
template <int Taps, typename M, int Pixels, typename T, int... I>
inline __attribute__((always_inline)) void add_members(Vec<T> (&sum)[Pixels],
                                                       const M (&cells)[Pixels + Taps - 1],
                                                       const typename M::Element* (&weights)[Taps],
                                                       std::integer_sequence<int, I...>) {
  (add_member<I, Taps>(sum, cells, weights), ...);
}

// The same of `Taps` neighbouring taps, of the cells from `from`.
template <typename T, int Width, int Taps, int Pixels>
inline __attribute__((always_inline)) void add_taps(
    Vec<Sum<T>> (&sum)[Pixels], const DepthwiseRun<T>& run, const DepthwiseTap* taps, const T* from,
    int64_t back, const typename Multiplied<T, Width>::Type::Element* weights) {
  using M = typename Multiplied<T, Width>::Type;
  M cells[Pixels + Taps - 1];
#pragma GCC unroll 10
  for (int i = 0; i < Pixels + Taps - 1; ++i) {
    cells[i] = M::load(from + taps[0].cells + i * run.step, back, run.from_vector);
  }
  const typename M::Element* of_taps[Taps];
#pragma GCC unroll 3
  for (int t = 0; t < Taps; ++t) of_taps[t] = weights + taps[t].weight;
  add_members<Taps>(sum, cells, of_taps, std::make_integer_sequence<int, M::kSteps>());
}

// to[i * to_step] = bias + the sum over taps and members, for i < Pixels.
template <typename T, int Width, int Pixels>
void group_pixels(const DepthwiseRun<T>& run) {
  using V = Vec<Sum<T>>;
  using M = typename Multiplied<T, Width>::Type;
  const auto* weights = reinterpret_cast<const typename M::Element*>(run.weights);
  for (int64_t v = 0; v * V::kLanes < run.channels; ++v, weights += run.weights_vector) {
    V sum[Pixels], start = V::zero();
    if (run.bias != nullptr) {
      const int64_t left = run.channels - v * V::kLanes;
      const auto mask = V::Mask::range(0, left < V::kLanes ? left : V::kLanes);
      start = V::load(run.bias + v * V::kLanes, mask);
    }
#pragma GCC unroll 8
    for (int i = 0; i < Pixels; ++i) sum[i] = start;
    const T* const from = run.from + v * run.from_vector;
    const int64_t back = to_group<T, Width>(v, run.from_vector);
    const DepthwiseTap *tap = run.taps, *const end = tap + run.tap_count;
    for (; tap < run.taps + 3 * run.triples; tap += 3) {
      add_taps<T, Width, 3>(sum, run, tap, from, back, weights);
    }
    for (; tap < end; ++tap) add_taps<T, Width, 1>(sum, run, tap, from, back, weights);
    T* const to = run.to + v * run.to_vector;
#pragma GCC unroll 8
    for (int i = 0; i < Pixels; ++i) {
      put(run.relu ? sum[i].rectified() : sum[i], to + i * run.to_step);
    }
  }
}

// Rows of gradients and the cells that they meet.
template <typename T>
struct GroupProducts {
  const DepthwiseTap* taps;
  int64_t tap_count, triples;
  const T* gradients;
  int64_t gradient_vector, gradient_step, gradient_row;
  const T* cells;
  int64_t cells_vector, step, cells_row;
  int64_t count, rows;
  Sum<T>* sums;  // of every tap, member and lane
  int64_t sums_vector;
  int64_t vectors;
};

template <int I, typename V, int Taps, int Members>
inline __attribute__((always_inline)) void add_to_all(V (&sum)[Taps][Members],
                                                      const V (&gradient)[Taps], V cell) {
#pragma GCC unroll 3
  for (int t = 0; t < Taps; ++t) sum[t][I] = sum[t][I].fused_add(gradient[t], cell);
}

// sums += gradients * cells, of vector v, for `Taps` taps and members from `First`. Of neighbouring
// taps a cell meets as many gradients; at the ends of a row, where it meets fewer, and of other
// taps each goes through cells of its own.
template <typename T, int Width, int First, int Taps, bool Neighbours, int... I>
inline __attribute__((always_inline)) void add_group_products(const GroupProducts<T>& p, int64_t v,
                                                              const DepthwiseTap* taps,
                                                              std::integer_sequence<int, I...>) {
  using V = Vec<Sum<T>>;
  using M = Members<T, Width>;
  constexpr int kMembers = sizeof...(I), kBefore = Taps - 1;
  const int64_t back = to_group<T, Width>(v, p.cells_vector);
  V sum[Taps][kMembers];
  const T* from[Taps];
#pragma GCC unroll 3
  for (int t = 0; t < Taps; ++t) {
    ((sum[t][I] = V::zero()), ...);
    from[t] = p.cells + v * p.cells_vector + taps[t].cells;
  }
  for (int64_t row = 0; row < p.rows; ++row) {
    const T* const gradients = p.gradients + v * p.gradient_vector + row * p.gradient_row;
    const int64_t first = row * p.cells_row;
    if constexpr (!Neighbours) {
      for (int64_t j = 0; j < p.count; ++j) {
        const V gradient = get(gradients + j * p.gradient_step);
#pragma GCC unroll 3
        for (int t = 0; t < Taps; ++t) {
          const M cell = M::load(from[t] + first + j * p.step, back, p.cells_vector);
          ((sum[t][I] = sum[t][I].fused_add(gradient, cell.template spread<First + I>())), ...);
        }
      }
      continue;
    }
    V gradient[Taps];
    if (p.count > kBefore) {
#pragma GCC unroll 3
      for (int t = 1; t < Taps; ++t) {
        gradient[t - 1] = get(gradients + (kBefore - t) * p.gradient_step);
      }
    }
    for (int64_t j = kBefore; j < p.count; ++j) {
#pragma GCC unroll 3
      for (int t = kBefore; t > 0; --t) gradient[t] = gradient[t - 1];
      gradient[0] = get(gradients + j * p.gradient_step);
      const M cell = M::load(from[0] + first + j * p.step, back, p.cells_vector);
      (add_to_all<I>(sum, gradient, cell.template spread<First + I>()), ...);
    }
#pragma GCC unroll 3
    for (int t = 0; t < Taps; ++t) {
      for (int64_t j = 0; j < p.count; ++j) {
        if (j == kBefore - t && j < p.count - t) j = p.count - t;  // those between are done
        if (j == p.count) break;
        const V at = get(gradients + j * p.gradient_step);
        const M cell = M::load(from[t] + first + j * p.step, back, p.cells_vector);
        ((sum[t][I] = sum[t][I].fused_add(at, cell.template spread<First + I>())), ...);
      }
    }
  }
#pragma GCC unroll 3
  for (int t = 0; t < Taps; ++t) {
    Sum<T>* to = p.sums + v * p.sums_vector + taps[t].weight + First * V::kLanes;
#pragma GCC unroll 16
    for (int i = 0; i < kMembers; ++i, to += V::kLanes) {
      sum[t][i].lanes += V::load(to).lanes;
      sum[t][i].store(to);
    }
  }
}

// As many sums at once as registers hold; all members, in parts.
constexpr int members_at_once(int most) {
  return most >= 16 ? 16 : most >= 8 ? 8 : most >= 4 ? 4 : 2;
}
template <typename T, int Width, int Taps, bool Neighbours, int First = 0>
void add_group_products(const GroupProducts<T>& p, int64_t v, const DepthwiseTap* taps) {
  constexpr int kMost = members_at_once(kGroupSums / Taps);
  constexpr int kAtOnce = Width < kMost ? Width : kMost;
  add_group_products<T, Width, First, Taps, Neighbours>(p, v, taps,
                                                        std::make_integer_sequence<int, kAtOnce>());
  if constexpr (First + kAtOnce < Width) {
    add_group_products<T, Width, Taps, Neighbours, First + kAtOnce>(p, v, taps);
  }
}

template <typename T, int Width>
void add_group_products(const GroupProducts<T>& p) {
  for (int64_t v = 0; v < p.vectors; ++v) {
    int64_t t = 0;
    for (; t < 3 * p.triples; t += 3) {
      add_group_products<T, Width, 3, true>(p, v, p.taps + t);
    }
    for (; t + 3 <= p.tap_count; t += 3) {
      add_group_products<T, Width, 3, false>(p, v, p.taps + t);
    }
    for (; t < p.tap_count; ++t) add_group_products<T, Width, 1, false>(p, v, p.taps + t);
  }
}

// The kernels of a width.
template <typename T>
using RunKernel = void (*)(const DepthwiseRun<T>&);
template <typename T>
struct GroupKernels {
  RunKernel<T> by_pixels[kPixelsAtOnce];  // 1, 2, ... of them
  void (*add_products)(const GroupProducts<T>&);
};
template <typename T, int Width, int... Less>
constexpr GroupKernels<T> group_kernels_of(std::integer_sequence<int, Less...>) {
  return {{group_pixels<T, Width, Less + 1>...}, add_group_products<T, Width>};
}

// Wider groups than kWidestGroup are not asked for: see `narrow_groups`.
template <typename T>
const GroupKernels<T>& group_kernels(int64_t width) {
  constexpr std::make_integer_sequence<int, kPixelsAtOnce> kPixels;
  static constexpr GroupKernels<T> kByWidth[] = {
      group_kernels_of<T, 2>(kPixels), group_kernels_of<T, 4>(kPixels),
      group_kernels_of<T, 8>(kPixels), group_kernels_of<T, (kWidestGroup > 8 ? 16 : 8)>(kPixels),
      group_kernels_of<T, kWidestGroup>(kPixels)};
  int index = 0;
  for (; width > 2; width /= 2) ++index;
  return kByWidth[index];
}

// A run of any length.
template <typename T>
void convolve_run(const RunKernel<T>* by_pixels, DepthwiseRun<T> run, int64_t pixels) {
  for (; pixels > 0; pixels -= kPixelsAtOnce) {
    by_pixels[(pixels < kPixelsAtOnce ? pixels : kPixelsAtOnce) - 1](run);
    run.from += kPixelsAtOnce * run.step;
    run.to += kPixelsAtOnce * run.to_step;
  }
}
