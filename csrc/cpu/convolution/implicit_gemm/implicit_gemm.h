// Convolution as one matrix multiplication whose patch matrix never exists: patches are packed
// block by block into a workspace that fits the cache (implicit GEMM). Both gradients are here too:
// the input gradient is the same kernel under another geometry (flipped filters), the weight
// gradient a product that sums over pixels. Included by isa/ (see vec.h).
//
// Threads, and what the strides mean, are the business of csrc/ops/convolution/implicit_gemm.cpp.
#pragma once

#include "../../gemm.h"
#include "pack.h"
#if defined(CNN_EXT_BFLOAT16)
#include "../pairs/pairs.h"
#endif

// Whether the pixels are cells of the input, read without padding, in rows of at least `length`, or
// in one.
inline bool in_rows(const Convolution& shape, int64_t length) {
  for (int axis = 0; axis < kSpatial; ++axis) {
    if (shape.filter[axis] != 1 || shape.padding[axis] != 0) return false;
    if ((shape.out[axis] - 1) * shape.stride[axis] >= shape.in[axis]) return false;
  }
  return shape.out[2] >= length || shape.pixels() == shape.out[2];
}

// The step between any two neighbouring pixels of the output, or 0 if they lie unevenly.
inline int64_t step_of_pixels(const Convolution& shape) {
  EvenStep pixels;
  for (int axis = kSpatial - 1; axis >= 0; --axis) {
    pixels.add_axis(shape.out[axis], shape.output.spatial[axis]);
  }
  pixels.add_axis(shape.N, shape.output.n);
  if (!pixels.found) return 1;  // one pixel
  return pixels.even ? pixels.step : 0;
}

// Pixels per task: tiles of `side` of them, about kPixelBlock, and as many tasks to each thread.
inline int64_t even_pixel_block(int64_t pixels, int64_t tasks_of_a_block, int64_t side,
                                int64_t threads) {
  const int64_t most = round_up(kPixelBlock, side);
  int64_t best = most, least = INT64_MAX;
  for (int64_t block = most; 3 * block >= 2 * most; block -= side) {
    const int64_t tasks = divide_up(pixels, block) * tasks_of_a_block;
    const int64_t longest = divide_up(tasks, threads) * block;
    if (longest >= least) continue;
    least = longest;
    best = block;
  }
  return best;
}

template <typename T>
Blocking plan_forward(const Convolution& shape, bool bias) {
  constexpr int64_t kRows = Tile<T>::kRows, kCols = Tile<T>::kCols;
  Blocking cut{};
  // The columns of a tile are what the output is contiguous in: pixels of a row, or else filters.
  cut.pixels_on_rows = shape.output.c == 1 && (shape.out[2] == 1 || shape.output.spatial[2] != 1);
  // Rows that far apart fall on the same lines of the cache.
  const bool alias = shape.stride[2] * shape.input.spatial[2] * sizeof(T) % kCachePage == 0;
  cut.in_place = cut.pixels_on_rows && shape.input.c == 1 && in_rows(shape, 4 * kRows) && !alias;
  cut.pixel_step = step_of_pixels(shape);
  // If filters are columns, the bias is added to a finished tile.
  cut.bias_entry = bias && !cut.pixels_on_rows;
  cut.reduction = shape.reduction() + (cut.bias_entry ? 1 : 0);
  cut.blocks = divide_up(cut.reduction, kReductionBlock);
  if (cut.blocks < 1) cut.blocks = 1;
  cut.block = round_up(divide_up(cut.reduction, cut.blocks), 8);
  cut.blocks = cut.reduction == 0 ? 1 : divide_up(cut.reduction, cut.block);
  cut.panel = cut.pixels_on_rows ? kCols : kRows;
  cut.panels = divide_up(shape.K, cut.panel);
  return cut;
}

