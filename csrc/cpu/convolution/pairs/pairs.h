// Channels of bfloat16, two by two. Included by isa/avx512_bf16/ (see vec.h).
#pragma once

#include "../../vec.h"

inline Vec<Pair> interleave(__m256i low, __m256i high) {
  const __m512i upper = _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16);
  return {reinterpret_cast<Vec<Pair>::Lanes>(_mm512_or_si512(_mm512_cvtepu16_epi32(low), upper))};
}

// to[j] = (low[j], high[j]) for j < count
inline void pair_rows(const BFloat16* low, const BFloat16* high, int64_t count, Pair* to) {
  using V = Vec<Pair>;
  int64_t j = 0;
  for (; j + V::kLanes <= count; j += V::kLanes) {
    interleave(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(low + j)),
               _mm256_loadu_si256(reinterpret_cast<const __m256i*>(high + j)))
        .store(to + j);
  }
  if (j == count) return;
  const auto mask = V::Mask::range(0, count - j);
  const auto lanes = static_cast<__mmask16>(mask.bits);
  interleave(_mm256_maskz_loadu_epi16(lanes, low + j), _mm256_maskz_loadu_epi16(lanes, high + j))
      .store(to + j, mask);
}

// Pixel by pixel, `width` elements each, to pairs of pixels; the last of an odd number is beside
// zeros.
inline void pair_pixels(const BFloat16* from, int64_t pixels, int64_t width, Pair* to) {
  constexpr BFloat16 kZeros[2 * Vec<Pair>::kLanes] = {};
  for (int64_t q = 0; q < pixels; q += 2, from += 2 * width, to += width) {
    pair_rows(from, q + 1 < pixels ? from + width : kZeros, width, to);
  }
}

// Rows first <= i < last, counted with the pair as the axis inside the other outer ones.
inline void pair_channels(const Pairing& p, int64_t first, int64_t last) {
  constexpr int kInner = Pairing::kAxes - 1;
  const int64_t length = p.size[kInner], pairs = p.pairs();
  const int64_t from_step = p.from_step[kInner], to_step = p.to_step[kInner];
  int64_t pair = first % pairs, at[kInner];
  const BFloat16* from = p.from;
  Pair* to = p.to;
  for (int64_t axis = kInner - 1, rest = first / pairs; axis >= 0; --axis) {
    at[axis] = rest % p.size[axis];
    rest /= p.size[axis];
    from += at[axis] * p.from_step[axis];
    to += at[axis] * p.to_step[axis];
  }
  for (int64_t i = first; i < last; ++i) {
    const bool alone = 2 * pair + 1 == p.channels;
    const BFloat16* const low = from + 2 * pair * p.from_channel;
    const BFloat16* const high = low + (alone ? 0 : p.from_channel);
    Pair* const row = to + pair * p.to_pair;
    if (from_step == 1 && to_step == 1 && !alone) {
      pair_rows(low, high, length, row);
    } else {
      const uint32_t there = alone ? 0 : 0xffff0000;
      for (int64_t j = 0; j < length; ++j) {
        const uint32_t upper = static_cast<uint32_t>(high[j * from_step]) << 16;
        row[j * to_step] = low[j * from_step] | (upper & there);
      }
    }
    if (++pair < pairs) continue;
    pair = 0;
    for (int axis = kInner - 1; axis >= 0; --axis) {
      from += p.from_step[axis];
      to += p.to_step[axis];
      if (++at[axis] < p.size[axis]) break;
      from -= p.size[axis] * p.from_step[axis];
      to -= p.size[axis] * p.to_step[axis];
      at[axis] = 0;
    }
  }
}
