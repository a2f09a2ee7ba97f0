// Depthwise convolution, directly: one channel and one filter to a group, so that there is no
// product of matrices to speak of. Each output cell is summed in registers, tap by tap, from the
// input where it lies: vectors run along a row of pixels, or, where the groups are innermost in
// memory, along these. Included by isa/*.cpp (see vec.h). Serves shapes with C = K = 1 and at most
// kDirectTaps taps.

// Whether vectors run along the groups, whose weights are then read packed, as [tap][group].
inline bool groups_innermost(const Convolution& shape) {
  return shape.G > 1 && shape.input.g == 1 && shape.output.g == 1;
}

template <typename T>
int64_t depthwise_tasks(const Convolution& shape) {
  return shape.N * (groups_innermost(shape) ? shape.out[0] * shape.out[1] : shape.G);
}

template <typename T>
inline T tap_weight(const ConvolutionForward<T>& p, int64_t g, const Tap& tap) {
  const T* weight = p.weight + g * p.shape.weight.g;
  for (int axis = 0; axis < kSpatial; ++axis) weight += tap.at[axis] * p.shape.weight.spatial[axis];
  return *weight;
}

template <typename T>
void pack_depthwise(const ConvolutionForward<T>& p) {
  if (!groups_innermost(p.shape)) return;
  Tap tap(p.shape, 0);
  for (int64_t index = 0; index < p.shape.taps(); ++index, tap.next(p.shape)) {
    for (int64_t g = 0; g < p.shape.G; ++g) p.packed[index * p.shape.G + g] = tap_weight(p, g, tap);
  }
}

// The taps that meet the input somewhere along a row of output pixels of image n. What depends on
// the tap alone is worked out once; `go_to` moves it to a row.
struct RowTaps {
  const Convolution& shape;
  int64_t count = 0;
  int64_t index[kDirectTaps];
  Contact contact[kDirectTaps];

  RowTaps(const Convolution& convolution, int64_t n) : shape(convolution) {
    // A filter of one plane and row, seen from a row of the same height, meets the input for
    // certain.
    Convolution line = shape;
    for (int axis = 0; axis < 2; ++axis) {
      line.padding[axis] = 0;
      line.in[axis] = 1;
    }
    const Run row{0, shape.out[2], n, {0, 0, 0}};
    Tap tap(shape, 0);
    for (int64_t t = 0; t < shape.taps(); ++t, tap.next(shape)) {
      Tap along = tap;
      along.at[0] = along.at[1] = 0;
      along_row[t] = meet(line, row, along);
      for (int axis = 0; axis < 2; ++axis) {
        at[t][axis] = tap.at[axis] * shape.dilation[axis] - shape.padding[axis];
      }
    }
  }
  void go_to(int64_t r) {  // row r of the image's planes
    const int64_t d = r / shape.out[1] * shape.stride[0], h = r % shape.out[1] * shape.stride[1];
    count = 0;
    for (int64_t t = 0; t < shape.taps(); ++t) {
      const int64_t in_d = d + at[t][0], in_h = h + at[t][1];
      const bool inside = in_d >= 0 && in_d < shape.in[0] && in_h >= 0 && in_h < shape.in[1];
      if (!inside || along_row[t].first == along_row[t].last) continue;
      contact[count] = along_row[t];
      contact[count].offset += in_d * shape.input.spatial[0] + in_h * shape.input.spatial[1];
      index[count++] = t;
    }
  }

 private:
  Contact along_row[kDirectTaps];
  int64_t at[kDirectTaps][2];
};

// x[j * step] for the lanes of j that lie within the contact, zero elsewhere.
template <typename T>
inline Vec<T> load_contact(const T* input, const Contact& contact, int64_t j, int64_t count) {
  constexpr int64_t kLanes = Vec<T>::kLanes;
  int64_t lower = contact.first - j, upper = contact.last - j;
  lower = lower < 0 ? 0 : lower > count ? count : lower;
  upper = upper < lower ? lower : upper > count ? count : upper;
  const T* from = input + contact.offset + j * contact.step;
  if (contact.step == 1) return Vec<T>::load(from, Vec<T>::Mask::range(lower, upper));
  T lanes[kLanes] = {};
  for (int64_t i = lower; i < upper; ++i) lanes[i] = from[i * contact.step];
  return Vec<T>::load(lanes);
}