// Shares the pixels out and, where there are few, the filters as well, or some threads would have
// nothing to do.
template <typename T>
void schedule_forward(const Convolution& shape, Blocking& cut, int64_t threads) {
  const int64_t side = cut.pixels_on_rows ? Tile<T>::kRows : Tile<T>::kCols;
  cut.pixel_block = even_pixel_block(shape.pixels(), shape.G, side, threads);
  cut.pixel_blocks = divide_up(shape.pixels(), cut.pixel_block);
  cut.filter_tasks = divide_up(4 * threads, shape.G * cut.pixel_blocks);
  if (cut.filter_tasks > cut.panels) cut.filter_tasks = cut.panels;
}

template <typename T>
int64_t packed_size(const Convolution& shape, const Blocking& cut) {
  return shape.G * cut.panels * cut.panel * (cut.blocks * cut.block + 1);
}

// Elements of workspace that one thread needs for `convolve`.
template <typename T>
int64_t forward_workspace(const Blocking& cut) {
  constexpr int64_t kTile = Tile<T>::kRows * Tile<T>::kCols;
  const int64_t pixel_side = cut.pixels_on_rows ? Tile<T>::kRows : Tile<T>::kCols;
  const int64_t panels = divide_up(cut.panels, cut.filter_tasks);
  const int64_t tiles = cut.blocks == 1 ? 2 : panels * (cut.pixel_block / pixel_side);
  return (cut.in_place ? 0 : round_up(cut.pixel_block * cut.block, 16)) + tiles * kTile;
}

// Packs panels first <= i < last, counted over all groups.
template <typename T>
void pack_all_filters(const GemmForward<T>& p, int64_t first, int64_t last) {
  CNN_EXT_CHECK_TASKS(first, last, p.shape.G * p.blocking.panels);
  CNN_EXT_CHECK_ALIGNED(p.packed);
  for (int64_t i = first; i < last; ++i) {
    pack_filters(p, i / p.blocking.panels, i % p.blocking.panels);
  }
}

inline int64_t pixel_offset(const FeatureMapStrides& s, const Run& run) {
  int64_t offset = run.n * s.n;
  for (int axis = 0; axis < kSpatial; ++axis) offset += run.out[axis] * s.spatial[axis];
  return offset;
}

// A finished tile whose rows are filters, to the output. runs: those of the tile's pixels.
template <typename T>
void store_filters_on_rows(const GemmForward<T>& p, Result<T>* output, int64_t k, int64_t rows,
                           const Run* runs, int64_t count, int64_t column, const Sum<T>* tile) {
  const FeatureMapStrides& to = p.shape.output;
  for (const Run* run = runs; run < runs + count; ++run) {
    Result<T>* pixel = output + pixel_offset(to, *run) + k * to.c;
    const Sum<T>* from = tile + run->column - column;
    if (to.spatial[2] == 1) {
      put_rows<T>(from, rows, run->length, pixel, to.c);
    } else {
      for (int64_t i = 0; i < rows; ++i, pixel += to.c, from += Tile<T>::kCols) {
        for (int64_t j = 0; j < run->length; ++j) put(from[j], pixel + j * to.spatial[2]);
      }
    }
  }
}

// A finished tile whose rows are pixels, to the output: filters k <= i < k + cols.
template <typename T>
void store_pixels_on_rows(const GemmForward<T>& p, Result<T>* output, int64_t k, int64_t cols,
                          const Run* runs, int64_t count, const Sum<T>* tile) {
  const FeatureMapStrides& to = p.shape.output;
  for (const Run* run = runs; run < runs + count; ++run) {
    Result<T>* pixel = output + pixel_offset(to, *run) + k * to.c;
    if (to.c == 1) {
      put_rows<T>(tile, run->length, cols, pixel, to.spatial[2]);
      tile += run->length * Tile<T>::kCols;
    } else {
      for (int64_t j = 0; j < run->length; ++j, pixel += to.spatial[2], tile += Tile<T>::kCols) {
        for (int64_t i = 0; i < cols; ++i) put(tile[i], pixel + i * to.c);
      }
    }
  }
}

