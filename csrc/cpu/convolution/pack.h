// Packing: patches of a feature map, and filters, into the contiguous panels that the micro-kernel
// reads. Padding becomes zeros here and nowhere else. Included by isa/*.cpp (see vec.h).

// A stretch of output pixels in one row of one image, and where it stands in the block.
struct Run {
  int64_t column;  // its first pixel, counted from the first of the block
  int64_t length;
  int64_t n, out[kSpatial];  // of its first pixel
};

// The pixels first <= q < last of the batch as runs, none of which crosses a multiple of
// `boundary`. Returns how many; at most last - first.
inline int64_t cut_runs(const Convolution& shape, int64_t first, int64_t last, int64_t boundary,
                        Run* runs) {
  int64_t count = 0;
  for (int64_t q = first; q < last;) {
    Run& run = runs[count++];
    run.column = q - first;
    int64_t rest = q;
    for (int axis = kSpatial - 1; axis >= 0; --axis) {
      run.out[axis] = rest % shape.out[axis];
      rest /= shape.out[axis];
    }
    run.n = rest;
    const int64_t to_row_end = shape.out[2] - run.out[2];
    const int64_t to_boundary = boundary - run.column % boundary;
    run.length = last - q;
    if (run.length > to_row_end) run.length = to_row_end;
    if (run.length > to_boundary) run.length = to_boundary;
    q += run.length;
  }
  return count;
}

// Counts through the taps of a filter, the last axis fastest.
struct Tap {
  int64_t at[kSpatial];

  Tap(const Convolution& shape, int64_t index) {
    for (int axis = kSpatial - 1; axis >= 0; --axis) {
      at[axis] = index % shape.filter[axis];
      index /= shape.filter[axis];
    }
  }
  void next(const Convolution& shape) {
    for (int axis = kSpatial - 1; axis >= 0; --axis) {
      if (++at[axis] < shape.filter[axis]) return;
      at[axis] = 0;
    }
  }
};

// Where one tap meets the input along a run: pixels first <= j < last of the run read
// input[offset + j * step + c * stride of c]; the others lie in the padding.
struct Contact {
  int64_t offset, step, first, last;
};

inline Contact meet(const Convolution& shape, const Run& run, const Tap& tap) {
  Contact contact{run.n * shape.input.n, 0, 0, run.length};
  int64_t at = 0;
  for (int axis = 0; axis < kSpatial; ++axis) {
    at = run.out[axis] * shape.stride[axis] - shape.padding[axis] +
         tap.at[axis] * shape.dilation[axis];
    contact.offset += at * shape.input.spatial[axis];
    if (axis < kSpatial - 1 && (at < 0 || at >= shape.in[axis])) contact.last = 0;
  }
  // first: the least j with at + j * stride >= 0; last: the least with at + j * stride >= in.
  const int64_t stride = shape.stride[kSpatial - 1], in = shape.in[kSpatial - 1];
  contact.step = stride * shape.input.spatial[kSpatial - 1];
  if (at < 0) contact.first = (-at + stride - 1) / stride;
  if (at + (run.length - 1) * stride >= in) {
    const int64_t last = at >= in ? 0 : (in - at + stride - 1) / stride;
    if (contact.last > last) contact.last = last;
  }
  if (contact.first > contact.last) contact.first = contact.last = 0;
  return contact;
}

// Copies `rows` rows of `length` cells: to[i * to_row + j] = from[i * from_row + j * step] where
// first <= j < last, zero elsewhere.
template <typename T>
inline void copy_rows(const T* from, int64_t from_row, int64_t step, int64_t first, int64_t last,
                      int64_t length, int64_t rows, T* to, int64_t to_row) {
  using V = Vec<T>;
  if (step == 1) {
    for (int64_t j = 0; j < length; j += V::kLanes) {
      const int64_t count = length - j < V::kLanes ? length - j : V::kLanes;
      int64_t lower = first - j, upper = last - j;
      lower = lower < 0 ? 0 : lower > count ? count : lower;
      upper = upper < lower ? lower : upper > count ? count : upper;
      if (upper - lower == V::kLanes) {
        for (int64_t i = 0; i < rows; ++i)
          V::load(from + i * from_row + j).store(to + i * to_row + j);
        continue;
      }
      const auto read = V::Mask::range(lower, upper), written = V::Mask::range(0, count);
      for (int64_t i = 0; i < rows; ++i) {
        V::load(from + i * from_row + j, read).store(to + i * to_row + j, written);
      }
    }
    return;
  }
  for (int64_t i = 0; i < rows; ++i, from += from_row, to += to_row) {
    for (int64_t j = 0; j < first; ++j) to[j] = T(0);
    int64_t j = first;
    if (step == 2) j += copy_every<T, 2>(from + j * step, last - j, to + j);
    if (step == 4) j += copy_every<T, 4>(from + j * step, last - j, to + j);
    for (; j < last; ++j) to[j] = from[j * step];
    for (int64_t j = last; j < length; ++j) to[j] = T(0);
  }
}

