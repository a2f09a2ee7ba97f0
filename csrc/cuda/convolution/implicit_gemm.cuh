// Convolution, and its weight gradient, as one multiplication of matrices of which the patch matrix
// is never written out: a block gathers a tile of it into shared memory, straight from the input,
// whatever its strides (Chetlur et al., "cuDNN: efficient primitives for deep learning", 2014,
// section 3). The input gradient is a convolution too; the driver sees to that.
//
// A patch has a pixel p = (n, o), the output cell whose window it belongs to, and a step r = (c,
// t), an input channel and a filter tap. Everything is a sum of what the pixel contributes and what
// the step contributes: the place in memory, and the input cell o * stride - padding + t * dilation
// that says whether the patch lies on padding. So the two products
//
//   forward           out[k, p] = sum over r of   w[k, r] patch[r, p]
//   weight gradient   dw[k, r]  = sum over p of   g[k, p] patch[r, p]
//
// are the same kernel with pixels and steps exchanged: `columns` are the ones that the result has,
// `inner` the ones that are summed over.
#pragma once

#include "../../cpu/convolution/problem.h"
#include "../launch.cuh"

namespace cnn_ext::cuda {

using cpu::Convolution;
using cpu::kSpatial;

template <typename T>
struct ImplicitGemm {
  Convolution shape;
  const T* patches;  // the input
  const T* left;     // the weight; or grad_output
  const T* bias;     // (G K), or null
  T* result;
  typename Accumulator<T>::type* parts;  // null, or where each split leaves its sums
  int64_t part_stride;                   // from split to split

  int64_t rows, columns, inner;
  int64_t row_tiles, column_tiles, splits, split;  // `split`: of inner, a multiple of a tile's
  int64_t left_group, left_row, result_group, result_row;
  // How memory runs, so that neighbouring threads read neighbouring cells.
  bool channels_inner;  // steps: channels within taps, as in channels_last
  bool columns_fast;    // of the patches: along columns, not along inner
  bool rows_fast;       // of left: along rows, not along inner
  bool result_rows_fast;
};

// What a pixel, or a step, contributes.
struct PatchEntry {
  int64_t patch;       // to the place in the input
  int64_t other;       // to the place in the output, or in the weight
  int cell[kSpatial];  // to the input cell
};

constexpr int kNoCell = -(1 << 30);  // added to any other cell it is outside of every input

// Whether `cell` is one of an input's, as one comparison.
__device__ inline bool inside(int cell, int64_t size) {
  return static_cast<unsigned>(cell) < static_cast<unsigned>(size);
}

__device__ inline PatchEntry no_entry() { return {0, 0, {kNoCell, 0, 0}}; }

__device__ inline PatchEntry pixel_entry(const Convolution& c, int64_t pixel) {
  PatchEntry entry{0, 0, {0, 0, 0}};
  for (int axis = kSpatial - 1; axis >= 0; --axis) {
    const int64_t rest = divide(pixel, c.out[axis]);
    const int64_t o = pixel - rest * c.out[axis];
    const int64_t cell = o * c.stride[axis] - c.padding[axis];
    entry.patch += cell * c.input.spatial[axis];
    entry.other += o * c.output.spatial[axis];
    entry.cell[axis] = static_cast<int>(cell);
    pixel = rest;
  }
  entry.patch += pixel * c.input.n;
  entry.other += pixel * c.output.n;
  return entry;
}

__device__ inline PatchEntry step_entry(const Convolution& c, int64_t step, bool channels_inner) {
  const int64_t taps = c.filter[0] * c.filter[1] * c.filter[2];
  const int64_t outer = divide(step, channels_inner ? c.C : taps);
  const int64_t within = step - outer * (channels_inner ? c.C : taps);
  const int64_t channel = channels_inner ? within : outer;
  int64_t tap = channels_inner ? outer : within;
  PatchEntry entry{channel * c.input.c, channel * c.weight.c, {0, 0, 0}};
  for (int axis = kSpatial - 1; axis >= 0; --axis) {
    const int64_t rest = divide(tap, c.filter[axis]);
    const int64_t t = tap - rest * c.filter[axis];
    entry.patch += t * c.dilation[axis] * c.input.spatial[axis];
    entry.other += t * c.weight.spatial[axis];
    entry.cell[axis] = static_cast<int>(t * c.dilation[axis]);
    tap = rest;
  }
  return entry;
}

// ---------------------------------------------------------------------------------------------
// Engines: how a tile of rows x inner is multiplied by one of inner x columns.
// ---------------------------------------------------------------------------------------------

// Plain multiplications and additions; every thread holds kMine rows x kOurs columns of the sums,
// in runs of four, so that four cells are read at once.
template <typename Tile>
struct PlainEngine;

template <typename T_, int kRows_, int kColumns_, int kInner_, int kMine_, int kOurs_>
struct PlainTile {
  using T = T_;
  using Engine = PlainEngine<PlainTile>;
  static constexpr int kRows = kRows_, kColumns = kColumns_, kInner = kInner_;
  static constexpr int kMine = kMine_, kOurs = kOurs_;
  static constexpr int kAcross = kColumns / kOurs;  // threads
  static constexpr int kBlock = kRows / kMine * kAcross;
  static constexpr int kLeast = 0;  // compute capability
  static_assert(kMine % 4 == 0 && kOurs % 4 == 0);
};

template <typename Tile>
struct PlainEngine {
  using T = typename Tile::T;
  static constexpr int kRows = Tile::kRows, kColumns = Tile::kColumns, kInner = Tile::kInner;
  static constexpr int kMine = Tile::kMine, kOurs = Tile::kOurs, kAcross = Tile::kAcross;

