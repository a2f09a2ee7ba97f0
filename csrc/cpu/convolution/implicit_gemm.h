// Convolution as one matrix multiplication whose patch matrix never exists: patches are packed
// block by block into a workspace that fits the cache (implicit GEMM). Both gradients are here too:
// the input gradient is the same kernel under another geometry (flipped filters), the weight
// gradient a product that sums over pixels. Included by isa/*.cpp (see vec.h).
//
// Threads, and what the strides mean, are the caller's business: csrc/ops/convolution_cpu.cpp.

constexpr int64_t kReductionBlock =
    256;                              // entries per block: a packed panel of patches stays in L1
constexpr int64_t kPixelBlock = 128;  // pixels per task: the packed block stays in L2
constexpr int64_t kAccumulators = 128 * 1024;  // elements that a weight-gradient task may hold

// Cuts a convolution for `threads` threads.
template <typename T>
Blocking plan_forward(const Convolution& shape, bool bias, int64_t threads) {
  constexpr int64_t kRows = Tile<T>::kRows, kCols = Tile<T>::kCols;
  Blocking cut{};
  // The columns of a tile are what the output is contiguous in: pixels of a row, or else filters.
  cut.pixels_on_rows = shape.output.c == 1 && (shape.out[2] == 1 || shape.output.spatial[2] != 1);
  cut.reduction = shape.reduction() + (bias ? 1 : 0);
  cut.blocks = divide_up(cut.reduction, kReductionBlock);
  if (cut.blocks < 1) cut.blocks = 1;
  cut.block = round_up(divide_up(cut.reduction, cut.blocks), 8);
  cut.blocks = cut.reduction == 0 ? 1 : divide_up(cut.reduction, cut.block);
  cut.panel = cut.pixels_on_rows ? kCols : kRows;
  cut.panels = divide_up(shape.K, cut.panel);
  cut.pixel_block = round_up(kPixelBlock, cut.pixels_on_rows ? kRows : kCols);
  cut.pixel_blocks = divide_up(shape.pixels(), cut.pixel_block);
  // Few pixels: share out the filters as well, or some threads would have nothing to do.
  cut.filter_tasks = divide_up(4 * threads, shape.G * cut.pixel_blocks);
  if (cut.filter_tasks > cut.panels) cut.filter_tasks = cut.panels;
  return cut;
}

template <typename T>
int64_t packed_size(const Convolution& shape, const Blocking& cut) {
  return shape.G * cut.blocks * cut.panels * cut.panel * cut.block;
}

// Elements of workspace that one thread needs for `convolve`.
template <typename T>
int64_t forward_workspace(const Blocking& cut) {
  constexpr int64_t kTile = Tile<T>::kRows * Tile<T>::kCols;
  const int64_t pixel_side = cut.pixels_on_rows ? Tile<T>::kRows : Tile<T>::kCols;
  const int64_t panels = divide_up(cut.panels, cut.filter_tasks);
  const int64_t tiles = cut.blocks == 1 ? 1 : panels * (cut.pixel_block / pixel_side);
  return round_up(cut.pixel_block * cut.block, 16) + tiles * kTile;
}

// Packs panels first <= i < last, counted over all groups.
template <typename T>
void pack_all_filters(const ConvolutionForward<T>& p, int64_t first, int64_t last) {
  for (int64_t i = first; i < last; ++i) {
    pack_filters(p, i / p.blocking.panels, i % p.blocking.panels);
  }
}

// A finished tile whose rows are filters, to the output. runs: those of the tile's pixels.
template <typename T>
void store_filters_on_rows(const ConvolutionForward<T>& p, T* output, int64_t k, int64_t rows,
                           const Run* runs, int64_t count, int64_t column, const T* tile) {
  const FeatureMapStrides& to = p.shape.output;
  for (const Run* run = runs; run < runs + count; ++run) {
    T* pixel = output + run->n * to.n + k * to.c;
    for (int axis = 0; axis < kSpatial; ++axis) pixel += run->out[axis] * to.spatial[axis];
    const T* from = tile + run->column - column;
    if (to.spatial[2] == 1) {
      copy_rows(from, Tile<T>::kCols, 1, 0, run->length, run->length, rows, pixel, to.c);
    } else {
      for (int64_t i = 0; i < rows; ++i, pixel += to.c, from += Tile<T>::kCols) {
        for (int64_t j = 0; j < run->length; ++j) pixel[j * to.spatial[2]] = from[j];
      }
    }
  }
}