// to[j * to_row + i] = from[j * from_row + i * from_column] for j < rows and i < columns.
template <typename T>
inline void transpose(const T* from, int64_t from_row, int64_t from_column, int64_t rows,
                      int64_t columns, T* to, int64_t to_row) {
  constexpr int64_t kLanes = Vec<T>::kLanes;
  for (int64_t i = 0; i < columns; i += kLanes) {
    const int64_t lanes = columns - i < kLanes ? columns - i : kLanes;
    gather_lanes<T, true>(from + i * from_column, from_column, lanes, from_row, rows, to + i,
                          to_row);
  }
}

// to[j * to_row + i] = from[i * from_row + j] for i < rows and j < columns.
template <typename T>
void turn_map(const T* from, int64_t from_row, int64_t rows, int64_t columns, T* to,
              int64_t to_row) {
  transpose(from, 1, from_row, columns, rows, to, to_row);
}

// The part of the reduction first <= r < last that belongs to one tap: channels c0 <= c < c1.
struct TapRange {
  int64_t c0, c1, r0;  // r0: where it starts, counted from `first`
};

inline TapRange tap_range(const Convolution& shape, int64_t tap, int64_t first, int64_t last) {
  const int64_t start = tap * shape.C;
  const int64_t c0 = first > start ? first - start : 0;
  const int64_t c1 = last - start < shape.C ? last - start : shape.C;
  return {c0, c1, start + c0 - first};
}

// A number as an entry of the sum. Where those are pairs it must be one of bfloat16's; its
// neighbour is zero. (Not for bfloat16 that is paired later, which has no such entries.)
template <typename T>
inline T entry_of(Sum<T> value) {
  if constexpr (std::is_same_v<T, Sum<T>>) {
    return value;
  } else {
    uint32_t bits;
    __builtin_memcpy(&bits, &value, sizeof bits);
    return static_cast<T>(bits >> 16);
  }
}

// Patch entries first <= r < last of every run, entry by entry:
// to[panel of the pixel][r][pixel within the panel], `panel` pixels and `steps` entries to a panel.
// The entry after the last channel of the last tap, if asked for, is the constant 1 of the bias.
template <typename T>
void pack_entries(const Convolution& shape, const T* input, const Run* runs, int64_t count,
                  int64_t first, int64_t last, int64_t panel, int64_t steps, T* to) {
  const int64_t real_last = last < shape.reduction() ? last : shape.reduction();
  for (const Run* run = runs; run < runs + count; ++run) {
    T* column = to + (run->column / panel) * steps * panel + run->column % panel;
    int64_t index = first / shape.C;
    for (Tap tap(shape, index); index * shape.C < real_last; ++index, tap.next(shape)) {
      const TapRange range = tap_range(shape, index, first, real_last);
      const Contact contact = meet(shape, *run, tap);
      const T* from = input + contact.offset + range.c0 * shape.input.c;
      copy_rows(from, shape.input.c, contact.step, contact.first, contact.last, run->length,
                range.c1 - range.c0, column + range.r0 * panel, panel);
    }
    if (last > real_last) {
      T* row = column + (real_last - first) * panel;
      for (int64_t j = 0; j < run->length; ++j) row[j] = entry_of<T>(1);
    }
  }
}

