// Max-pooling, for networks that only infer: no indices are kept. Where channels are innermost,
// vectors run along them; otherwise along the rows of a map: first the maxima of a window's rows,
// then, sorted by the phases of the stride, those of its columns. NaN wins, as in torch. Included
// by isa/*.cpp (see vec.h).

// The cells first <= t < last of a window, at `at` and `dilation` apart, that lie inside an axis.
struct PoolRange {
  int64_t first, last;

  PoolRange(int64_t at, int64_t dilation, int64_t window, int64_t in)
      : first(at < 0 ? divide_up(-at, dilation) : 0),
        last(at >= in ? 0 : divide_up(in - at, dilation)) {
    if (last > window) last = window;
  }
};

template <typename T>
inline T lowest() {
  return -std::numeric_limits<T>::infinity();
}

// Cells of the padded row that the columns of the windows read, and of each of its phases.
template <typename T>
int64_t pool_row(const MaxPool<T>& p) {
  const int64_t reach = (p.window[1] - 1) * p.dilation[1];
  const int64_t read = (p.out[1] - 1) * p.stride[1] + reach + 1, held = p.padding[1] + p.in[1];
  return round_up(read > held ? read : held, Vec<T>::kLanes) + Vec<T>::kLanes;
}

template <typename T>
int64_t max_pool_workspace(const MaxPool<T>& p) {
  return p.innermost() ? 0 : pool_row(p) * (p.stride[1] + 2);
}

template <typename T>
void pool_pixels(const MaxPool<T>& p, int64_t row) {
  using V = Vec<T>;
  const int64_t n = row / p.out[0], y = row % p.out[0];
  const int64_t h = y * p.stride[0] - p.padding[0];
  const PoolRange rows(h, p.dilation[0], p.window[0], p.in[0]);
  for (int64_t x = 0; x < p.out[1]; ++x) {
    const int64_t w = x * p.stride[1] - p.padding[1];
    const PoolRange columns(w, p.dilation[1], p.window[1], p.in[1]);
    const T* from = p.input + n * p.from.n + h * p.from.spatial[0] + w * p.from.spatial[1];
    T* to = p.output + n * p.to.n + y * p.to.spatial[0] + x * p.to.spatial[1];
    for (int64_t c = 0; c < p.C; c += V::kLanes) {
      const bool full = p.C - c >= V::kLanes;
      const auto mask = V::Mask::range(0, full ? V::kLanes : p.C - c);
      V most = V::broadcast(lowest<T>());
      for (int64_t r = rows.first; r < rows.last; ++r) {
        for (int64_t s = columns.first; s < columns.last; ++s) {
          const T* cell = from + r * p.dilation[0] * p.from.spatial[0] +
                          s * p.dilation[1] * p.from.spatial[1] + c;
          most = most.maximum(full ? V::load(cell) : V::load(cell, mask));
        }
      }
      if (full) {
        most.store(to + c);
      } else {
        most.store(to + c, mask);
      }
    }
  }
}

// to[j] = the maximum over the rows; a last vector that is not full overlaps the one before.
template <typename T>
inline void pool_rows(const T* from, int64_t step, int64_t rows, int64_t length, T* to) {
  using V = Vec<T>;
  for (int64_t j = 0; j < length; j += V::kLanes) {
    if (length < V::kLanes) {
      for (; j < length; ++j) {
        T most = from[j];
        for (int64_t r = 1; r < rows; ++r) {
          const T cell = from[r * step + j];
          if (cell > most || cell != cell) most = cell;
        }
        to[j] = most;
      }
      return;
    }
    const int64_t at = length - j < V::kLanes ? length - V::kLanes : j;
    V most = V::load(from + at);
    for (int64_t r = 1; r < rows; ++r) most = most.maximum(V::load(from + r * step + at));
    most.store(to + at);
  }
}

template <typename T>
void pool_map(const MaxPool<T>& p, const T* input, T* output, T* workspace) {
  using V = Vec<T>;
  const int64_t length = pool_row(p), stride = p.stride[1];
  T* const row = workspace;              // padded
  T* const phases = workspace + length;  // of it
  T* const line = phases + stride * length;
  for (int64_t i = 0; i < length; ++i) row[i] = lowest<T>();
  for (int64_t y = 0; y < p.out[0]; ++y, output += p.to.spatial[0]) {
    const int64_t h = y * p.stride[0] - p.padding[0];
    const PoolRange rows(h, p.dilation[0], p.window[0], p.in[0]);
    if (rows.first < rows.last) {
      pool_rows(input + (h + rows.first * p.dilation[0]) * p.from.spatial[0],
                p.dilation[0] * p.from.spatial[0], rows.last - rows.first, p.in[1],
                row + p.padding[1]);
    } else {
      for (int64_t j = 0; j < p.in[1]; ++j) row[p.padding[1] + j] = lowest<T>();
    }
    for (int64_t phase = 0; phase < stride && stride > 1; ++phase) {
      T* const to = phases + phase * length;
      const int64_t count = divide_up(length - phase, stride);
      int64_t j = 0;
      if (stride == 2) j = copy_every<T, 2>(row + phase, count, to);
      if (stride == 4) j = copy_every<T, 4>(row + phase, count, to);
      for (; j < count; ++j) to[j] = row[phase + j * stride];
    }
    const T* const from = stride > 1 ? phases : row;
    for (int64_t x = 0; x < p.out[1]; x += V::kLanes) {
      V most = V::load(from + x);
      for (int64_t s = 1; s < p.window[1]; ++s) {
        const int64_t tap = s * p.dilation[1];
        most = most.maximum(V::load(from + tap % stride * length + tap / stride + x));
      }
      most.store(line + x);
    }
    if (p.to.spatial[1] == 1) {
      copy_cells(line, p.out[1], output);
    } else {
      for (int64_t x = 0; x < p.out[1]; ++x) output[x * p.to.spatial[1]] = line[x];
    }
  }
}

// Tasks first <= i < last. workspace: max_pool_workspace elements. The input's columns lie
// together, if its channels do not.
template <typename T>
void max_pool(const MaxPool<T>& p, int64_t first, int64_t last, T* workspace) {
  for (int64_t i = first; i < last; ++i) {
    if (p.innermost()) {
      pool_pixels(p, i);
    } else {
      const int64_t n = i / p.C, c = i % p.C;
      pool_map(p, p.input + n * p.from.n + c * p.from.c, p.output + n * p.to.n + c * p.to.c,
               workspace);
    }
  }
}
