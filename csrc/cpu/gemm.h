// The micro-kernel: one tile of a matrix product, held in registers while the whole of k passes by.
// Every convolution algorithm ends here. Included by isa/ (see vec.h).
//
//   tile (rows, kCols)  (+)=  a (rows, k)  @  b (k, kCols)
//
// a: row-major, `lda` elements from row to row, or, where `Transposed`, column-major, `lda`
// elements from step to step; b: kCols columns, `ldb` elements from step to step, kCols where it is
// packed; tile: packed, kCols elements from row to row, or the result itself: see `Finish`.
// 1 <= rows <= kRows. A product that fills only the first half of the columns may have twice as
// many rows (`multiply_narrow`, `multiply_gathered<T, 1>`).
#pragma once

#include "lanes.h"

template <typename T>
struct Tile {
  static constexpr int kRows = kTileRows;
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

// To: T, or what the result is stored as, where nothing is accumulated.
template <typename T, int Rows, int Vectors, typename To>
inline __attribute__((always_inline)) void finish_tile(Vec<T> (&sum)[Rows][Vectors], To* tile,
                                                       const Finish<T>& finish) {
  using V = Vec<T>;
  constexpr int kLanes = V::kLanes;
#pragma GCC unroll 2
  for (int j = 0; j < Vectors; ++j) {
    To* const to = tile + j * kLanes;
    // At the end: a long sum in blocks is more accurate than one chain.
    if constexpr (std::is_same_v<To, T>) {
      if (finish.accumulate) {
#pragma GCC unroll 32
        for (int i = 0; i < Rows; ++i) sum[i][j].lanes += V::load(to + i * finish.row).lanes;
      }
    }
    if (finish.bias != nullptr) {
      const V bias = V::load(finish.bias + j * kLanes);
#pragma GCC unroll 32
      for (int i = 0; i < Rows; ++i) sum[i][j].lanes += bias.lanes;
    }
    if (finish.relu) {
#pragma GCC unroll 32
      for (int i = 0; i < Rows; ++i) sum[i][j] = sum[i][j].rectified();
    }
#pragma GCC unroll 32
    for (int i = 0; i < Rows; ++i) put(sum[i][j], to + i * finish.row);
  }
}

// A processor has too few registers for the address of every row: rows are reached from every
// kNear-th of them, by a few multiples of lda. Where one pointer comes from is hidden from the
// compiler, which would go back to one for every row and spill them.
template <typename T>
inline void hide(T*& pointer) {
  asm("" : "+r"(pointer));
}

template <typename T, int Rows, int Vectors, bool Transposed, typename To>
void multiply_rows(int64_t k, const T* a, int64_t lda, const T* b, int64_t ldb, To* tile,
                   const Finish<Sum<T>>& finish) {
  using V = Vec<T>;
  constexpr int kLanes = V::kLanes;
  Vec<Sum<T>> sum[Rows][Vectors];
#pragma GCC unroll 32
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < Vectors; ++j) sum[i][j] = Vec<Sum<T>>::zero();
  }
  constexpr int kBases = Transposed ? 1 : divide_up(Rows, kNear);
  const T* base[kBases];
#pragma GCC unroll 8
  for (int i = 0; i < kBases; ++i) base[i] = a + i * kNear * lda;
  const int64_t step_of_a = Transposed ? lda : 1;
  for (int64_t step = 0; step < k; ++step) {
    V columns[Vectors];
#pragma GCC unroll 2
    for (int j = 0; j < Vectors; ++j) columns[j] = V::load(b + j * kLanes);
    b += ldb;
#pragma GCC unroll 32
    for (int i = 0; i < Rows; ++i) {
      const T* const at = Transposed ? base[0] + i : base[i / kNear] + i % kNear * lda;
      T element;
      __builtin_memcpy(&element, at, sizeof element);  // pairs may have been written one by one
      const V ai = V::broadcast(element);
#pragma GCC unroll 2
      for (int j = 0; j < Vectors; ++j) sum[i][j] = add_product(sum[i][j], ai, columns[j]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < kBases; ++i) {
      base[i] += step_of_a;
      hide(base[i]);
    }
  }
  finish_tile<Sum<T>, Rows, Vectors>(sum, tile, finish);
}

// The ReLU of a finished tile.
template <typename T>
inline void rectify(int rows, T* tile) {
  constexpr int kLanes = Vec<T>::kLanes;
  for (int i = 0; i < 2 * rows; ++i) {
    Vec<T>::load(tile + i * kLanes).rectified().store(tile + i * kLanes);
  }
}

// The kernels for 1, 2, ... rows.
template <typename T, int Vectors, bool Transposed, typename To, typename Rows>
struct MultiplyTable;
template <typename T, int Vectors, bool Transposed, typename To, int... Less>
struct MultiplyTable<T, Vectors, Transposed, To, std::integer_sequence<int, Less...>> {
  using Function = void (*)(int64_t, const T*, int64_t, const T*, int64_t, To*,
                            const Finish<Sum<T>>&);
  static constexpr Function kByRows[] = {multiply_rows<T, Less + 1, Vectors, Transposed, To>...};
};