// The same entries pixel by pixel: to[pixel][r], `stride` elements from pixel to pixel.
template <typename T>
void pack_pixels(const Convolution& shape, const T* input, const Run* runs, int64_t count,
                 int64_t first, int64_t last, int64_t stride, T* to) {
  const int64_t real_last = last < shape.reduction() ? last : shape.reduction();
  for (const Run* run = runs; run < runs + count; ++run) {
    int64_t index = first / shape.C;
    for (Tap tap(shape, index); index * shape.C < real_last; ++index, tap.next(shape)) {
      const TapRange range = tap_range(shape, index, first, real_last);
      const Contact contact = meet(shape, *run, tap);
      const int64_t channels = range.c1 - range.c0;
      const T* from = input + contact.offset + range.c0 * shape.input.c;
      T* row = to + run->column * stride + range.r0;
      // Before, within and after the input; only within it is there anything to read.
      copy_rows(from, 0, 1, 0, 0, channels, contact.first, row, stride);
      const T* inside = from + contact.first * contact.step;
      const int64_t pixels = contact.last - contact.first;
      if (shape.input.c == 1) {
        copy_rows(inside, contact.step, 1, 0, channels, channels, pixels,
                  row + contact.first * stride, stride);
      } else {
        transpose(inside, contact.step, shape.input.c, pixels, channels,
                  row + contact.first * stride, stride);
      }
      copy_rows(from, 0, 1, 0, 0, channels, run->length - contact.last, row + contact.last * stride,
                stride);
    }
    if (last > real_last) {
      T* row = to + run->column * stride + (real_last - first);
      for (int64_t j = 0; j < run->length; ++j, row += stride) *row = entry_of<T>(1);
    }
  }
}

// The bias of a panel, packed behind the filters.
template <typename T>
Sum<T>* bias_panel(const ConvolutionForward<T>& p, int64_t g, int64_t panel) {
  static_assert(sizeof(Sum<T>) == sizeof(T));
  const Blocking& cut = p.blocking;
  const int64_t panels = p.shape.G * cut.panels;
  return reinterpret_cast<Sum<T>*>(p.packed) +
         (panels * cut.blocks * cut.block + g * cut.panels + panel) * cut.panel;
}

// Where entry r of a panel's filters is packed: of filter i, i * row elements further on.
template <typename T>
struct PackedPanel {
  const Blocking& cut;
  T* first;        // of the first block
  int64_t blocks;  // elements from block to block
  int64_t row;

  PackedPanel(const ConvolutionForward<T>& p, int64_t g, int64_t panel) : cut(p.blocking) {
    first = p.packed + (g * cut.blocks * cut.panels + panel) * cut.panel * cut.block;
    blocks = cut.panels * cut.panel * cut.block;
    row = cut.pixels_on_rows ? 1 : cut.block;
  }
  T* entry(int64_t r) const {
    const int64_t block = r / cut.block, here = r % cut.block;
    return first + block * blocks + here * (cut.pixels_on_rows ? cut.panel : 1);
  }
};

// Whether elements that are counted through some axes, the innermost first, lie evenly in memory,
// and the step from each to the next: 0 if all of them are one element, as in an expanded tensor.
struct EvenStep {
  bool even = true, found = false;
  int64_t step = 0, next = 0;

  void add_axis(int64_t count, int64_t stride) {
    if (count == 1) return;
    if (!found) step = stride;
    if (found && stride != next) even = false;
    found = true;
    next = stride * count;
  }
};

// Whether a filter's taps follow one another in memory: 1 forwards, -1 backwards, otherwise 0.
inline int64_t step_of_taps(const Convolution& shape) {
  EvenStep taps;
  for (int axis = kSpatial - 1; axis >= 0; --axis) {
    taps.add_axis(shape.filter[axis], shape.weight.spatial[axis]);
  }
  return taps.even && (taps.step == 1 || taps.step == -1) ? taps.step : 0;
}