// Whether a sum in blocks may grow where its result is stored.
template <typename T>
bool sums_in_output(const Blocking& cut) {
  return cut.blocks == 1 || !kPairs<T>;
}

// A tile of packed columns, which may fill only the first half of it.
template <typename T, typename To>
void multiply_columns(bool narrow, int64_t rows, int64_t k, const T* a, int64_t lda, const T* b,
                      To* tile, const Finish<Sum<T>>& finish) {
  if (narrow) {
    multiply_narrow<T>(rows, k, a, lda, b, Tile<T>::kCols, tile, finish);
  } else {
    multiply<T>(rows, k, a, lda, b, Tile<T>::kCols, tile, finish);
  }
}

// A task whose pixels are read where they lie, in rows: tiles may start at any of them.
template <typename T>
void convolve_in_place(const GemmForward<T>& p, int64_t g, const Run* runs, int64_t count,
                       int64_t panel0, int64_t panel1, Sum<T>* tiles) {
  constexpr int64_t kRows = Tile<T>::kRows, kCols = Tile<T>::kCols;
  const Convolution& shape = p.shape;
  const Blocking& cut = p.blocking;
  const int64_t from_step = shape.stride[2] * shape.input.spatial[2];
  const int64_t to_step = shape.output.spatial[2];
  const T* const input = p.input + g * shape.input.g;
  Result<T>* const output = p.output + g * shape.output.g;
  for (int64_t block = 0; block < cut.blocks; ++block) {
    const int64_t r0 = block * cut.block;
    const int64_t r1 = r0 + cut.block < cut.reduction ? r0 + cut.block : cut.reduction;
    const bool done = block == cut.blocks - 1;
    for (int64_t panel = panel0; panel < panel1; ++panel) {
      const T* filters =
          p.packed + ((g * cut.blocks + block) * cut.panels + panel) * kCols * cut.block;
      const int64_t k = panel * kCols;
      const int64_t columns = shape.K - k < kCols ? shape.K - k : kCols;
      // Filters that fill half a tile leave registers for twice the pixels.
      const bool narrow = 2 * columns <= kCols;
      const bool whole = columns == kCols || 2 * columns == kCols;
      const bool in_output = whole && sums_in_output<T>(cut);
      const int64_t rows = narrow ? 2 * kRows : kRows;
      Finish<Sum<T>> finish;
      finish.row = in_output ? to_step : kCols;
      finish.accumulate = block > 0;
      finish.relu = done && shape.relu;
      if (done && p.bias != nullptr) finish.bias = bias_panel(p, g, panel);
      Sum<T>* const sums =
          tiles + (cut.blocks == 1 ? 0 : (panel - panel0) * cut.pixel_block * kCols);
      for (const Run* run = runs; run < runs + count; ++run) {
        const T* from = input + r0 + run->n * shape.input.n;
        for (int axis = 0; axis < kSpatial; ++axis) {
          from += run->out[axis] * shape.stride[axis] * shape.input.spatial[axis];
        }
        Result<T>* to = output + k + pixel_offset(shape.output, *run);
        for (int64_t q = 0; q < run->length; q += rows) {
          const int64_t here = run->length - q < rows ? run->length - q : rows;
          Sum<T>* const sum = sums + (cut.blocks == 1 ? 0 : (run->column + q) * kCols);
          if (in_output) {
            multiply_columns(narrow, here, r1 - r0, from, from_step, filters, to, finish);
          } else {
            multiply_columns(narrow, here, r1 - r0, from, from_step, filters, sum, finish);
            if (done) put_rows<T>(sum, here, columns, to, to_step);
          }
          from += rows * from_step;
          to += rows * to_step;
        }
      }
    }
  }
}