// A finished tile whose rows are pixels, to the output: filters k <= i < k + cols.
template <typename T>
void store_pixels_on_rows(const ConvolutionForward<T>& p, T* output, int64_t k, int64_t cols,
                          const Run* runs, int64_t count, const T* tile) {
  const FeatureMapStrides& to = p.shape.output;
  for (const Run* run = runs; run < runs + count; ++run) {
    T* pixel = output + run->n * to.n + k * to.c;
    for (int axis = 0; axis < kSpatial; ++axis) pixel += run->out[axis] * to.spatial[axis];
    if (to.c == 1) {
      copy_rows(tile, Tile<T>::kCols, 1, 0, cols, cols, run->length, pixel, to.spatial[2]);
      tile += run->length * Tile<T>::kCols;
    } else {
      for (int64_t j = 0; j < run->length; ++j, pixel += to.spatial[2], tile += Tile<T>::kCols) {
        for (int64_t i = 0; i < cols; ++i) pixel[i * to.c] = tile[i];
      }
    }
  }
}

// Tasks first <= i < last. workspace: forward_workspace elements, 64-byte aligned.
template <typename T>
void convolve(const ConvolutionForward<T>& p, int64_t first_task, int64_t last_task, T* workspace) {
  constexpr int64_t kRows = Tile<T>::kRows, kCols = Tile<T>::kCols;
  const Convolution& shape = p.shape;
  const Blocking& cut = p.blocking;
  const int64_t pixel_side = cut.pixels_on_rows ? kRows : kCols;
  T* const patches = workspace;
  T* const tiles = workspace + round_up(cut.pixel_block * cut.block, 16);
  Run runs[kPixelBlock + 2 * kCols];
  Run* panel_runs[kPixelBlock + 2 * kCols + 1];  // the first run of each stretch of pixel_side

  for (int64_t task = first_task; task < last_task; ++task) {
    const int64_t pixel_block = task % cut.pixel_blocks;
    const int64_t filter_task = task / cut.pixel_blocks % cut.filter_tasks;
    const int64_t g = task / cut.pixel_blocks / cut.filter_tasks;
    const T* input = p.input + g * shape.input.g;
    T* output = p.output + g * shape.output.g;

    const int64_t q0 = pixel_block * cut.pixel_block;
    const int64_t q1 =
        q0 + cut.pixel_block < shape.pixels() ? q0 + cut.pixel_block : shape.pixels();
    const int64_t count = cut_runs(shape, q0, q1, pixel_side, runs);
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

    const int64_t panel0 = filter_task * cut.panels / cut.filter_tasks;
    const int64_t panel1 = (filter_task + 1) * cut.panels / cut.filter_tasks;
    for (int64_t block = 0; block < cut.blocks; ++block) {
      const int64_t r0 = block * cut.block;
      const int64_t r1 = r0 + cut.block < cut.reduction ? r0 + cut.block : cut.reduction;
      if (cut.pixels_on_rows) {
        pack_pixels(shape, input, runs, count, r0, r1, cut.block, patches);
      } else {
        pack_entries(shape, input, runs, count, r0, r1, kCols, cut.block, patches);
      }
      for (int64_t panel = panel0; panel < panel1; ++panel) {
        const T* filters =
            p.packed + ((g * cut.blocks + block) * cut.panels + panel) * cut.panel * cut.block;
        const int64_t k = panel * cut.panel;
        const int64_t filters_here = shape.K - k < cut.panel ? shape.K - k : cut.panel;
        for (int64_t i = 0; i < pixel_panels; ++i) {
          const int64_t index = cut.blocks == 1 ? 0 : (panel - panel0) * pixel_panels + i;
          T* tile = tiles + index * kRows * kCols;
          const T* pixels = patches + i * pixel_side * cut.block;
          const int64_t pixels_here =
              q1 - q0 - i * pixel_side < pixel_side ? q1 - q0 - i * pixel_side : pixel_side;
          const int64_t run_count = panel_runs[i + 1] - panel_runs[i];
          const bool done = block == cut.blocks - 1;
          if (cut.pixels_on_rows) {
            multiply<T>(static_cast<int>(pixels_here), r1 - r0, pixels, cut.block, filters, tile,
                        block > 0);
            if (done) {
              if (shape.relu) rectify(static_cast<int>(pixels_here), tile);
              store_pixels_on_rows(p, output, k, filters_here, panel_runs[i], run_count, tile);
            }
          } else {
            multiply<T>(static_cast<int>(filters_here), r1 - r0, filters, cut.block, pixels, tile,
                        block > 0);
            if (done) {
              if (shape.relu) rectify(static_cast<int>(filters_here), tile);
              store_filters_on_rows(p, output, k, filters_here, panel_runs[i], run_count,
                                    i * pixel_side, tile);
            }
          }
        }
      }
    }
  }
}