  using Sum = typename Accumulator<T>::type;
  using Cell = Sum;
  struct alignas(16) Tiles {
    Cell left[kInner][kRows + 4];
    Cell patches[kInner][kColumns + 4];
  };
  struct Shared {
    Tiles tiles;
  };

  Sum sums[kMine][kOurs];

  __device__ static Cell cell(T value) { return static_cast<Cell>(value); }
  __device__ static int row(int i) {
    return i / 4 * (kRows / (kMine / 4)) + static_cast<int>(threadIdx.x) / kAcross * 4 + i % 4;
  }
  __device__ static int column(int j) {
    return j / 4 * (kColumns / (kOurs / 4)) + static_cast<int>(threadIdx.x) % kAcross * 4 + j % 4;
  }

  __device__ PlainEngine() {
#pragma unroll
    for (int i = 0; i < kMine; ++i) {
#pragma unroll
      for (int j = 0; j < kOurs; ++j) sums[i][j] = 0;
    }
  }

  __device__ void multiply(const Tiles& tiles) {
#pragma unroll
    for (int step = 0; step < kInner; ++step) {
      Cell left[kMine], patches[kOurs];
#pragma unroll
      for (int i = 0; i < kMine; ++i) left[i] = tiles.left[step][row(i)];
#pragma unroll
      for (int j = 0; j < kOurs; ++j) patches[j] = tiles.patches[step][column(j)];
#pragma unroll
      for (int i = 0; i < kMine; ++i) {
#pragma unroll
        for (int j = 0; j < kOurs; ++j) sums[i][j] += left[i] * patches[j];
      }
    }
  }

