// Depthwise convolution: where the elements of a channel lie in what is packed for vectors of
// channels, and the packed filters. Included by isa/ (see vec.h).
#pragma once

#include "plan.h"

// Vectors of neighbouring groups.
template <typename T, int Vectors>
struct Neighbours {
  using V = Vec<Sum<T>>;
  V at[Vectors];

  static Neighbours load(const T* from) {
    Neighbours v;
#pragma GCC unroll 2
    for (int i = 0; i < Vectors; ++i) v.at[i] = get(from + i * V::kLanes);
    return v;
  }
  static Neighbours load_sums(const Sum<T>* from) {
    Neighbours v;
#pragma GCC unroll 2
    for (int i = 0; i < Vectors; ++i) v.at[i] = V::load(from + i * V::kLanes);
    return v;
  }
  void store(T* to) const {
#pragma GCC unroll 2
    for (int i = 0; i < Vectors; ++i) put(at[i], to + i * V::kLanes);
  }
};

// Where a channel's numbers are in what is packed for each vector of them, `step` elements apart.
template <typename T>
int64_t depthwise_place(const Convolution&, int64_t, int64_t g, int64_t step) {
  constexpr int64_t kLanes = Vec<Sum<T>>::kLanes;
  return g / kLanes * step + g % kLanes;
}

#if defined(CNN_EXT_BFLOAT16)

// Two neighbours of bfloat16 are 32 bits: the even groups are a vector, and the odd.
template <>
struct Neighbours<BFloat16, 2> {
  using V = Vec<float>;
  V at[2];

  static Neighbours load(const BFloat16* from) {
    const __m512i bits = _mm512_loadu_si512(from);
    const __m512i odd = _mm512_and_si512(bits, _mm512_set1_epi32(static_cast<int>(0xffff0000)));
    return {{{reinterpret_cast<V::Lanes>(_mm512_slli_epi32(bits, 16))},
             {reinterpret_cast<V::Lanes>(odd)}}};
  }
  static Neighbours load_sums(const float* from) {
    const auto even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const auto odd = _mm512_or_si512(even, _mm512_set1_epi32(1));
    const __m512 a = _mm512_loadu_ps(from), b = _mm512_loadu_ps(from + 16);
    return {{{reinterpret_cast<V::Lanes>(_mm512_permutex2var_ps(a, even, b))},
             {reinterpret_cast<V::Lanes>(_mm512_permutex2var_ps(a, odd, b))}}};
  }
  void store(BFloat16* to) const {
    const __m512i even = _mm512_cvtepu16_epi32(rounded(at[0]));
    const __m512i odd = _mm512_slli_epi32(_mm512_cvtepu16_epi32(rounded(at[1])), 16);
    _mm512_storeu_si512(to, _mm512_or_si512(even, odd));
  }
};

template <>
inline int64_t depthwise_place<BFloat16>(const Convolution& c, int64_t width, int64_t g,
                                         int64_t step) {
  if (width > 1 || g / 32 * 32 + 32 > c.G) return g / 16 * step + g % 16;
  return (g / 32 * 2 + g % 2) * step + g % 32 / 2;
}

#endif

// The filters of channels g0 <= g < g1 as [vector of groups][tap][lane].
template <typename T>
void pack_depthwise_filters(const ConvolutionForward<T>& p, int64_t g0, int64_t g1) {
  constexpr int64_t kLanes = Vec<Sum<T>>::kLanes;
  const FilterStrides& s = p.shape.weight;
  const int64_t taps = p.shape.taps();
  for (int64_t g = g0; g < g1; ++g) {
    Sum<T>* to = p.packed + depthwise_place<T>(p.shape, 1, g, taps * kLanes);
    Tap tap(p.shape, 0);
    for (int64_t t = 0; t < taps; ++t, tap.next(p.shape), to += kLanes) {
      const T* weight = p.weight + g * s.g;
      for (int axis = 0; axis < kSpatial; ++axis) weight += tap.at[axis] * s.spatial[axis];
      *to = g < p.shape.G ? get_one(weight) : 0;
    }
  }
}

// to[tap * to_row + i] = from[its cell, i * lane_step] for i < lanes.
template <typename T>
void gather_taps(const Convolution& c, const T* from, int64_t lane_step, int64_t lanes, T* to,
                 int64_t to_row) {
  if (step_of_taps(c) == 1) return transpose(from, 1, lane_step, c.taps(), lanes, to, to_row);
  Tap tap(c, 0);
  for (int64_t t = 0; t < c.taps(); ++t, tap.next(c), to += to_row) {
    const T* cell = from;
    for (int axis = 0; axis < kSpatial; ++axis) cell += tap.at[axis] * c.weight.spatial[axis];
    transpose(cell, 0, lane_step, 1, lanes, to, 0);
  }
}

// Those of wider groups as [vector of the result's channels][tap][step][lane].
template <typename T>
void pack_group_filters(const ConvolutionForward<T>& p, const Depthwise& cut, int64_t g0,
                        int64_t g1) {
  constexpr int64_t kLanes = Vec<Sum<T>>::kLanes;
  const Convolution& c = p.shape;
  const FilterStrides& s = c.weight;
  const int64_t taps = c.taps(), tap_step = depthwise_tap<T>(cut), steps = tap_step / kLanes;
  const int64_t members = cut.width / steps;  // of a step
  const int64_t lane_step = cut.gradient ? s.c : s.k, sum_step = cut.gradient ? s.k : s.c;
  // Lanes whose weights are evenly apart.
  const bool all = cut.width >= kLanes || s.g == cut.width * lane_step;
  const int64_t even = all ? kLanes : cut.width;
  for (int64_t i = g0 / kLanes * cut.weights; i < g1 / kLanes * cut.weights; ++i) p.packed[i] = 0;
  for (int64_t i = g0; i < g1 && i < c.G; i += even) {
    const int64_t lanes = c.G - i < even ? c.G - i : even;
    const T* const from = p.weight + i / cut.width * s.g + i % cut.width * lane_step;
    Sum<T>* const to = p.packed + i / kLanes * taps * tap_step + i % kLanes;
    for (int64_t m = 0; m < cut.width; ++m) {
      if constexpr (std::is_same_v<T, Sum<T>>) {
        gather_taps(c, from + m * sum_step, lane_step, lanes, to + m * kLanes, tap_step);
      } else {
        T cells[kDirectTaps * kLanes];
        gather_taps(c, from + m * sum_step, lane_step, lanes, cells, kLanes);
        for (int64_t t = 0; t < taps; ++t) {
          char* const pair = reinterpret_cast<char*>(to + t * tap_step + m / members * kLanes) +
                             m % members * sizeof(T);
          for (int64_t lane = 0; lane < lanes; ++lane) {
            __builtin_memcpy(pair + lane * sizeof *to, cells + t * kLanes + lane, sizeof(T));
          }
        }
      }
    }
  }
}

// Vectors first <= i < last.
template <typename T>
void pack_depthwise(const ConvolutionForward<T>& p, const Depthwise& cut, int64_t first,
                    int64_t last) {
  constexpr int64_t kLanes = Vec<Sum<T>>::kLanes;
  if (cut.width > 1) return pack_group_filters(p, cut, first * kLanes, last * kLanes);
  pack_depthwise_filters(p, first * kLanes, last * kLanes);
}