// Cuts a weight gradient for `threads` threads.
template <typename T>
GradientBlocking plan_weight_gradient(const Convolution& shape, int64_t threads) {
  constexpr int64_t kRows = Tile<T>::kRows, kCols = Tile<T>::kCols;
  GradientBlocking cut{};
  // The columns of a tile are read from packed memory that is contiguous in them, so they are what
  // the input is contiguous in: its channels, or else the filters. Few filters would waste a tile.
  cut.filters_on_rows = (shape.input.c == 1 && shape.C > 1) || shape.K <= kCols / 2;
  cut.pixel_block = kPixelBlock;
  const int64_t side = cut.filters_on_rows ? kCols : kRows;
  const int64_t filters = round_up(shape.K, cut.filters_on_rows ? kRows : kCols);
  const int64_t most = kAccumulators / filters < side ? side : kAccumulators / filters;
  const int64_t pixel_blocks = divide_up(shape.pixels(), cut.pixel_block);
  cut.chunks = divide_up(shape.reduction(), most);
  cut.splits = divide_up(threads, shape.G * cut.chunks);
  if (cut.splits > pixel_blocks) cut.splits = pixel_blocks;
  const int64_t tasks = shape.G * cut.chunks * cut.splits;
  // As many tasks to each thread; where pixels are few, by sharing out the reduction.
  cut.chunks = divide_up(cut.chunks * round_up(tasks, threads), tasks);
  cut.chunk = round_up(divide_up(shape.reduction(), cut.chunks), side);
  cut.chunks = divide_up(shape.reduction(), cut.chunk);
  return cut;
}

// Elements of workspace that one thread needs for `weight_gradient`.
template <typename T>
int64_t weight_gradient_workspace(const Convolution& shape, const GradientBlocking& cut) {
  constexpr int64_t kRows = Tile<T>::kRows, kCols = Tile<T>::kCols;
  const int64_t filters = round_up(shape.K, cut.filters_on_rows ? kRows : kCols);
  return cut.pixel_block * (filters + cut.chunk) + filters * cut.chunk;
}