// Tasks first <= i < last. workspace: forward_workspace elements, 64-byte aligned.
template <typename T>
void convolve(const GemmForward<T>& p, int64_t first_task, int64_t last_task, T* workspace) {
  CNN_EXT_CHECK_TASKS(first_task, last_task, p.blocking.tasks(p.shape.G));
  CNN_EXT_CHECK_ALIGNED(workspace);
  constexpr int64_t kRows = Tile<T>::kRows, kCols = Tile<T>::kCols;
  const Convolution& shape = p.shape;
  const Blocking& cut = p.blocking;
  const FeatureMapStrides& to = shape.output;
  const int64_t pixel_side = cut.pixels_on_rows ? kRows : kCols;
  Run runs[kPixelBlock + kRows + kCols];
  Run* panel_runs[kPixelBlock + kRows + kCols + 1];  // the first run of each stretch of pixel_side

  for (int64_t task = first_task; task < last_task; ++task) {
    const int64_t pixel_block = task % cut.pixel_blocks;
    const int64_t filter_task = task / cut.pixel_blocks % cut.filter_tasks;
    const int64_t g = task / cut.pixel_blocks / cut.filter_tasks;
    const T* input = p.input + g * shape.input.g;
    Result<T>* output = p.output + g * shape.output.g;

    const int64_t q0 = pixel_block * cut.pixel_block;
    const int64_t q1 =
        q0 + cut.pixel_block < shape.pixels() ? q0 + cut.pixel_block : shape.pixels();
    const int64_t panel0 = filter_task * cut.panels / cut.filter_tasks;
    const int64_t panel1 = (filter_task + 1) * cut.panels / cut.filter_tasks;
    const int64_t boundary = cut.in_place ? cut.pixel_block : pixel_side;
    const int64_t count = cut_runs(shape, q0, q1, boundary, runs);
    if (cut.in_place) {
      convolve_in_place(p, g, runs, count, panel0, panel1, reinterpret_cast<Sum<T>*>(workspace));
      continue;
    }
    T* const patches = workspace;
    Sum<T>* const tiles =
        reinterpret_cast<Sum<T>*>(workspace + round_up(cut.pixel_block * cut.block, 16));
    const int64_t pixel_panels = divide_up(q1 - q0, pixel_side);
    for (int64_t i = 0, run = 0; i < pixel_panels; ++i) {
      panel_runs[i] = runs + run;
      while (run < count && runs[run].column < (i + 1) * pixel_side) ++run;
      panel_runs[i + 1] = runs + run;
    }

    if ((q1 - q0) % kCols != 0 && !cut.pixels_on_rows) {
      T* last = patches + (pixel_panels - 1) * kCols * cut.block;
      for (int64_t i = 0; i < kCols * cut.block; ++i) last[i] = T(0);
    }

    for (int64_t block = 0; block < cut.blocks; ++block) {
      const int64_t r0 = block * cut.block;
      const int64_t r1 = r0 + cut.block < cut.reduction ? r0 + cut.block : cut.reduction;
      if (cut.pixels_on_rows) {
        pack_pixels(shape, input, runs, count, r0, r1, cut.block, patches);
      } else {
        pack_entries(shape, input, runs, count, r0, r1, kCols, cut.block, patches);
      }
      const bool done = block == cut.blocks - 1;
      for (int64_t panel = panel0; panel < panel1; ++panel) {
        const T* filters =
            p.packed + ((g * cut.blocks + block) * cut.panels + panel) * cut.panel * cut.block;
        const int64_t k = panel * cut.panel;
        const int64_t filters_here = shape.K - k < cut.panel ? shape.K - k : cut.panel;
        Finish<Sum<T>> finish;
        finish.accumulate = block > 0;
        finish.relu = done && shape.relu;
        if (done && p.bias != nullptr && !cut.bias_entry) finish.bias = bias_panel(p, g, panel);
        for (int64_t i = 0; i < pixel_panels; ++i) {
          const int64_t index = cut.blocks == 1 ? 0 : (panel - panel0) * pixel_panels + i;
          const int64_t pixels_here =
              q1 - q0 - i * pixel_side < pixel_side ? q1 - q0 - i * pixel_side : pixel_side;
          const Run* run = panel_runs[i];
          const int64_t run_count = panel_runs[i + 1] - run;
          // Whole tiles go to the output at once.
          Sum<T>* const tile = tiles + index * kRows * kCols;
          finish.row = kCols;
          bool in_output = sums_in_output<T>(cut);
          if (cut.pixels_on_rows) {
            in_output &= filters_here == kCols && (cut.pixel_step != 0 || run_count == 1);
            if (in_output) finish.row = run_count == 1 ? to.spatial[2] : cut.pixel_step;
          } else {
            in_output &= pixels_here == kCols && run_count == 1 && to.spatial[2] == 1;
            if (in_output) finish.row = to.c;
          }
          const T* const pixels = patches + i * pixel_side * cut.block;
          const T* const a = cut.pixels_on_rows ? pixels : filters;
          const T* const b = cut.pixels_on_rows ? filters : pixels;
          const int64_t rows = cut.pixels_on_rows ? pixels_here : filters_here;
          if (in_output) {
            Result<T>* const cells = output + pixel_offset(to, *run) + k * to.c;
            multiply<T>(rows, r1 - r0, a, cut.block, b, kCols, cells, finish);
            continue;
          }
          multiply<T>(rows, r1 - r0, a, cut.block, b, kCols, tile, finish);
          if (!done) continue;
          if (cut.pixels_on_rows) {
            store_pixels_on_rows(p, output, k, filters_here, run, run_count, tile);
          } else {
            store_filters_on_rows(p, output, k, filters_here, run, run_count, i * kCols, tile);
          }
        }
      }
    }
  }
}

