// The vector type that the kernels are written over, once for every instruction set: an array of
// lanes with arithmetic from the compiler's vector extension, and loads and stores of a part of it.
//
// Included by isa/ inside a namespace and a target region of their own (each
// of them compiles its own copy). CNN_EXT_VECTOR_BYTES is the width of a register, and
// CNN_EXT_VECTOR_REGISTERS their number.
#pragma once

#if !defined(CNN_EXT_VECTOR_BYTES)  // opened by itself, in an editor
#include "kernels.h"
#define CNN_EXT_VECTOR_BYTES 16
#define CNN_EXT_VECTOR_REGISTERS 16
using namespace cnn_ext::cpu;
#endif

template <typename T>
struct Vec {
  static constexpr int kLanes = CNN_EXT_VECTOR_BYTES / sizeof(T);
  typedef T Lanes __attribute__((vector_size(CNN_EXT_VECTOR_BYTES)));

  Lanes lanes;

  static Vec zero() { return {Lanes{}}; }
  static Vec broadcast(T value) { return {value - Lanes{}}; }  // x - 0 is x, for every x

  static Vec load(const T* from) {
    Vec v;
    __builtin_memcpy(&v.lanes, from, sizeof(Lanes));
    return v;
  }
  void store(T* to) const { __builtin_memcpy(to, &lanes, sizeof(Lanes)); }

  // The lanes first <= i < last. A masked load gives zero elsewhere, a masked store leaves the rest
  // alone, and neither touches memory outside the mask.
  struct Mask;
  static Vec load(const T* from, Mask mask);
  void store(T* to, Mask mask) const;

  // max(this, 0); NaN and -0 stay, as in torch.relu.
  Vec rectified() const { return {lanes < Lanes{} ? Lanes{} : lanes}; }

  // The greater of both, NaN if either is.
  Vec maximum(Vec other) const {
    return {(other.lanes > lanes) | (other.lanes != other.lanes) ? other.lanes : lanes};
  }

  // this + a * b
  Vec fused_add(Vec a, Vec b) const { return {lanes + a.lanes * b.lanes}; }
};

#if CNN_EXT_VECTOR_BYTES == 64  // as many lanes as bits at most

template <typename T>
struct Vec<T>::Mask {
  uint32_t bits;
  static Mask range(int64_t first, int64_t last) {
    return {static_cast<uint32_t>((uint64_t{1} << last) - (uint64_t{1} << first))};
  }
};
template <>
inline Vec<float> Vec<float>::load(const float* from, Mask mask) {
  return {reinterpret_cast<Lanes>(_mm512_maskz_loadu_ps(static_cast<__mmask16>(mask.bits), from))};
}
template <>
inline void Vec<float>::store(float* to, Mask mask) const {
  _mm512_mask_storeu_ps(to, static_cast<__mmask16>(mask.bits), reinterpret_cast<__m512>(lanes));
}
template <>
inline Vec<Pair> Vec<Pair>::load(const Pair* from, Mask mask) {
  return {
      reinterpret_cast<Lanes>(_mm512_maskz_loadu_epi32(static_cast<__mmask16>(mask.bits), from))};
}
template <>
inline Vec<BFloat16> Vec<BFloat16>::load(const BFloat16* from, Mask mask) {
  return {reinterpret_cast<Lanes>(_mm512_maskz_loadu_epi16(mask.bits, from))};
}
template <>
inline void Vec<BFloat16>::store(BFloat16* to, Mask mask) const {
  _mm512_mask_storeu_epi16(to, mask.bits, reinterpret_cast<__m512i>(lanes));
}
template <>
inline void Vec<Pair>::store(Pair* to, Mask mask) const {
  _mm512_mask_storeu_epi32(to, static_cast<__mmask16>(mask.bits), reinterpret_cast<__m512i>(lanes));
}
template <>
inline Vec<double> Vec<double>::load(const double* from, Mask mask) {
  return {reinterpret_cast<Lanes>(_mm512_maskz_loadu_pd(static_cast<__mmask8>(mask.bits), from))};
}
template <>
inline void Vec<double>::store(double* to, Mask mask) const {
  _mm512_mask_storeu_pd(to, static_cast<__mmask8>(mask.bits), reinterpret_cast<__m512d>(lanes));
}

#else