  // write(row, column, sum) for every cell of the tile.
  template <typename Write>
  __device__ void finish(Shared&, bool, const Write& write) {
#pragma unroll
    for (int i = 0; i < kMine; ++i) {
#pragma unroll
      for (int j = 0; j < kOurs; ++j) write(row(i), column(j), sums[i][j]);
    }
  }
};

// Fragments of bfloat16 and TF32 are unknown to the compiler where the device has none.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
using TensorFloat = nvcuda::wmma::precision::tf32;
__device__ inline float tensor_float(float value) { return nvcuda::wmma::__float_to_tf32(value); }
#else
struct TensorFloat;
__device__ inline float tensor_float(float value) { return value; }
#endif

// What the tensor cores take: float16 and bfloat16 as they are, float32 rounded to TF32 (10 bits).
template <typename T>
struct TensorCell;
template <>
struct TensorCell<c10::Half> {
  using Cell = __half;
  using Operand = __half;
  static constexpr int kDepth = 16, kLeast = 70;
  __device__ static Cell from(c10::Half value) {
    return *reinterpret_cast<const __half*>(&value);  // the same 16 bits
  }
};
template <>
struct TensorCell<c10::BFloat16> {
  using Cell = __nv_bfloat16;
  using Operand = __nv_bfloat16;
  static constexpr int kDepth = 16, kLeast = 80;
  __device__ static Cell from(c10::BFloat16 value) {
    return *reinterpret_cast<const __nv_bfloat16*>(&value);
  }
};
template <>
struct TensorCell<float> {
  using Cell = float;
  using Operand = TensorFloat;
  static constexpr int kDepth = 8, kLeast = 80;
  __device__ static Cell from(float value) { return tensor_float(value); }
};

// Tensor cores, through nvcuda::wmma: kDown x kAcross warps, each with whole fragments of 16 x 16.
// The sums are float32 whatever the dtype.
template <typename Tile>
struct TensorEngine;

template <typename T_, int kRows_, int kColumns_, int kInner_, int kDown_, int kAcross_>
struct TensorTile {
  using T = T_;
  using Engine = TensorEngine<TensorTile>;
  static constexpr int kRows = kRows_, kColumns = kColumns_, kInner = kInner_;
  static constexpr int kDown = kDown_, kAcross = kAcross_;  // warps
  static constexpr int kBlock = 32 * kDown * kAcross;
  static constexpr int kLeast = TensorCell<T>::kLeast, kDepth = TensorCell<T>::kDepth;
  static_assert(kRows % (16 * kDown) == 0 && kColumns % (16 * kAcross) == 0);
  static_assert(kInner % kDepth == 0);
};

template <typename Tile>
struct TensorEngine {
  using T = typename Tile::T;
  static constexpr int kRows = Tile::kRows, kColumns = Tile::kColumns, kInner = Tile::kInner;
  static constexpr int kAcross = Tile::kAcross, kDepth = Tile::kDepth;
  static constexpr int kMine = kRows / Tile::kDown / 16, kOurs = kColumns / kAcross / 16;

  using Sum = float;
  using Cell = typename TensorCell<T>::Cell;
  // Rows of 16 bytes more than a power of two, so that they begin in different banks; a fragment
  // begins at a multiple of 32 bytes, as wmma wants it.
  static constexpr int kPad = 16 / sizeof(Cell);
  static constexpr int kLeftStride = kRows + kPad, kPatchStride = kColumns + kPad;
  static constexpr int kSumStride = kColumns + 4;
  struct alignas(32) Tiles {
    Cell left[kInner][kLeftStride];
    Cell patches[kInner][kPatchStride];
  };
  union alignas(32) Shared {
    Tiles tiles;
    float sums[kRows][kSumStride];  // when the tiles are done with
  };

  template <typename Use, typename Operand, typename... Layout>
  using Fragment = nvcuda::wmma::fragment<Use, 16, 16, kDepth, Operand, Layout...>;
  using Operand = typename TensorCell<T>::Operand;

  Fragment<nvcuda::wmma::accumulator, float> sums[kMine][kOurs];

  __device__ static Cell cell(T value) { return TensorCell<T>::from(value); }
  __device__ static int first_row() {
    return static_cast<int>(threadIdx.x) / 32 / kAcross * kMine * 16;
  }
  __device__ static int first_column() {
    return static_cast<int>(threadIdx.x) / 32 % kAcross * kOurs * 16;
  }

  __device__ TensorEngine() {
#pragma unroll
    for (int i = 0; i < kMine; ++i) {
#pragma unroll
      for (int j = 0; j < kOurs; ++j) nvcuda::wmma::fill_fragment(sums[i][j], 0.0f);
    }
  }