template <typename T>
GradientBlocking plan_weight_gradient(const Convolution& shape) {
  constexpr int64_t kRows = Tile<T>::kRows, kCols = Tile<T>::kCols;
  GradientBlocking cut{};
  // The columns of a tile are read from memory that is contiguous in them, so they are what the
  // input is contiguous in: its channels, or else the filters. Few filters would waste a tile.
  cut.filters_on_rows = (shape.input.c == 1 && shape.C > 1) || shape.K <= kCols / 2;
  cut.rows_by_pixel = cut.filters_on_rows && shape.output.c == 1 && shape.K > 1;
  // Few products to a number are not worth copying it.
  cut.in_place = !kPairs<T> && cut.rows_by_pixel && shape.input.c == 1 &&
                 shape.K <= kFiltersInPlace && in_rows(shape, shape.pixels());
  cut.pixel_block = kPixelBlock;
  const int64_t side = cut.filters_on_rows ? kCols : kRows;
  const int64_t filter_side = cut.filters_on_rows ? kRows : kCols;
  // Chunks as square as can be: each packs its filters' gradients and its patches anew.
  const int64_t filters = kAccumulators / shape.reduction();
  cut.filter_chunks = divide_up(shape.K, filters < kChunk ? kChunk : filters);
  cut.filter_chunk = round_up(divide_up(shape.K, cut.filter_chunks), filter_side);
  cut.filter_chunks = divide_up(shape.K, cut.filter_chunk);
  const int64_t entries = kAccumulators / cut.filter_chunk;
  cut.chunks = divide_up(shape.reduction(), entries < side ? side : entries);
  cut.splits = parts_of_sum(shape, shape.G * cut.filter_chunks * cut.chunks, kPartPixels);
  return cut;
}

// Gives each thread as many tasks, by cutting the reduction into more chunks.
template <typename T>
void schedule_weight_gradient(const Convolution& shape, GradientBlocking& cut, int64_t threads) {
  const int64_t side = cut.filters_on_rows ? Tile<T>::kCols : Tile<T>::kRows;
  const int64_t tasks = cut.tasks(shape.G);
  cut.chunks = divide_up(cut.chunks * round_up(tasks, threads), tasks);
  cut.chunk = round_up(divide_up(shape.reduction(), cut.chunks), side);
  cut.chunks = divide_up(shape.reduction(), cut.chunk);
}

