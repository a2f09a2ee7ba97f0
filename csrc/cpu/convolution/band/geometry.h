// What the kernels of direct convolution are told, which convolutions they serve, and their table.
// Plain data, no torch.
#pragma once

#include "../../family.h"
#include "../problem.h"
#include "../schedule.h"
#include "../winograd/geometry.h"

namespace cnn_ext::cpu {

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
// the row blocks. `plan_band_gradient` cuts from the shape; `schedule_band_gradient` may cut the
// channels into more chunks.
struct BandGradient {
  Band band;  // its blocks of channels are the chunks
  int64_t chunks, splits;
  int64_t entries;         // of a chunk, with what fills the last tile
  int64_t gradient_row;    // from row to row of the copied gradients, or from pixel to pixel
  int64_t gradient_panel;  // from panel to panel of them, or from filter to filter
  int64_t sums;            // of a chunk

  int64_t tasks(int64_t groups) const { return groups * chunks * splits; }
};

// Elements that one channel and one row of output need of a band: every plane of the filter's depth
// and of the stride's phases.
inline double least_band(const Convolution& c) {
  double size = static_cast<double>(c.filter[0]);
  for (int axis = 1; axis < kSpatial; ++axis) {
    const int64_t reach = (c.filter[axis] - 1) * c.dilation[axis] / c.stride[axis];
    size *= static_cast<double>((axis == 2 ? c.out[2] : 1) + reach);
    size *= static_cast<double>(c.stride[axis] < c.filter[axis] ? c.stride[axis] : c.filter[axis]);
  }
  return size;
}

inline bool direct_serves(const Convolution& c) {
  return c.taps() <= kBandSteps && least_band(c) <= kMostBand;
}

// X(slot, result, arguments), for an element type T.
#define CNN_EXT_BAND_SLOTS(X)                                                                \
  X(plan_band, Band, (const Convolution&))                                                   \
  X(band_workspace, int64_t, (const Band&))                                                  \
  X(band_filters, int64_t, (const Convolution&, const Band&))                                \
  X(pack_band_filters, void, (const ConvolutionForward<T>&, const Band&, int64_t g))         \
  X(convolve_bands, void,                                                                    \
    (const ConvolutionForward<T>&, const Band&, int64_t first, int64_t last, T* workspace))  \
  X(plan_band_gradient, BandGradient, (const Convolution&))                                  \
  X(schedule_band_gradient, void, (const Convolution&, BandGradient&, int64_t threads))      \
  X(band_gradient_workspace, int64_t, (const Convolution&, const BandGradient&))             \
  X(band_weight_gradient, void,                                                              \
    (const ConvolutionWeightGradient<T>&, const BandGradient&, int64_t first, int64_t last,  \
     T* workspace))                                                                          \
  X(split_phases, void, (const Convolution&, const T* input, int64_t c0, int64_t c1, T* to)) \
  X(join_phases, void, (const Convolution&, const T* from, int64_t c0, int64_t c1, T* input))

CNN_EXT_FAMILY(BandKernels, CNN_EXT_BAND_SLOTS);

}  // namespace cnn_ext::cpu