  __device__ void multiply(const Tiles& tiles) {
    namespace wmma = nvcuda::wmma;
#pragma unroll
    for (int step = 0; step < kInner; step += kDepth) {
      Fragment<wmma::matrix_a, Operand, wmma::col_major> left[kMine];
#pragma unroll
      for (int i = 0; i < kMine; ++i) {
        wmma::load_matrix_sync(left[i], &tiles.left[step][first_row() + 16 * i], kLeftStride);
      }
#pragma unroll
      for (int j = 0; j < kOurs; ++j) {
        Fragment<wmma::matrix_b, Operand, wmma::row_major> patches;
        wmma::load_matrix_sync(patches, &tiles.patches[step][first_column() + 16 * j],
                               kPatchStride);
#pragma unroll
        for (int i = 0; i < kMine; ++i) wmma::mma_sync(sums[i][j], left[i], patches, sums[i][j]);
      }
    }
  }

  // write(row, column, sum) for every cell of the tile. Every thread calls it, after a barrier: the
  // sums lie where the tiles were.
  template <typename Write>
  __device__ void finish(Shared& shared, bool rows_fast, const Write& write) {
    namespace wmma = nvcuda::wmma;
#pragma unroll
    for (int i = 0; i < kMine; ++i) {
#pragma unroll
      for (int j = 0; j < kOurs; ++j) {
        wmma::store_matrix_sync(&shared.sums[first_row() + 16 * i][first_column() + 16 * j],
                                sums[i][j], kSumStride, wmma::mem_row_major);
      }
    }
    __syncthreads();
    for (int e = threadIdx.x; e < kRows * kColumns; e += Tile::kBlock) {
      const int row = rows_fast ? e % kRows : e / kColumns;
      const int column = rows_fast ? e / kRows : e % kColumns;
      write(row, column, shared.sums[row][column]);
    }
  }
};

// ---------------------------------------------------------------------------------------------
// The kernel
// ---------------------------------------------------------------------------------------------

template <typename Tile, bool kGradient>
__device__ void implicit_gemm_tile(const ImplicitGemm<typename Tile::T>& p) {
  using T = typename Tile::T;
  using Engine = typename Tile::Engine;
  constexpr int kRows = Tile::kRows, kColumns = Tile::kColumns, kInner = Tile::kInner;
  constexpr int kBlock = Tile::kBlock;
  constexpr int kLeftEach = kRows * kInner / kBlock;
  constexpr int kPatchesEach = kColumns * kInner / kBlock;
  static_assert(kLeftEach * kBlock == kRows * kInner);
  static_assert(kPatchesEach * kBlock == kColumns * kInner);
  using Cell = typename Engine::Cell;

  struct Memory {
    typename Engine::Shared shared;
    PatchEntry columns[kColumns];
    PatchEntry inner[kInner];
  };
  CNN_EXT_SHARED(Memory, memory);
  typename Engine::Tiles& tiles = memory.shared.tiles;

  // Which tile: rows change fastest, so that blocks that run together read the same patches.
  int64_t index = blockIdx.x;
  const int64_t first_row = index % p.row_tiles * kRows;
  index /= p.row_tiles;
  const int64_t first_column = index % p.column_tiles * kColumns;
  index /= p.column_tiles;
  const int64_t split = index % p.splits, group = index / p.splits;
  const int64_t begin = split * p.split;
  const int64_t end = begin + p.split < p.inner ? begin + p.split : p.inner;
  const T* const patches = p.patches + group * p.shape.input.g;
  const T* const left = p.left + group * p.left_group;
  const int thread = threadIdx.x;

  const auto entry = [&](bool pixel, int64_t at, int64_t bound) {
    if (at >= bound) return no_entry();
    return pixel ? pixel_entry(p.shape, at) : step_entry(p.shape, at, p.channels_inner);
  };
  const auto lay_inner = [&](int64_t start) {
    for (int i = thread; i < kInner; i += kBlock) {
      memory.inner[i] = entry(kGradient, start + i, end);
    }
  };

  // From device memory into registers: while one tile is multiplied, the next is on its way.
  Cell next_left[kLeftEach], next_patches[kPatchesEach];
  const auto left_place = [&](int each, int& row, int& i) {
    const int e = thread + each * kBlock;
    row = p.rows_fast ? e % kRows : e / kInner;
    i = p.rows_fast ? e / kRows : e % kInner;
  };
  const auto patch_place = [&](int each, int& column, int& i) {
    const int e = thread + each * kBlock;
    column = p.columns_fast ? e % kColumns : e / kInner;
    i = p.columns_fast ? e / kColumns : e % kInner;
  };
  const auto fetch = [&](int64_t start) {
#pragma unroll
    for (int each = 0; each < kLeftEach; ++each) {
      int row, i;
      left_place(each, row, i);
      T value = T(0);
      if (first_row + row < p.rows && start + i < end) {
        value = left[(first_row + row) * p.left_row + memory.inner[i].other];
      }
      next_left[each] = Engine::cell(value);
    }
#pragma unroll
    for (int each = 0; each < kPatchesEach; ++each) {
      int column, i;
      patch_place(each, column, i);
      const PatchEntry& a = memory.columns[column];
      const PatchEntry& b = memory.inner[i];
      T value = T(0);
      if (inside(a.cell[0] + b.cell[0], p.shape.in[0]) &&
          inside(a.cell[1] + b.cell[1], p.shape.in[1]) &&
          inside(a.cell[2] + b.cell[2], p.shape.in[2])) {
        value = patches[a.patch + b.patch];
      }
      next_patches[each] = Engine::cell(value);
    }
  };

  for (int i = thread; i < kColumns; i += kBlock) {
    memory.columns[i] = entry(!kGradient, first_column + i, p.columns);
  }
  lay_inner(begin);
  __syncthreads();
  fetch(begin);
  __syncthreads();

  Engine engine;
  for (int64_t start = begin; start < end; start += kInner) {
#pragma unroll
    for (int each = 0; each < kLeftEach; ++each) {
      int row, i;
      left_place(each, row, i);
      tiles.left[i][row] = next_left[each];
    }
#pragma unroll
    for (int each = 0; each < kPatchesEach; ++each) {
      int column, i;
      patch_place(each, column, i);
      tiles.patches[i][column] = next_patches[each];
    }
    lay_inner(start + kInner);
    __syncthreads();
    if (start + kInner < end) fetch(start + kInner);
    engine.multiply(tiles);
    __syncthreads();
  }

  engine.finish(memory.shared, p.result_rows_fast,
                [&](int row, int column, typename Engine::Sum sum) {
                  if (first_row + row >= p.rows || first_column + column >= p.columns) return;
                  const int64_t at = group * p.result_group + (first_row + row) * p.result_row +
                                     memory.columns[column].other;
                  if (p.parts != nullptr) {
                    p.parts[split * p.part_stride + at] = sum;
                    return;
                  }
                  if (p.bias != nullptr) {
                    using Sum = typename Engine::Sum;
                    sum += static_cast<Sum>(p.bias[group * p.rows + first_row + row]);
                  }
                  p.result[at] = static_cast<T>(sum);
                });
}

// kGradient: the weight gradient, whose columns are steps and whose inner entries are pixels.
template <typename Tile, bool kGradient>
__global__ void __launch_bounds__(Tile::kBlock)
    implicit_gemm(const ImplicitGemm<typename Tile::T> p) {
#if defined(__CUDA_ARCH__)
  constexpr bool kServed = 10 * Tile::kLeast <= __CUDA_ARCH__;  // or never launched
#else
  constexpr bool kServed = true;
#endif
  if constexpr (kServed) implicit_gemm_tile<Tile, kGradient>(p);
}

// result[i] = the sum of what the splits left, in their order.
template <typename T>
__global__ void __launch_bounds__(kThreads) sum_parts(const typename Accumulator<T>::type* parts,
                                                      int64_t splits, int64_t count, T* result) {
  const int64_t i = thread_index();
  if (i >= count) return;
  typename Accumulator<T>::type sum = 0;
  for (int64_t split = 0; split < splits; ++split) sum += parts[split * count + i];
  result[i] = static_cast<T>(sum);
}

}  // namespace cnn_ext::cuda
