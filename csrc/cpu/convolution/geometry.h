// What a convolution kernel is told: sizes, strides and pointers. Plain data, no torch.
//
// Letters: N batch, G groups, C input channels and K filters (both of one group), R x S filter.
// Spatial arrays hold (depth, height, width); a 1-d or 2-d convolution has leading ones.
// All strides are in elements, may be zero or negative, and are the only thing that tells NCHW from
// channels_last, a flipped filter from an upright one, or a sliced view from a whole tensor.
#pragma once

#include <cstdint>

namespace cnn_ext::cpu {

constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

// bfloat16, as its bits. Processors that multiply it do so two by two: an element of a product is a
// pair of neighbouring steps of the sum, the first in the lower half, and both products are added
// to one float32. Kernels copy, pack and turn pairs as they do other elements.
using BFloat16 = uint16_t;
using Pair = uint32_t;

// What operands are stored as, what their products are summed in, what results are stored as, and
// packed filters.
template <typename T>
struct Numbers {
  using Operand = T;
  using Sum = T;
  using Result = T;
  using Packed = T;
};
template <>
struct Numbers<Pair> {
  using Operand = BFloat16;
  using Sum = float;
  using Result = BFloat16;
  using Packed = Pair;
};
template <>
struct Numbers<BFloat16> : Numbers<Pair> {  // one by one, as floats
  using Packed = float;
};
template <typename T>
using Operand = typename Numbers<T>::Operand;
template <typename T>
using Sum = typename Numbers<T>::Sum;
template <typename T>
using Result = typename Numbers<T>::Result;
template <typename T>
using Packed = typename Numbers<T>::Packed;

constexpr int kSpatial = 3;
constexpr int64_t kFewPixels = 256;  // of a dense layer, at most
constexpr int64_t kDirectTaps = 64;  // filters up to 8 x 8 have a depthwise kernel

struct FeatureMapStrides {
  int64_t n, g, c, spatial[kSpatial];
};

struct FilterStrides {
  int64_t g, k, c, spatial[kSpatial];
};

// out[n, g, k, o] = sum over c, t of  in[n, g, c, o * stride - padding + t * dilation] * w[g, k, c,
// t] with zero wherever the input index lies outside the input. `padding` may be negative (a crop).
// `relu`: whether max(out, 0) is stored instead.
struct Convolution {
  int64_t N, G, C, K;
  int64_t in[kSpatial], out[kSpatial], filter[kSpatial];
  int64_t stride[kSpatial], padding[kSpatial], dilation[kSpatial];
  FeatureMapStrides input, output;
  FilterStrides weight;
  bool relu;

  int64_t taps() const { return filter[0] * filter[1] * filter[2]; }
  int64_t pixels() const { return N * out[0] * out[1] * out[2]; }
  // Whether the channels of a pixel lie together: channels_last.
  bool innermost() const { return input.c == 1 && C > 1; }
  // The length of the sum behind one output cell; r = tap * C + c counts through it.
  int64_t reduction() const { return C * taps(); }
};

// A tensor of bfloat16 whose channels are to be paired: its other axes, and memory for the pairs.
// The last channel of an odd number gets a zero beside it.
struct Pairing {
  static constexpr int kAxes = 5;  // the last is the innermost
  int64_t size[kAxes], from_step[kAxes], to_step[kAxes];
  int64_t channels, from_channel, to_pair;  // and the steps from channel to channel, pair to pair
  const BFloat16* from;
  Pair* to;

  int64_t pairs() const { return divide_up(channels, 2); }
  // Rows of the innermost axis, of every pair.
  int64_t rows() const { return pairs() * size[0] * size[1] * size[2] * size[3]; }
};

// How the product is cut for the micro-kernel; filled by `plan_*` of the kernels in use.
struct Blocking {
  bool pixels_on_rows;  // whether pixels are rows and filters columns of a tile, or the reverse
  bool in_place;        // whether pixels are read where they lie, not packed
  int64_t pixel_step;   // elements between any two pixels of the output, or 0 if they lie unevenly
  bool bias_entry;      // whether the bias is one more step of the sum: a weight on a constant 1
  int64_t reduction;    // reduction(), and that step
  int64_t block;        // steps of the reduction between two visits to the accumulators
  int64_t blocks;
  int64_t panel;         // filters per packed panel
  int64_t panels;        // per group
  int64_t pixel_block;   // pixels per task
  int64_t pixel_blocks;  // over the whole batch
  int64_t filter_tasks;  // a task takes every pixel of a block and 1 / filter_tasks of the panels

  int64_t tasks(int64_t groups) const { return groups * filter_tasks * pixel_blocks; }
};

template <typename T>
struct ConvolutionForward {
  Convolution shape;
  Blocking blocking;
  const T* input;
  const T* weight;
  const Sum<T>* bias;  // (G * K) or null
  Packed<T>* packed;   // packed_size elements, 64-byte aligned
  Result<T>* output;
};

// How the weight gradient is cut: each task sums over 1 / splits of the pixels and holds the
// accumulators of a chunk of the filters and a chunk of the reduction.
struct GradientBlocking {
  bool filters_on_rows;  // whether filters are rows and patch entries columns of a tile
  bool rows_by_pixel;    // whether the rows of a tile are packed pixel by pixel
  bool in_place;         // whether they are not packed, nor columns that fill a panel
  int64_t pixel_block;
  int64_t chunk;  // patch entries per task, a multiple of the tile
  int64_t chunks;
  int64_t filter_chunk;  // filters per task, likewise
  int64_t filter_chunks;
  int64_t splits;