// Tasks first <= i < last. workspace: weight_gradient_workspace elements, 64-byte aligned.
template <typename T>
void weight_gradient(const ConvolutionWeightGradient<T>& p, int64_t first_task, int64_t last_task,
                     T* workspace) {
  constexpr int64_t kRows = Tile<T>::kRows, kCols = Tile<T>::kCols;
  const Convolution& shape = p.shape;
  const GradientBlocking& cut = p.blocking;
  const int64_t filters = round_up(shape.K, cut.filters_on_rows ? kRows : kCols);
  T* const gradients = workspace;                            // of this block of pixels
  T* const patches = gradients + cut.pixel_block * filters;  // of this block and chunk
  T* const tiles = patches + cut.pixel_block * cut.chunk;

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
    const int64_t split = task / cut.chunks % cut.splits;
    const int64_t g = task / cut.chunks / cut.splits;
    const T* input = p.input + g * shape.input.g;
    const T* grad_output = p.grad_output + g * shape.output.g;
    const int64_t r0 = chunk * cut.chunk;
    const int64_t r1 = r0 + cut.chunk < shape.reduction() ? r0 + cut.chunk : shape.reduction();

    // rows x columns of the result, whichever way round
    const int64_t rows = cut.filters_on_rows ? shape.K : r1 - r0;
    const int64_t cols = cut.filters_on_rows ? r1 - r0 : shape.K;
    const int64_t row_tiles = divide_up(rows, kRows), col_tiles = divide_up(cols, kCols);

    // Columns that no filter or patch entry fills are multiplied all the same.
    T* const last_panel =
        (cut.filters_on_rows ? patches : gradients) + (col_tiles - 1) * kCols * cut.pixel_block;
    for (int64_t i = 0; i < kCols * cut.pixel_block; ++i) last_panel[i] = T(0);

    const int64_t begin = split * shape.pixels() / cut.splits;
    const int64_t end = (split + 1) * shape.pixels() / cut.splits;
    for (int64_t q0 = begin; q0 < end; q0 += cut.pixel_block) {
      const int64_t q1 = q0 + cut.pixel_block < end ? q0 + cut.pixel_block : end;
      const int64_t count = cut_runs(shape, q0, q1, cut.pixel_block, runs);
      const Convolution& on_rows = cut.filters_on_rows ? gradient : shape;
      const Convolution& on_cols = cut.filters_on_rows ? shape : gradient;
      const T* row_source = cut.filters_on_rows ? grad_output : input;
      const T* col_source = cut.filters_on_rows ? input : grad_output;
      T* const row_side = cut.filters_on_rows ? gradients : patches;
      T* const col_side = cut.filters_on_rows ? patches : gradients;
      const int64_t row0 = cut.filters_on_rows ? 0 : r0;
      const int64_t col0 = cut.filters_on_rows ? r0 : 0;

      // row_side[row][pixel], col_side[panel of columns][pixel][column]
      pack_entries(on_rows, row_source, runs, count, row0, row0 + rows, cut.pixel_block, 0,
                   row_side);
      for (int64_t j = 0; j < col_tiles; ++j) {
        const int64_t last = (j + 1) * kCols < cols ? (j + 1) * kCols : cols;
        pack_pixels(on_cols, col_source, runs, count, col0 + j * kCols, col0 + last, kCols,
                    col_side + j * kCols * cut.pixel_block);
      }
      for (int64_t j = 0; j < col_tiles; ++j) {
        for (int64_t i = 0; i < row_tiles; ++i) {
          const int64_t here = rows - i * kRows < kRows ? rows - i * kRows : kRows;
          multiply<T>(static_cast<int>(here), q1 - q0, row_side + i * kRows * cut.pixel_block,
                      cut.pixel_block, col_side + j * kCols * cut.pixel_block,
                      tiles + (j * row_tiles + i) * kRows * kCols, q0 > begin);
        }
      }
    }

    T* const result = p.grad_weight + split * p.split_stride + g * shape.weight.g;
    const int64_t entry_step =
        cut.filters_on_rows ? 1 : kCols;  // from entry to entry of a tile ...
    const int64_t filter_step = cut.filters_on_rows ? kCols : 1;  // ... and from filter to filter
    const int64_t entry_side = cut.filters_on_rows ? kCols : kRows;
    const int64_t filter_side = cut.filters_on_rows ? kRows : kCols;
    const int64_t entry_tile = kRows * kCols * (cut.filters_on_rows ? row_tiles : 1);
    const int64_t filter_tile = kRows * kCols * (cut.filters_on_rows ? 1 : row_tiles);
    Tap tap(shape, r0 / shape.C);
    int64_t c = r0 % shape.C;
    for (int64_t r = 0; r < r1 - r0; ++r) {
      T* to = result + c * shape.weight.c;
      for (int axis = 0; axis < kSpatial; ++axis) to += tap.at[axis] * shape.weight.spatial[axis];
      const T* tile = tiles + r / entry_side * entry_tile + r % entry_side * entry_step;
      for (int64_t k = 0; k < shape.K; k += filter_side, tile += filter_tile) {
        const int64_t here = shape.K - k < filter_side ? shape.K - k : filter_side;
        for (int64_t i = 0; i < here; ++i) to[(k + i) * shape.weight.k] = tile[i * filter_step];
      }
      if (++c == shape.C) {
        c = 0;
        tap.next(shape);
      }
    }
  }
}