template <typename T>
struct Vec<T>::Mask {
  int64_t first, last;
  static Mask range(int64_t first, int64_t last) { return {first, last}; }
};
template <typename T>
inline Vec<T> Vec<T>::load(const T* from, Mask mask) {
  if (mask.first == 0 && mask.last == kLanes) return load(from);
  T lanes[kLanes] = {};
  for (int i = 0; i < kLanes; ++i) {
    if (i >= mask.first && i < mask.last) lanes[i] = from[i];
  }
  return load(lanes);
}
#if CNN_EXT_VECTOR_BYTES == 32
inline __m256i mask_of_words(int64_t first, int64_t last) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(first)), lane),
                             _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(last)), lane));
}
template <>
inline Vec<float> Vec<float>::load(const float* from, Mask mask) {
  return {reinterpret_cast<Lanes>(_mm256_maskload_ps(from, mask_of_words(mask.first, mask.last)))};
}
template <>
inline Vec<double> Vec<double>::load(const double* from, Mask mask) {
  return {reinterpret_cast<Lanes>(
      _mm256_maskload_pd(from, mask_of_words(2 * mask.first, 2 * mask.last)))};
}
#endif
template <typename T>
inline void Vec<T>::store(T* to, Mask mask) const {
  if (mask.first == 0 && mask.last == kLanes) return store(to);
  for (int i = 0; i < kLanes; ++i) {
    if (i >= mask.first && i < mask.last) to[i] = lanes[i];
  }
}

#endif

// sum + a * b, or of pairs sum + both products.
template <typename T>
inline Vec<T> add_product(Vec<T> sum, Vec<T> a, Vec<T> b) {
  return sum.fused_add(a, b);
}

// From memory, as what it is summed in.
template <typename T>
inline Vec<Sum<T>> get(const T* from) {
  return Vec<T>::load(from);
}
template <typename T>
inline Sum<T> get_one(const T* from) {
  return *from;
}

// To memory, as what it is stored as there.
template <typename T>
inline void put(Vec<T> v, T* to) {
  v.store(to);
}
template <typename T>
inline void put(Vec<T> v, T* to, typename Vec<T>::Mask mask) {
  v.store(to, mask);
}
template <typename T>
inline void put(T value, T* to) {
  *to = value;
}

#if defined(CNN_EXT_BFLOAT16)

// As a float: bits that come by the integer instruction reach the multiplication later.
template <>
inline Vec<Pair> Vec<Pair>::broadcast(Pair value) {
  float bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return {reinterpret_cast<Lanes>(_mm512_set1_ps(bits))};
}

inline Vec<float> add_product(Vec<float> sum, Vec<Pair> a, Vec<Pair> b) {
  return {reinterpret_cast<Vec<float>::Lanes>(
      _mm512_dpbf16_ps(reinterpret_cast<__m512>(sum.lanes), reinterpret_cast<__m512bh>(a.lanes),
                       reinterpret_cast<__m512bh>(b.lanes)))};
}
template <>
inline Vec<float> get(const BFloat16* from) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return {reinterpret_cast<Vec<float>::Lanes>(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
}
template <>
inline float get_one(const BFloat16* from) {
  const uint32_t bits = uint32_t{*from} << 16;
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}
inline __m256i rounded(Vec<float> v) {
  return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(reinterpret_cast<__m512>(v.lanes)));
}
inline void put(Vec<float> v, BFloat16* to) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), rounded(v));
}
inline void put(Vec<float> v, BFloat16* to, Vec<float>::Mask mask) {
  _mm256_mask_storeu_epi16(to, static_cast<__mmask16>(mask.bits), rounded(v));
}
inline void put(float value, BFloat16* to) {
  put(Vec<float>::broadcast(value), to, Vec<float>::Mask::range(0, 1));
}

#endif

template <typename T>
inline Vec<T> square_root(Vec<T> v) {
  for (int i = 0; i < Vec<T>::kLanes; ++i) v.lanes[i] = std::sqrt(v.lanes[i]);
  return v;
}
#if CNN_EXT_VECTOR_BYTES == 64
template <>
inline Vec<float> square_root(Vec<float> v) {
  return {reinterpret_cast<Vec<float>::Lanes>(_mm512_sqrt_ps(reinterpret_cast<__m512>(v.lanes)))};
}
template <>
inline Vec<double> square_root(Vec<double> v) {
  return {reinterpret_cast<Vec<double>::Lanes>(_mm512_sqrt_pd(reinterpret_cast<__m512d>(v.lanes)))};
}
#elif CNN_EXT_VECTOR_BYTES == 32
template <>
inline Vec<float> square_root(Vec<float> v) {
  return {reinterpret_cast<Vec<float>::Lanes>(_mm256_sqrt_ps(reinterpret_cast<__m256>(v.lanes)))};
}
template <>
inline Vec<double> square_root(Vec<double> v) {
  return {reinterpret_cast<Vec<double>::Lanes>(_mm256_sqrt_pd(reinterpret_cast<__m256d>(v.lanes)))};
}
#endif