// Filters whose taps lie together but not their channels, as in NCHW: squares of taps and whatever
// the vectors run along, filters or channels, are turned.
template <typename T>
void pack_taps(const ConvolutionForward<T>& p, int64_t g, int64_t k, int64_t filters,
               const PackedPanel<T>& to) {
  using V = Vec<T>;
  constexpr int64_t kLanes = V::kLanes;
  const Convolution& shape = p.shape;
  const FilterStrides& s = shape.weight;
  const int64_t taps = shape.taps(), step = step_of_taps(shape);
  const bool along_filters = p.blocking.pixels_on_rows;
  const int64_t lane_step = along_filters ? s.k : s.c;
  const int64_t all_lanes = along_filters ? filters : shape.C;
  const int64_t others = along_filters ? shape.C : filters;
  for (int64_t other = 0; other < others; ++other) {
    for (int64_t lane0 = 0; lane0 < all_lanes; lane0 += kLanes) {
      const int64_t lanes = all_lanes - lane0 < kLanes ? all_lanes - lane0 : kLanes;
      const int64_t c = along_filters ? other : lane0, i = along_filters ? lane0 : other;
      const T* const from = p.weight + g * s.g + (k + i) * s.k + c * s.c;
      for (int64_t t0 = 0; t0 < taps; t0 += kLanes) {
        const int64_t here = taps - t0 < kLanes ? taps - t0 : kLanes;
        // Backwards, the last of these taps is the first in memory.
        const T* const first = step > 0 ? from + t0 : from - (t0 + here - 1);
        T cells[kLanes * kLanes];
        gather_lanes(first, lane_step, lanes, 1, here, cells, kLanes);
        for (int64_t j = 0; j < here; ++j) {
          const T* const row = cells + (step > 0 ? j : here - 1 - j) * kLanes;
          const int64_t r = (t0 + j) * shape.C + c;
          if (along_filters) {
            V::load(row).store(to.entry(r) + i);
          } else if (r / to.cut.block == (r + lanes - 1) / to.cut.block) {
            copy_rows(row, 0, 1, 0, lanes, lanes, 1, to.entry(r) + i * to.row, 0);
          } else {
            for (int64_t lane = 0; lane < lanes; ++lane) to.entry(r + lane)[i * to.row] = row[lane];
          }
        }
      }
    }
  }
}

// Filters of a panel in the order of the patch entries, block by block; the bias, if there is one,
// is the last entry. What a panel lacks is zero.
template <typename T>
void pack_filters(const ConvolutionForward<T>& p, int64_t g, int64_t panel) {
  const Convolution& shape = p.shape;
  const Blocking& cut = p.blocking;
  const FilterStrides& s = shape.weight;
  const PackedPanel<T> to(p, g, panel);
  const int64_t k = panel * cut.panel;
  const int64_t filters = shape.K - k < cut.panel ? shape.K - k : cut.panel;
  if (p.bias != nullptr) {
    for (int64_t i = 0; i < cut.panel; ++i) {
      bias_panel(p, g, panel)[i] = i < filters ? p.bias[g * shape.K + k + i] : Sum<T>(0);
    }
  }
  for (int64_t block = 0; block < cut.blocks; ++block) {
    T* const cells = to.entry(block * cut.block);
    for (int64_t i = 0; i < cut.panel * cut.block; ++i) cells[i] = T(0);
  }
  const bool apart = s.c != 1 && !(cut.pixels_on_rows && s.k == 1);
  if (apart && shape.taps() > 1 && step_of_taps(shape) != 0) {
    pack_taps(p, g, k, filters, to);
  } else {
    for (int64_t block = 0; block < cut.blocks; ++block) {
      const int64_t first = block * cut.block;
      const int64_t last =
          first + cut.block < shape.reduction() ? first + cut.block : shape.reduction();
      int64_t index = first / shape.C;
      for (Tap tap(shape, index); index * shape.C < last; ++index, tap.next(shape)) {
        const TapRange range = tap_range(shape, index, first, last);
        const T* from = p.weight + g * s.g + k * s.k + range.c0 * s.c;
        for (int axis = 0; axis < kSpatial; ++axis) from += tap.at[axis] * s.spatial[axis];
        const int64_t channels = range.c1 - range.c0;
        T* const here = to.entry(first + range.r0);
        if (!cut.pixels_on_rows) {
          transpose(from, s.k, s.c, filters, channels, here, to.row);
          continue;
        }
        constexpr int64_t kLanes = Vec<T>::kLanes;
        for (int64_t i = 0; i < filters; i += kLanes) {
          gather_lanes(from + i * s.k, s.k, filters - i < kLanes ? filters - i : kLanes, s.c,
                       channels, here + i, cut.panel);
        }
      }
    }
  }
  if (cut.bias_entry) {
    for (int64_t i = 0; i < filters; ++i) {
      to.entry(cut.reduction - 1)[i * to.row] = entry_of<T>(p.bias[g * shape.K + k + i]);
    }
  }
}