  int64_t tasks(int64_t groups) const { return groups * filter_chunks * chunks * splits; }
};

template <typename T>
struct ConvolutionWeightGradient {
  Convolution shape;  // of the forward pass; `weight` holds the strides of the result
  GradientBlocking blocking;
  const Operand<T>* input;  // pairs are made of pixels
  const Operand<T>* grad_output;
  Sum<T>* grad_weight;   // one result for each split
  int64_t split_stride;  // from split to split
};

constexpr int64_t kBandSteps = 1024;  // of the sum that a block of channels may have

// How direct convolution is cut into bands (band.h). Sizes are in elements.
struct Band {
  bool along_filters;  // whether vectors run along the filters, or else along the cells of the band
  int64_t rows;        // of the output, per block
  int64_t row_blocks;
  int64_t pitch;     // cells from row to row in the band
  int64_t cell;      // elements from cell to cell: one, or where channels are innermost, theirs
  int64_t step;      // elements from where one pixel of an output row begins to the next
  int64_t plane;     // elements of all rows of one tap along the depth and one phase
  int64_t channel;   // elements from channel to channel
  int64_t size;      // of the band
  int64_t channels;  // per block
  int64_t blocks;
  int64_t panel;       // filters per panel, at most
  int64_t panels;      // per group
  int64_t panel_sums;  // of a panel and a row block
  int64_t sums_row;    // from filter to filter of them, or from pixel to pixel
  bool all_sums;       // whether the sums of all panels are held at once

  int64_t tasks(const Convolution& c) const { return c.N * c.G * c.out[0] * row_blocks; }
};

// How its weight gradient is: each task holds the sums of a chunk of channels, over 1 / splits of
// the row blocks.
struct BandGradient {
  Band band;  // its blocks of channels are the chunks
  int64_t chunks, splits;
  int64_t entries;         // of a chunk, with what fills the last tile
  int64_t gradient_row;    // from row to row of the copied gradients, or from pixel to pixel
  int64_t gradient_panel;  // from panel to panel of them, or from filter to filter
  int64_t sums;            // of a chunk

  int64_t tasks(int64_t groups) const { return groups * chunks * splits; }
};

// Depthwise kernels take the channels of wider groups as groups of one. The strides of the weight
// stay those of the groups.
inline Convolution groups_of_one(Convolution c) {
  c.G *= c.C;
  c.C = c.K = 1;
  c.input.g = c.input.c;
  c.output.g = c.output.c;
  return c;
}

// How depthwise convolution is cut (depthwise.h): a task has some vectors of groups of some rows
// and columns of a map. Sizes are in elements.
struct Depthwise {
  bool gradient;  // of the input, or else the forward pass
  int64_t width;  // channels, and filters, of a group
  bool in_place;  // whether cells are read where they lie; what concerns copies is then zero
  int64_t rows, row_blocks, columns, column_blocks;
  int64_t vectors;  // of groups, per block of them
  int64_t blocks;
  int64_t at_once;        // rows of the result
  int64_t ring;           // rows of the source that are kept, of each plane
  int64_t pitch;          // cells of such a row
  int64_t plane, vector;  // of the rows kept, for each tap along the depth and for all
  int64_t slack;          // that may be read behind them
  int64_t lines;          // of a vector's rows of the result, or of the gradients
  int64_t weights;        // packed, of the filters of a vector
  int64_t splits;         // of a weight gradient

  int64_t maps(const Convolution& c) const {
    return c.N * (gradient ? c.in[0] : c.out[0]) * row_blocks * column_blocks;
  }
  int64_t tasks(const Convolution& c) const { return blocks * maps(c); }
};

// One spatial axis of the plane that Winograd tiles: the images of a batch side by side, with a gap
// of padding between them, so that a tile may reach from one image into the next.
struct TileAxis {
  int64_t images;  // side by side
  int64_t period;  // cells from image to image
  int64_t tiles;   // over the whole plane
  int64_t run;     // tiles that follow one another without a jump; then the next image starts
  int64_t origin(int64_t tile, int64_t m) const { return tile / run * period + tile % run * m; }
};

constexpr int64_t kTileCells = 36;  // of a transformed tile

// How F(m x m, r x r) of m + r = 7 is cut.
struct Winograd {
  int64_t m, r;
  TileAxis axis[2];
  int64_t block;   // tiles per block
  int64_t blocks;  // per group
  int64_t panels;  // of filters, per group
  // Elements from one of the 36 cells to the next: of the transformed filters of a panel, of a
  // block's transformed input (and from tile to tile in it), of what a block has for each filter of
  // a panel, and of the sums of a panel's weight gradient.
  int64_t filter_cell, channel_cell, channel_row, panel_cell, sums_cell;

  int64_t tiles() const { return axis[0].tiles * axis[1].tiles; }
};

template <typename T>
struct WinogradForward {
  Convolution shape;
  Winograd plan;
  const T* input;
  const T* weight;
  const T* bias;  // (G * K) or null
  T* filters;     // transformed: (G, panels, 36, filter_cell), or null
  T* output;
};

template <typename T>
struct WinogradWeightGradient {
  Convolution shape;  // of the forward pass; `weight` holds the strides of the result
  Winograd plan;
  const T* input;
  const T* grad_output;
  T* grad_weight;
};

}  // namespace cnn_ext::cpu
