// The micro-kernel: one tile of a matrix product, held in registers while the whole of k passes by.
// Every convolution algorithm ends here. Included by isa/*.cpp (see vec.h).
//
//   tile (rows, kCols)  (+)=  a (rows, k)  @  b (k, kCols)
//
// a: row-major, `lda` elements from row to row, or, where `Transposed`, column-major, `lda`
// elements from step to step; b: packed, kCols elements from step to step, 64-byte aligned; tile:
// packed, kCols elements from row to row, 64-byte aligned. 1 <= rows <= kRows.
//
// The tile may be the result itself: see `Finish`.

template <typename T>
struct Tile {
  // Accumulators, two vectors of b and one broadcast element of a fill the register file.
  static constexpr int kRows = CNN_EXT_VECTOR_REGISTERS == 32 ? 14 : 6;
  static constexpr int kCols = 2 * Vec<T>::kLanes;
};

// What becomes of a product besides. Without any of it a tile is overwritten.
template <typename T>
struct Finish {
  int64_t row = Tile<T>::kCols;  // elements from row to row of the tile
  const T* bias = nullptr;       // kCols elements, added to every row
  bool accumulate = false;       // added to the tile
  bool relu = false;             // and max(tile, 0)
};

template <typename T, int Rows, bool Transposed>
void multiply_rows(int64_t k, const T* a, int64_t lda, const T* b, T* tile,
                   const Finish<T>& finish) {
  using V = Vec<T>;
  constexpr int kLanes = V::kLanes;
  V sum[Rows][2];
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
    sum[i][0] = V::zero();
    sum[i][1] = V::zero();
  }
  for (int64_t step = 0; step < k; ++step) {
    const V b0 = V::load(b);
    const V b1 = V::load(b + kLanes);
    b += 2 * kLanes;
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      const V ai = V::broadcast(Transposed ? a[step * lda + i] : a[i * lda + step]);
      sum[i][0] = sum[i][0].fused_add(ai, b0);
      sum[i][1] = sum[i][1].fused_add(ai, b1);
    }
  }
  // At the end: a long sum in blocks is more accurate than one chain.
  if (finish.accumulate) {
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      sum[i][0].lanes += V::load(tile + i * finish.row).lanes;
      sum[i][1].lanes += V::load(tile + i * finish.row + kLanes).lanes;
    }
  }
  if (finish.bias != nullptr) {
    const V b0 = V::load(finish.bias), b1 = V::load(finish.bias + kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      sum[i][0].lanes += b0.lanes;
      sum[i][1].lanes += b1.lanes;
    }
  }
  if (finish.relu) {
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      sum[i][0] = sum[i][0].rectified();
      sum[i][1] = sum[i][1].rectified();
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
    sum[i][0].store(tile + i * finish.row);
    sum[i][1].store(tile + i * finish.row + kLanes);
  }
}

// The ReLU of a finished tile.
template <typename T>
inline void rectify(int rows, T* tile) {
  constexpr int kLanes = Vec<T>::kLanes;
  for (int i = 0; i < 2 * rows; ++i) {
    Vec<T>::load(tile + i * kLanes).rectified().store(tile + i * kLanes);
  }
}

template <typename T, bool Transposed = false>
void multiply(int64_t rows, int64_t k, const T* a, int64_t lda, const T* b, T* tile,
              const Finish<T>& finish) {
  using Function = void (*)(int64_t, const T*, int64_t, const T*, T*, const Finish<T>&);
#if CNN_EXT_VECTOR_REGISTERS == 32
  static constexpr Function kByRows[] = {
      multiply_rows<T, 1, Transposed>,  multiply_rows<T, 2, Transposed>,
      multiply_rows<T, 3, Transposed>,  multiply_rows<T, 4, Transposed>,
      multiply_rows<T, 5, Transposed>,  multiply_rows<T, 6, Transposed>,
      multiply_rows<T, 7, Transposed>,  multiply_rows<T, 8, Transposed>,
      multiply_rows<T, 9, Transposed>,  multiply_rows<T, 10, Transposed>,
      multiply_rows<T, 11, Transposed>, multiply_rows<T, 12, Transposed>,
      multiply_rows<T, 13, Transposed>, multiply_rows<T, 14, Transposed>};
#else
  static constexpr Function kByRows[] = {
      multiply_rows<T, 1, Transposed>, multiply_rows<T, 2, Transposed>,
      multiply_rows<T, 3, Transposed>, multiply_rows<T, 4, Transposed>,
      multiply_rows<T, 5, Transposed>, multiply_rows<T, 6, Transposed>};
#endif
  kByRows[rows - 1](k, a, lda, b, tile, finish);
}

// The same with the rows of `a` wherever they are: a[i][offsets[step]].
template <typename T, int Rows>
void multiply_gathered_rows(int64_t k, const T* const* a, const int32_t* offsets, const T* b,
                            T* tile, bool accumulate) {
  using V = Vec<T>;
  constexpr int kLanes = V::kLanes;
  const T* rows[Rows];
  V sum[Rows][2];
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
    rows[i] = a[i];
    sum[i][0] = V::zero();
    sum[i][1] = V::zero();
  }
  for (int64_t step = 0; step < k; ++step) {
    const int64_t offset = offsets[step];
    const V b0 = V::load(b);
    const V b1 = V::load(b + kLanes);
    b += 2 * kLanes;
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      const V ai = V::broadcast(rows[i][offset]);
      sum[i][0] = sum[i][0].fused_add(ai, b0);
      sum[i][1] = sum[i][1].fused_add(ai, b1);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
    T* to = tile + 2 * i * kLanes;
    if (accumulate) {
      sum[i][0].lanes += V::load(to).lanes;
      sum[i][1].lanes += V::load(to + kLanes).lanes;
    }
    sum[i][0].store(to);
    sum[i][1].store(to + kLanes);
  }
}

template <typename T>
void multiply_gathered(int64_t rows, int64_t k, const T* const* a, const int32_t* offsets,
                       const T* b, T* tile, bool accumulate) {
  using Function = void (*)(int64_t, const T* const*, const int32_t*, const T*, T*, bool);
#if CNN_EXT_VECTOR_REGISTERS == 32
  static constexpr Function kByRows[] = {
      multiply_gathered_rows<T, 1>,  multiply_gathered_rows<T, 2>,  multiply_gathered_rows<T, 3>,
      multiply_gathered_rows<T, 4>,  multiply_gathered_rows<T, 5>,  multiply_gathered_rows<T, 6>,
      multiply_gathered_rows<T, 7>,  multiply_gathered_rows<T, 8>,  multiply_gathered_rows<T, 9>,
      multiply_gathered_rows<T, 10>, multiply_gathered_rows<T, 11>, multiply_gathered_rows<T, 12>,
      multiply_gathered_rows<T, 13>, multiply_gathered_rows<T, 14>};
#else
  static constexpr Function kByRows[] = {
      multiply_gathered_rows<T, 1>, multiply_gathered_rows<T, 2>, multiply_gathered_rows<T, 3>,
      multiply_gathered_rows<T, 4>, multiply_gathered_rows<T, 5>, multiply_gathered_rows<T, 6>};
#endif
  kByRows[rows - 1](k, a, offsets, b, tile, accumulate);
}