// Elements of workspace that one thread needs for `weight_gradient`.
template <typename T>
int64_t weight_gradient_workspace(const GradientBlocking& cut) {
  const int64_t block = kPairs<T> ? cut.pixel_block / 2 : cut.pixel_block;
  const int64_t spare = kPairs<T> ? Tile<T>::kCols : 0;  // a panel before its pixels are paired
  return block * (cut.filter_chunk + cut.chunk + spare) + cut.filter_chunk * cut.chunk;
}

// Channels first <= c < last of every run's pixels, where they are innermost in memory, as
// to[tile of kRows channels][pixel][channel of the tile], kPixelBlock pixels to a tile.
template <int64_t kRows, typename T>
void pack_rows_by_pixel(const Convolution& shape, const T* input, const Run* runs, int64_t count,
                        int64_t first, int64_t last, T* to) {
  for (const Run* run = runs; run < runs + count; ++run) {
    const T* from = input + pixel_offset(shape.input, *run) + first;
    for (int64_t j = 0; j < run->length; ++j, from += shape.input.spatial[2]) {
      T* row = to + (run->column + j) * kRows;
      int64_t c = 0;
      for (; c + kRows <= last - first; c += kRows, row += kRows * kPixelBlock) {
        __builtin_memcpy(row, from + c, kRows * sizeof(T));
      }
      for (int64_t i = 0; c < last - first; ++i, ++c) row[i] = from[c];
    }
  }
}

// The sides of the product that a block of pixels is: rows as to[row][pixel] or, where they are
// packed by pixel, to[tile of rows][pixel][row], columns as to[pixel][column]. With pairs of pixels
// for pixels, where the operands are such. spare: a panel of columns.
template <typename T>
struct PixelBlock {
  const GradientBlocking& cut;
  const Run* runs;
  int64_t count, pixels;
  Operand<T>* spare;

  static constexpr int64_t kRows = Tile<T>::kRows, kCols = Tile<T>::kCols;

  void pack_rows(const Convolution& shape, const Operand<T>* from, int64_t first, int64_t last,
                 T* to) const {
    auto* const cells = reinterpret_cast<Operand<T>*>(to);
    if (!cut.rows_by_pixel) {
      pack_entries(shape, from, runs, count, first, last, cut.pixel_block, 0, cells);
      if (!kPairs<T> || pixels % 2 == 0) return;
      for (int64_t i = 0; i < last - first; ++i) cells[i * cut.pixel_block + pixels] = 0;
      return;
    }
    if constexpr (!kPairs<T>) {
      pack_rows_by_pixel<kRows>(shape, from, runs, count, first, last, to);
    } else {
      for (; first < last; first += kRows, to += kRows * cut.pixel_block / 2) {
        const int64_t end = first + kRows < last ? first + kRows : last;
        pack_rows_by_pixel<kRows>(shape, from, runs, count, first, end, spare);
        pair_pixels(spare, pixels, kRows, to);
      }
    }
  }

  void pack_columns(const Convolution& shape, const Operand<T>* from, int64_t first, int64_t last,
                    T* to) const {
    if constexpr (!kPairs<T>) {
      pack_pixels(shape, from, runs, count, first, last, kCols, to);
    } else {
      pack_pixels(shape, from, runs, count, first, last, kCols, spare);
      pair_pixels(spare, pixels, kCols, to);
    }
  }
};

// to[i * to_row + j * to_column] = from[i * from_row + j]
template <typename T>
inline void store_matrix(const T* from, int64_t from_row, int64_t rows, int64_t columns, T* to,
                         int64_t to_row, int64_t to_column) {
  if (to_column == 1) return copy_rows(from, from_row, 1, 0, columns, columns, rows, to, to_row);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) to[i * to_row + j * to_column] = from[i * from_row + j];
  }
}

