// The vector type that the kernels are written over, once for every instruction set: an array of
// lanes with arithmetic from the compiler's vector extension, and loads and stores of a part of it.
//
// Included by isa/*.cpp inside a namespace and a target region of their own (no include guard: each
// of them compiles its own copy). CNN_EXT_VECTOR_BYTES is the width of a register, and
// CNN_EXT_VECTOR_REGISTERS their number.

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

#if CNN_EXT_VECTOR_BYTES == 64

template <typename T>
struct Vec<T>::Mask {
  uint32_t bits;
  static Mask range(int64_t first, int64_t last) {
    return {((1u << last) - 1u) & ~((1u << first) - 1u)};
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
