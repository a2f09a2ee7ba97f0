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

  // Lanes first <= i < last from memory, zero elsewhere; memory outside that range is not touched.
  static Vec load_range(const T* from, int64_t first, int64_t last);
  // Lanes i < count to memory; memory beyond them is not touched.
  void store_first(T* to, int64_t count) const;

  // this + a * b
  Vec fused_add(Vec a, Vec b) const { return {lanes + a.lanes * b.lanes}; }
};

#if CNN_EXT_VECTOR_BYTES == 64

inline uint32_t lane_mask(int64_t first, int64_t last) {
  return ((1u << last) - 1u) & ~((1u << first) - 1u);
}
template <>
inline Vec<float> Vec<float>::load_range(const float* from, int64_t first, int64_t last) {
  const __mmask16 mask = static_cast<__mmask16>(lane_mask(first, last));
  return {reinterpret_cast<Lanes>(_mm512_maskz_loadu_ps(mask, from))};
}
template <>
inline void Vec<float>::store_first(float* to, int64_t count) const {
  const __mmask16 mask = static_cast<__mmask16>(lane_mask(0, count));
  _mm512_mask_storeu_ps(to, mask, reinterpret_cast<__m512>(lanes));
}
template <>
inline Vec<double> Vec<double>::load_range(const double* from, int64_t first, int64_t last) {
  const __mmask8 mask = static_cast<__mmask8>(lane_mask(first, last));
  return {reinterpret_cast<Lanes>(_mm512_maskz_loadu_pd(mask, from))};
}
template <>
inline void Vec<double>::store_first(double* to, int64_t count) const {
  const __mmask8 mask = static_cast<__mmask8>(lane_mask(0, count));
  _mm512_mask_storeu_pd(to, mask, reinterpret_cast<__m512d>(lanes));
}

#else

template <typename T>
inline Vec<T> Vec<T>::load_range(const T* from, int64_t first, int64_t last) {
  if (first == 0 && last == kLanes) return load(from);
  Vec v = zero();
  for (int64_t i = first; i < last; ++i) v.lanes[i] = from[i];
  return v;
}
template <typename T>
inline void Vec<T>::store_first(T* to, int64_t count) const {
  if (count == kLanes) return store(to);
  for (int64_t i = 0; i < count; ++i) to[i] = lanes[i];
}

#endif