// Tasks first <= i < last. workspace: weight_gradient_workspace elements, 64-byte aligned.
template <typename T>
void weight_gradient(const GemmWeightGradient<T>& p, int64_t first_task, int64_t last_task,
                     T* workspace) {
  CNN_EXT_CHECK_TASKS(first_task, last_task, p.blocking.tasks(p.shape.G));
  CNN_EXT_CHECK_ALIGNED(workspace);
  constexpr int64_t kRows = Tile<T>::kRows, kCols = Tile<T>::kCols;
  const Convolution& shape = p.shape;
  const GradientBlocking& cut = p.blocking;
  // Of this block of pixels and chunk. Elements are pixels, or pairs of them.
  const int64_t block = kPairs<T> ? cut.pixel_block / 2 : cut.pixel_block;
  T* const gradients = workspace;
  T* const patches = gradients + block * cut.filter_chunk;
  T* const spare = patches + block * cut.chunk;
  T* const tiles_begin = spare + (kPairs<T> ? block * kCols : 0);
  Sum<T>* const tiles = reinterpret_cast<Sum<T>*>(tiles_begin);

  // The output gradient is read like the patches of a 1 x 1 convolution over it.
  Convolution gradient = shape;
  gradient.C = shape.K;
  gradient.input = shape.output;
  for (int axis = 0; axis < kSpatial; ++axis) {
    gradient.in[axis] = shape.out[axis];
    gradient.filter[axis] = gradient.stride[axis] = gradient.dilation[axis] = 1;
    gradient.padding[axis] = 0;
  }
  Run runs[kPixelBlock];

  for (int64_t task = first_task; task < last_task; ++task) {
    const int64_t chunk = task % cut.chunks;
    const int64_t filter_chunk = task / cut.chunks % cut.filter_chunks;
    const int64_t split = task / cut.chunks / cut.filter_chunks % cut.splits;
    const int64_t g = task / cut.chunks / cut.filter_chunks / cut.splits;
    const Operand<T>* input = p.input + g * shape.input.g;
    const Operand<T>* grad_output = p.grad_output + g * shape.output.g;
    const int64_t r0 = chunk * cut.chunk, k0 = filter_chunk * cut.filter_chunk;
    const int64_t r1 = r0 + cut.chunk < shape.reduction() ? r0 + cut.chunk : shape.reduction();
    const int64_t filters = shape.K - k0 < cut.filter_chunk ? shape.K - k0 : cut.filter_chunk;

    // rows x columns of the result, whichever way round
    const int64_t rows = cut.filters_on_rows ? filters : r1 - r0;
    const int64_t cols = cut.filters_on_rows ? r1 - r0 : filters;
    const int64_t row_tiles = divide_up(rows, kRows), col_tiles = divide_up(cols, kCols);

    // Columns that no filter or patch entry fills are multiplied all the same.
    T* const last_panel =
        (cut.filters_on_rows ? patches : gradients) + (col_tiles - 1) * kCols * block;
    __builtin_memset(kPairs<T> ? spare : last_panel, 0, kCols * block * sizeof(T));

    const int64_t begin = split * shape.pixels() / cut.splits;
    const int64_t end = (split + 1) * shape.pixels() / cut.splits;
    for (int64_t q0 = begin; q0 < end; q0 += cut.pixel_block) {
      const int64_t q1 = q0 + cut.pixel_block < end ? q0 + cut.pixel_block : end;
      const int64_t count = cut_runs(shape, q0, q1, cut.pixel_block, runs);
      const Convolution& on_rows = cut.filters_on_rows ? gradient : shape;
      const Convolution& on_cols = cut.filters_on_rows ? shape : gradient;
      const Operand<T>* row_source = cut.filters_on_rows ? grad_output : input;
      const Operand<T>* col_source = cut.filters_on_rows ? input : grad_output;
      T* const row_side = cut.filters_on_rows ? gradients : patches;
      T* const col_side = cut.filters_on_rows ? patches : gradients;
      const int64_t row0 = cut.filters_on_rows ? k0 : r0;
      const int64_t col0 = cut.filters_on_rows ? r0 : k0;
      const int64_t row_step = on_rows.stride[2] * on_rows.input.spatial[2];
      const int64_t col_step = on_cols.stride[2] * on_cols.input.spatial[2];

      Finish<Sum<T>> finish;
      finish.accumulate = q0 > begin;

      const PixelBlock<T> pixels{cut, runs, count, q1 - q0, reinterpret_cast<Operand<T>*>(spare)};
      const int64_t steps = kPairs<T> ? divide_up(q1 - q0, 2) : q1 - q0;
      // In place both are read where they lie, but for columns that do not fill their panel.
      if (!cut.in_place) pixels.pack_rows(on_rows, row_source, row0, row0 + rows, row_side);
      for (int64_t j = 0; j < col_tiles; ++j) {
        const int64_t last = (j + 1) * kCols < cols ? (j + 1) * kCols : cols;
        if (cut.in_place && last - j * kCols == kCols) continue;
        pixels.pack_columns(on_cols, col_source, col0 + j * kCols, col0 + last,
                            col_side + j * kCols * block);
      }
      for (int64_t j = 0; j < col_tiles; ++j) {
        for (int64_t i = 0; i < row_tiles; ++i) {
          const int64_t here = rows - i * kRows < kRows ? rows - i * kRows : kRows;
          const T* const a = row_side + i * kRows * block;
          const T* const b = col_side + j * kCols * block;
          Sum<T>* const tile = tiles + (j * row_tiles + i) * kRows * kCols;
          if (cut.in_place) {
            if constexpr (!kPairs<T>) {
              const bool packed = (j + 1) * kCols > cols;
              multiply<T, true>(here, steps, row_source + q0 * row_step + row0 + i * kRows,
                                row_step,
                                packed ? b : col_source + q0 * col_step + col0 + j * kCols,
                                packed ? kCols : col_step, tile, finish);
            }
          } else if (cut.rows_by_pixel) {
            multiply<T, true>(here, steps, a, kRows, b, kCols, tile, finish);
          } else {
            multiply<T>(here, steps, a, block, b, kCols, tile, finish);
          }
        }
      }
    }

    // Tiles side by side are matrices of kCols columns: from[row][column], panel by panel.
    const FilterStrides& s = shape.weight;
    Sum<T>* const result = p.grad_weight + split * p.split_stride + g * s.g + k0 * s.k;
    for (int64_t j = 0; j < col_tiles; ++j) {
      const Sum<T>* const from = tiles + j * row_tiles * kRows * kCols;
      const int64_t columns = cols - j * kCols < kCols ? cols - j * kCols : kCols;
      const int64_t e0 = r0 + (cut.filters_on_rows ? j * kCols : 0);
      const int64_t e1 = cut.filters_on_rows ? e0 + columns : r1;
      int64_t index = e0 / shape.C;
      for (Tap tap(shape, index); index * shape.C < e1; ++index, tap.next(shape)) {
        const TapRange range = tap_range(shape, index, e0, e1);  // of entries of one tap
        const int64_t entries = range.c1 - range.c0;
        Sum<T>* to = result + range.c0 * s.c;
        for (int axis = 0; axis < kSpatial; ++axis) to += tap.at[axis] * s.spatial[axis];
        if (cut.filters_on_rows) {
          store_matrix(from + range.r0, kCols, filters, entries, to, s.k, s.c);
          continue;
        }
        for (int64_t i = 0; i < columns; i += Vec<T>::kLanes) {
          const int64_t lanes = columns - i < Vec<T>::kLanes ? columns - i : Vec<T>::kLanes;
          scatter_lanes(from + range.r0 * kCols + i, kCols, entries, to + (j * kCols + i) * s.k,
                        s.k, lanes, s.c);
        }
      }
    }
  }
}
