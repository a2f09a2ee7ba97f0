// Depthwise convolution with the groups innermost in memory (channels_last): one channel and one
// filter to a group, so that there is no product of matrices to speak of, and vectors run along the
// groups. Each output cell is summed in registers, tap by tap, from the input where it lies. In
// other layouts direct convolution (band.h) does the same along the pixels. Included by isa/*.cpp
// (see vec.h). Serves shapes with C = K = 1 and at most kDirectTaps taps.

// The filters as [tap][group].
template <typename T>
void pack_depthwise(const ConvolutionForward<T>& p) {
  const FilterStrides& s = p.shape.weight;
  Tap tap(p.shape, 0);
  for (int64_t index = 0; index < p.shape.taps(); ++index, tap.next(p.shape)) {
    const T* weight = p.weight;
    for (int axis = 0; axis < kSpatial; ++axis) weight += tap.at[axis] * s.spatial[axis];
    for (int64_t g = 0; g < p.shape.G; ++g) p.packed[index * p.shape.G + g] = weight[g * s.g];
  }
}

// The taps that meet the input somewhere along a row of output pixels of the first image. What
// depends on the tap alone is worked out once; `go_to` moves it to a row.
struct RowTaps {
  const Convolution& shape;
  int64_t count = 0;
  int64_t index[kDirectTaps];
  Contact contact[kDirectTaps];

  explicit RowTaps(const Convolution& convolution) : shape(convolution) {
    // A filter of one plane and row, seen from a row of the same height, meets the input for
    // certain.
    Convolution line = shape;
    for (int axis = 0; axis < 2; ++axis) {
      line.padding[axis] = 0;
      line.in[axis] = 1;
    }
    const Run row{0, shape.out[2], 0, {0, 0, 0}};
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

constexpr int kPixelsAtOnce = 6;

// One vector of groups, pixels j <= i < j + Pixels of a row, each within the reach of every tap.
template <typename T, int Pixels>
inline void depthwise_inside(const ConvolutionForward<T>& p, const RowTaps& taps, const T* input,
                             int64_t g, int64_t j, typename Vec<T>::Mask mask, Vec<T> bias,
                             T* output) {
  using V = Vec<T>;
  V sum[Pixels];
#pragma GCC unroll 8
  for (int i = 0; i < Pixels; ++i) sum[i] = bias;
  for (int64_t t = 0; t < taps.count; ++t) {
    const Contact& contact = taps.contact[t];
    const T* from = input + contact.offset + j * contact.step + g;
    const V weight = V::load(p.packed + taps.index[t] * p.shape.G + g, mask);
#pragma GCC unroll 8
    for (int i = 0; i < Pixels; ++i) {
      sum[i] = sum[i].fused_add(weight, V::load(from + i * contact.step, mask));
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < Pixels; ++i) {
    const V y = p.shape.relu ? sum[i].rectified() : sum[i];
    y.store(output + (j + i) * p.shape.output.spatial[2] + g, mask);
  }
}

template <typename T>
inline void depthwise_pixels(const ConvolutionForward<T>& p, const RowTaps& taps, const T* input,
                             T* output) {
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
        depthwise_inside<T, kPixelsAtOnce>(p, taps, input, g, j, mask, bias, output);
        j += kPixelsAtOnce;
        continue;
      }
      V sum = bias;
      for (int64_t t = 0; t < taps.count; ++t) {
        const Contact& contact = taps.contact[t];
        if (j < contact.first || j >= contact.last) continue;
        const T* from = input + contact.offset + j * contact.step + g;
        sum = sum.fused_add(V::load(p.packed + taps.index[t] * G + g, mask), V::load(from, mask));
      }
      if (p.shape.relu) sum = sum.rectified();
      sum.store(output + j * p.shape.output.spatial[2] + g, mask);
      ++j;
    }
  }
}

// Rows first <= i < last of output pixels, counted over all images.
template <typename T>
void depthwise(const ConvolutionForward<T>& p, int64_t first, int64_t last) {
  const Convolution& shape = p.shape;
  const FeatureMapStrides& to = shape.output;
  const int64_t rows = shape.out[0] * shape.out[1];
  RowTaps taps(shape);
  for (int64_t i = first; i < last; ++i) {
    const int64_t n = i / rows, r = i % rows;
    taps.go_to(r);
    depthwise_pixels(
        p, taps, p.input + n * shape.input.n,
        p.output + n * to.n + r / shape.out[1] * to.spatial[0] + r % shape.out[1] * to.spatial[1]);
  }
}

// The sum over a row of the products of gradients and cells, `x_step` and `g_step` apart: four
// sums, or each would wait for the one before.
template <typename T>
inline Vec<T> sum_products(const T* g, int64_t g_step, const T* x, int64_t x_step, int64_t count,
                           typename Vec<T>::Mask mask) {
  using V = Vec<T>;
  V sum[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
  for (; count >= 4; count -= 4, g += 4 * g_step, x += 4 * x_step) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      sum[i] = sum[i].fused_add(V::load(g + i * g_step, mask), V::load(x + i * x_step, mask));
    }
  }
  for (; count > 0; --count, g += g_step, x += x_step) {
    sum[0] = sum[0].fused_add(V::load(g, mask), V::load(x, mask));
  }
  return {(sum[0].lanes + sum[1].lanes) + (sum[2].lanes + sum[3].lanes)};
}

// The weight gradient of groups first <= g < last, a vector of them at a time.
template <typename T>
void depthwise_weight_gradient(const ConvolutionWeightGradient<T>& p, int64_t first, int64_t last) {
  using V = Vec<T>;
  const Convolution& shape = p.shape;
  const FeatureMapStrides& from = shape.output;
  const int64_t rows = shape.out[0] * shape.out[1], step = from.spatial[2];
  V sums[kDirectTaps];
  RowTaps taps(shape);
  for (int64_t g = first; g < last; g += V::kLanes) {
    const auto mask = V::Mask::range(0, last - g < V::kLanes ? last - g : V::kLanes);
    for (V& sum : sums) sum = V::zero();
    for (int64_t i = 0; i < shape.N * rows; ++i) {
      const int64_t n = i / rows, r = i % rows;
      taps.go_to(r);
      const T* input = p.input + n * shape.input.n + g;
      const T* grad = p.grad_output + n * from.n + g + r / shape.out[1] * from.spatial[0] +
                      r % shape.out[1] * from.spatial[1];
      for (int64_t t = 0; t < taps.count; ++t) {
        const Contact& contact = taps.contact[t];
        sums[taps.index[t]].lanes +=
            sum_products(grad + contact.first * step, step,
                         input + contact.offset + contact.first * contact.step, contact.step,
                         contact.last - contact.first, mask)
                .lanes;
      }
    }
    Tap tap(shape, 0);
    for (int64_t t = 0; t < shape.taps(); ++t, tap.next(shape)) {
      T* to = p.grad_weight + g * shape.weight.g;
      for (int axis = 0; axis < kSpatial; ++axis) to += tap.at[axis] * shape.weight.spatial[axis];
      T lanes[V::kLanes];
      sums[t].store(lanes);
      for (int64_t i = 0; i < V::kLanes && g + i < last; ++i) to[i * shape.weight.g] = lanes[i];
    }
  }
}
