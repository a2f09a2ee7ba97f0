// What the kernels of colour PCA are told, and how moments are joined. No torch.
#pragma once

#include <cstdint>

#include "../family.h"

namespace cnn_ext::cpu {

// How the colours of N images lie in contiguous memory: as `rows` of `length` cells, in which
// `cycle` channels take turns.
//
//   planes  (N, C, H, W)   N C rows of H W cells      cycle 1
//   pixels  (N, H, W, C)   N rows of H W C cells      cycle C
struct ColorRows {
  int64_t rows, length, cycle;
};

// What becomes of a byte: x + add - subtract, saturated, of which one is zero; or, where a sum
// comes near a tie, whatever `table` says of each of the 256.
struct ByteShift {
  uint8_t add, subtract;
  const uint8_t* table;  // or null
};

// Adds to every cell the shift of its row and channel. A task is a block of `block` cells of a row,
// a multiple of the pattern that repeats along it.
template <typename T, typename Shift>
struct ColorShift {
  const T* input;
  T* output;
  const Shift* shifts;  // (rows or 1, cycle)
  int64_t shift_rows;   // rows that have shifts of their own, before they repeat
  ColorRows layout;
  int64_t pattern;  // cells: a multiple of cycle
  int64_t block, blocks;
};

// Sums every channel of every row; a task is a row.
template <typename T>
struct ColorSums {
  const T* input;
  double* sums;  // (rows, cycle)
  ColorRows layout;
  int64_t pattern;
};

// Second moments of the colours of N images. A task is a chunk of the pixels of one image. Every
// one leaves what it found: of bytes the sums and the sums of products (Sum is int64_t), of floats
// the mean and the sums of products of what remains without it (Sum is double).
template <typename T, typename Sum>
struct ColorMoments {
  const T* input;
  Sum* found;  // (tasks, C + C C)
  int64_t C, pixels;
  int64_t image_stride, channel_stride, pixel_stride;  // in elements
  int64_t chunk, chunks;                               // pixels of a task; tasks of an image
};

constexpr int64_t kMomentPixels = 1024;  // multiplied at once: a multiple of every vector's lanes

// Joins `count` pixels, with this mean and these products, to the `before` pixels of `found`.
inline void join_moments(int64_t C, double before, double count, const double* mean,
                         const double* products, double* found) {
  const double weight = count / (before + count);
  for (int64_t a = 0; a < C; ++a) {
    for (int64_t b = 0; b < C; ++b) {
      const double apart = (mean[a] - found[a]) * (mean[b] - found[b]);
      found[C + a * C + b] += products[a * C + b] + before * weight * apart;
    }
  }
  for (int64_t c = 0; c < C; ++c) found[c] += weight * (mean[c] - found[c]);
}

// X(slot, result, arguments), for an element type T.
#define CNN_EXT_COLOR_PCA_SLOTS(X)                                                            \
  X(add_shift, void, (const ColorShift<T, T>&, int64_t first, int64_t last, T* workspace))    \
  X(add_shift_to_bytes, void,                                                                 \
    (const ColorShift<uint8_t, ByteShift>&, int64_t first, int64_t last, uint8_t* workspace)) \
  X(sum_pixels, void, (const ColorSums<T>&, int64_t first, int64_t last, double* workspace))  \
  X(color_moments, void,                                                                      \
    (const ColorMoments<T, double>&, int64_t first, int64_t last, double* workspace))         \
  X(byte_moments, void,                                                                       \
    (const ColorMoments<uint8_t, int64_t>&, int64_t first, int64_t last, int16_t* workspace))

CNN_EXT_FAMILY(ColorPCAKernels, CNN_EXT_COLOR_PCA_SLOTS);

}  // namespace cnn_ext::cpu
