// s^-beta, of arrays and of vectors. Included by isa/.
#pragma once

#include "../vec.h"

// s[i] becomes s[i]^-beta.
template <Power kPower, typename T>
inline void negative_powers(int64_t count, T beta, T* __restrict s) {
  for (int64_t i = 0; i < count; ++i) {
    if constexpr (kPower == Power::half) s[i] = T(1) / std::sqrt(s[i]);
    if constexpr (kPower == Power::one) s[i] = T(1) / s[i];
    if constexpr (kPower == Power::three_quarters) {
      const T root = T(1) / std::sqrt(s[i]);
      s[i] = root * std::sqrt(root);
    }
    if constexpr (kPower == Power::other) s[i] = std::pow(s[i], -beta);
  }
}

#if CNN_EXT_VECTOR_BYTES == 64

// 1 / sqrt(s) from the processor's estimate (14 bits) by one Newton step, for 0 < s < infinity.
inline __m512 inverse_sqrt(__m512 s, __m512 estimate) {
  const __m512 half_s_e = _mm512_mul_ps(_mm512_mul_ps(s, _mm512_set1_ps(0.5f)), estimate);
  const __m512 step = _mm512_fnmadd_ps(half_s_e, estimate, _mm512_set1_ps(1.5f));
  return _mm512_mul_ps(estimate, step);
}

// s^(-3/4); two square roots and a division take longer.
inline __m512 power_three_quarters(__m512 s) {
  const __m512 estimate = _mm512_rsqrt14_ps(s);
  const __m512 root = inverse_sqrt(s, estimate);                       // s^(-1/2)
  const __m512 quarter = inverse_sqrt(root, _mm512_rsqrt14_ps(root));  // s^(1/4)
  const __m512 power = _mm512_mul_ps(_mm512_mul_ps(root, root), quarter);
  // Of zero and infinity the estimate is the result: infinity and zero.
  const __mmask16 special = _mm512_fpclass_ps_mask(s, 0x02 | 0x04 | 0x08);
  return _mm512_mask_mov_ps(power, special, estimate);
}

template <>
inline void negative_powers<Power::three_quarters, float>(int64_t count, float,
                                                          float* __restrict s) {
  for (int64_t i = 0; i < count; i += 16) {
    const auto mask =
        static_cast<__mmask16>(Vec<float>::Mask::range(0, count - i < 16 ? count - i : 16).bits);
    const __m512 cells = _mm512_maskz_loadu_ps(mask, s + i);
    _mm512_mask_storeu_ps(s + i, mask, power_three_quarters(cells));
  }
}

#endif

template <Power kPower, typename T>
inline Vec<T> vector_power(Vec<T> s) {
  using V = Vec<T>;
  static_assert(kPower != Power::other);
#if CNN_EXT_VECTOR_BYTES == 64
  if constexpr (std::is_same_v<T, float> && kPower == Power::three_quarters) {
    const __m512 cells = reinterpret_cast<__m512>(s.lanes);
    return {reinterpret_cast<typename V::Lanes>(power_three_quarters(cells))};
  }
#endif
  const V one = V::broadcast(T(1));
  if constexpr (kPower == Power::one) return {one.lanes / s.lanes};
  const V root = {one.lanes / square_root(s).lanes};
  if constexpr (kPower == Power::half) return root;
  return {root.lanes * square_root(root).lanes};
}