template <typename T, bool Transposed = false, typename To>
void multiply(int64_t rows, int64_t k, const T* a, int64_t lda, const T* b, int64_t ldb, To* tile,
              const Finish<Sum<T>>& finish) {
  using Rows = std::make_integer_sequence<int, Tile<T>::kRows>;
  MultiplyTable<T, 2, Transposed, To, Rows>::kByRows[rows - 1](k, a, lda, b, ldb, tile, finish);
}

// 1 <= rows <= 2 * kRows, and kCols / 2 columns.
template <typename T, typename To>
void multiply_narrow(int64_t rows, int64_t k, const T* a, int64_t lda, const T* b, int64_t ldb,
                     To* tile, const Finish<Sum<T>>& finish) {
  using Rows = std::make_integer_sequence<int, 2 * Tile<T>::kRows>;
  MultiplyTable<T, 1, false, To, Rows>::kByRows[rows - 1](k, a, lda, b, ldb, tile, finish);
}

// The same with rows wherever they are, a[i][offsets[step]], or with each `Near` of them `lda`
// apart: from the first of these they are reached as above. b is packed.
template <typename T, int Rows, int Vectors, int Near>
void multiply_gathered_rows(int64_t k, const T* const* a, int64_t lda, const int32_t* offsets,
                            const T* b, T* tile, const Finish<T>& finish) {
  using V = Vec<T>;
  constexpr int kLanes = V::kLanes, kBases = divide_up(Rows, Near);
  const T* base[kBases];
#pragma GCC unroll 32
  for (int i = 0; i < kBases; ++i) base[i] = a[i * Near];
  V sum[Rows][Vectors];
#pragma GCC unroll 32
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < Vectors; ++j) sum[i][j] = V::zero();
  }
  for (int64_t step = 0; step < k; ++step) {
    V columns[Vectors];
#pragma GCC unroll 2
    for (int j = 0; j < Vectors; ++j) columns[j] = V::load(b + j * kLanes);
    b += Tile<T>::kCols;
    const T* from[kBases];
#pragma GCC unroll 32
    for (int i = 0; i < kBases; ++i) {
      from[i] = base[i] + offsets[step];
      if constexpr (Near > 1) hide(from[i]);
    }
#pragma GCC unroll 32
    for (int i = 0; i < Rows; ++i) {
      const V ai = V::broadcast(from[i / Near][i % Near * lda]);
#pragma GCC unroll 2
      for (int j = 0; j < Vectors; ++j) sum[i][j] = sum[i][j].fused_add(ai, columns[j]);
    }
  }
  finish_tile<T, Rows, Vectors>(sum, tile, finish);
}

template <typename T, int Vectors, int Near, typename Rows>
struct GatheredTable;
template <typename T, int Vectors, int Near, int... Less>
struct GatheredTable<T, Vectors, Near, std::integer_sequence<int, Less...>> {
  using Function = void (*)(int64_t, const T* const*, int64_t, const int32_t*, const T*, T*,
                            const Finish<T>&);
  static constexpr Function kByRows[] = {multiply_gathered_rows<T, Less + 1, Vectors, Near>...};
};

template <typename T>
inline bool spaced(const T* const* a, int64_t rows, int64_t lda) {
  for (int64_t i = 1; i < rows; ++i) {
    if (i % kNear != 0 && a[i] - a[i - 1] != lda) return false;
  }
  return true;
}

// 1 <= rows <= kRows, or twice as many where the product fills only one vector of the columns.
template <typename T, int Vectors>
void multiply_gathered(int64_t rows, int64_t k, const T* const* a, const int32_t* offsets,
                       const T* b, T* tile, const Finish<T>& finish) {
  constexpr int kRows = Tile<T>::kRows;
  using Any = std::make_integer_sequence<int, kRows>;
  using Spaced = std::make_integer_sequence<int, 2 * kRows / Vectors>;
  const int64_t lda = rows > 1 ? a[1] - a[0] : 0;
  if (spaced(a, rows, lda)) {
    const auto product = GatheredTable<T, Vectors, kNear, Spaced>::kByRows[rows - 1];
    return product(k, a, lda, offsets, b, tile, finish);
  }
  for (int64_t here; rows > 0; rows -= here, a += here, tile += here * finish.row) {
    here = rows > kRows ? divide_up(rows, 2) : rows;  // addresses of more would not fit either
    const auto product = GatheredTable<T, Vectors, 1, Any>::kByRows[here - 1];
    product(k, a, 0, offsets, b, tile, finish);
  }
}

// Rows of a finished tile to memory whose columns lie together.
template <typename T>
inline void put_rows(const Sum<T>* tile, int64_t rows, int64_t columns, Result<T>* to,
                     int64_t to_row) {
  using V = Vec<Sum<T>>;
  for (int64_t j = 0; j < columns; j += V::kLanes) {
    const Sum<T>* const from = tile + j;
    if (columns - j >= V::kLanes) {
      for (int64_t i = 0; i < rows; ++i) {
        put(V::load(from + i * Tile<T>::kCols), to + i * to_row + j);
      }
      continue;
    }
    const auto mask = V::Mask::range(0, columns - j);
    for (int64_t i = 0; i < rows; ++i) {
      put(V::load(from + i * Tile<T>::kCols, mask), to + i * to_row + j, mask);
    }
  }
}