template <typename T>
inline void depthwise_row(const ConvolutionForward<T>& p, const RowTaps& taps, const T* input,
                          const T* weights, T bias, T* output) {
  using V = Vec<T>;
  const int64_t length = p.shape.out[2], step = p.shape.output.spatial[2];
  for (int64_t j = 0; j < length; j += V::kLanes) {
    const int64_t count = length - j < V::kLanes ? length - j : V::kLanes;
    V sum = V::broadcast(bias);
    for (int64_t t = 0; t < taps.count; ++t) {
      const V weight = V::broadcast(weights[taps.index[t]]);
      sum = sum.fused_add(weight, load_contact(input, taps.contact[t], j, count));
    }
    if (step == 1) {
      sum.store(output + j, V::Mask::range(0, count));
    } else {
      for (int64_t i = 0; i < count; ++i) output[(j + i) * step] = sum.lanes[i];
    }
  }
}

constexpr int kPixelsAtOnce = 6;

// One vector of groups, pixels j <= i < j + Pixels of a row, each within the reach of every tap.
template <typename T, int Pixels>
inline void depthwise_inside(const ConvolutionForward<T>& p, const RowTaps& taps, int64_t g,
                             int64_t j, typename Vec<T>::Mask mask, Vec<T> bias, T* output) {
  using V = Vec<T>;
  V sum[Pixels];
#pragma GCC unroll 8
  for (int i = 0; i < Pixels; ++i) sum[i] = bias;
  for (int64_t t = 0; t < taps.count; ++t) {
    const Contact& contact = taps.contact[t];
    const T* from = p.input + contact.offset + j * contact.step + g;
    const V weight = V::load(p.packed + taps.index[t] * p.shape.G + g, mask);
#pragma GCC unroll 8
    for (int i = 0; i < Pixels; ++i) {
      sum[i] = sum[i].fused_add(weight, V::load(from + i * contact.step, mask));
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < Pixels; ++i) {
    sum[i].store(output + (j + i) * p.shape.output.spatial[2] + g, mask);
  }
}

template <typename T>
inline void depthwise_pixels(const ConvolutionForward<T>& p, const RowTaps& taps, T* output) {
  using V = Vec<T>;
  const int64_t G = p.shape.G, Q = p.shape.out[2];
  int64_t inside = 0, outside = Q;  // where all taps meet the input
  for (int64_t t = 0; t < taps.count; ++t) {
    if (taps.contact[t].first > inside) inside = taps.contact[t].first;
    if (taps.contact[t].last < outside) outside = taps.contact[t].last;
  }
  for (int64_t g = 0; g < G; g += V::kLanes) {
    const auto mask = V::Mask::range(0, G - g < V::kLanes ? G - g : V::kLanes);
    const V bias = p.bias == nullptr ? V::zero() : V::load(p.bias + g, mask);
    for (int64_t j = 0; j < Q;) {
      if (j >= inside && j + kPixelsAtOnce <= outside) {
        depthwise_inside<T, kPixelsAtOnce>(p, taps, g, j, mask, bias, output);
        j += kPixelsAtOnce;
        continue;
      }
      V sum = bias;
      for (int64_t t = 0; t < taps.count; ++t) {
        const Contact& contact = taps.contact[t];
        if (j < contact.first || j >= contact.last) continue;
        const T* from = p.input + contact.offset + j * contact.step + g;
        sum = sum.fused_add(V::load(p.packed + taps.index[t] * G + g, mask), V::load(from, mask));
      }
      sum.store(output + j * p.shape.output.spatial[2] + g, mask);
      ++j;
    }
  }
}

// Tasks first <= i < last of depthwise_tasks: rows of pixels of all groups, or planes of one.
template <typename T>
void depthwise(const ConvolutionForward<T>& p, int64_t first, int64_t last) {
  const Convolution& shape = p.shape;
  const FeatureMapStrides& to = shape.output;
  const bool along_groups = groups_innermost(shape);
  const int64_t rows = shape.out[0] * shape.out[1];
  T weights[kDirectTaps];
  for (int64_t task = first; task < last; ++task) {
    const int64_t n = along_groups ? task / rows : task / shape.G;
    const int64_t g = along_groups ? 0 : task % shape.G;
    const int64_t begin = along_groups ? task % rows : 0, end = along_groups ? begin + 1 : rows;
    RowTaps taps(shape, n);
    Tap tap(shape, 0);
    for (int64_t t = 0; t < shape.taps(); ++t, tap.next(shape)) weights[t] = tap_weight(p, g, tap);
    for (int64_t r = begin; r < end; ++r) {
      taps.go_to(r);
      T* output = p.output + n * to.n + g * to.g + r / shape.out[1] * to.spatial[0] +
                  r % shape.out[1] * to.spatial[1];
      if (along_groups) {
        depthwise_pixels(p, taps, output);
      } else {
        depthwise_row(p, taps, p.input + g * shape.input.g, weights,
                      p.bias == nullptr ? T(0) : p.bias[g], output);
      }
    }
  }
}

// The weight gradient of groups first <= g < last, one after the other, or of `Vec` of them at a
// time.
template <typename T>
void depthwise_weight_gradient(const ConvolutionWeightGradient<T>& p, int64_t first, int64_t last) {
  using V = Vec<T>;
  const Convolution& shape = p.shape;
  const FeatureMapStrides& from = shape.output;
  const bool along_groups = groups_innermost(shape);
  const int64_t rows = shape.out[0] * shape.out[1];
  V sums[kDirectTaps];
  for (int64_t g = first; g < last; g += along_groups ? V::kLanes : 1) {
    const auto mask = V::Mask::range(0, last - g < V::kLanes ? last - g : V::kLanes);
    for (V& sum : sums) sum = V::zero();
    for (int64_t n = 0; n < shape.N; ++n) {
      RowTaps taps(shape, n);
      for (int64_t r = 0; r < rows; ++r) {
        taps.go_to(r);
        const T* input = p.input + g * shape.input.g;
        const T* grad = p.grad_output + n * from.n + g * from.g +
                        r / shape.out[1] * from.spatial[0] + r % shape.out[1] * from.spatial[1];
        const Contact gradient{0, from.spatial[2], 0, shape.out[2]};
        for (int64_t t = 0; t < taps.count; ++t) {
          const Contact& contact = taps.contact[t];
          V sum = sums[taps.index[t]];
          if (along_groups) {
            // Four sums, or each would wait for the one before.
            V more[3] = {V::zero(), V::zero(), V::zero()};
            const T* x = input + contact.offset;
            const int64_t g_step = from.spatial[2], x_step = contact.step;
            int64_t j = contact.first;
            for (; j + 4 <= contact.last; j += 4) {
              const T* gj = grad + j * g_step;
              const T* xj = x + j * x_step;
              sum = sum.fused_add(V::load(gj, mask), V::load(xj, mask));
              for (int i = 0; i < 3; ++i) {
                more[i] = more[i].fused_add(V::load(gj + (i + 1) * g_step, mask),
                                            V::load(xj + (i + 1) * x_step, mask));
              }
            }
            for (; j < contact.last; ++j) {
              sum = sum.fused_add(V::load(grad + j * g_step, mask), V::load(x + j * x_step, mask));
            }
            sum.lanes += more[0].lanes + (more[1].lanes + more[2].lanes);
          } else {
            for (int64_t j = 0; j < shape.out[2]; j += V::kLanes) {
              const int64_t count = shape.out[2] - j < V::kLanes ? shape.out[2] - j : V::kLanes;
              sum = sum.fused_add(load_contact(grad, gradient, j, count),
                                  load_contact(input, contact, j, count));
            }
          }
          sums[taps.index[t]] = sum;
        }
      }
    }
    Tap tap(shape, 0);
    for (int64_t t = 0; t < shape.taps(); ++t, tap.next(shape)) {
      T* to = p.grad_weight + g * shape.weight.g;
      for (int axis = 0; axis < kSpatial; ++axis) to += tap.at[axis] * shape.weight.spatial[axis];
      T lanes[V::kLanes];
      sums[t].store(lanes);
      if (along_groups) {
        for (int64_t i = 0; i < V::kLanes && g + i < last; ++i) to[i * shape.weight.g] = lanes[i];
      } else {
        *to = T(0);
        for (int64_t i = 0; i < V::kLanes; ++i) *to += lanes[i];
      }
    }
  }
}
