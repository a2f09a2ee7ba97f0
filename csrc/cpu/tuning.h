// The tuning constants of the kernels, on one page: sizes of register tiles and of the blocks that
// the caches keep. There are two columns. The first is for instruction sets with 16 vector
// registers (AVX2, and portable code on x86-64), the second for 32 (AVX-512, and arm64).
//
// Where a reason names a measurement, the constant was chosen by it. The others were chosen by the
// arithmetic in the reason, and only whole kernels were measured. What holds for every instruction
// set is in convolution/tuning.h. docs/tuning.md shows both.
#pragma once

// X(name, unit, value with 16 registers, with 32, reason)
#define CNN_EXT_KERNEL_TUNING(X)                                                                   \
  X(kTileRows, "rows", 6, 14,                                                                      \
    "the tile of a product has two vectors to a row; these sums, two vectors of one operand and "  \
    "a broadcast element of the other fill the registers")                                         \
  X(kNear, "rows", 5, 5,                                                                           \
    "rows of a tile that are reached from one pointer: there are too few registers for more")      \
  X(kAccumulators, "elements", 128 * 1024, 128 * 1024,                                             \
    "sums of a weight gradient that a task holds: 512 KiB of float32, about an L2 cache")          \
  X(kReductionBlock, "terms of a sum", 256, 256,                                                   \
    "between two visits to the sums: a packed panel of patches stays in L1")                       \
  X(kPixelBlock, "pixels", 128, 128, "of a task: its packed patches stay in L2")                   \
  X(kCachePage, "bytes", 4096, 4096, "rows so far apart fall into the same sets of L1")            \
  X(kChunk, "filters or patch entries", 360, 360,                                                  \
    "about the root of kAccumulators: square chunks pack the least")                               \
  X(kFiltersInPlace, "filters", 64, 64,                                                            \
    "up to here a weight gradient reads its operands where they lie: so few products to an "       \
    "element do not pay for a copy")                                                               \
  X(kPartPixels, "pixels", 2048, 2048,                                                             \
    "of a part of a weight gradient's sum, at least. 512 made a transposed 1-d layer 1.2 times "   \
    "slower (Zen 3, 2026-11-29)")                                                                  \
  X(kBandFilters, "filters", 6, 8, "of a tile of a band, at most")                                 \
  X(kBandSums, "vectors", 12, 24, "of sums in a tile of a band; the rest of the registers load")   \
  X(kBandVectors, "vectors", 12, 12, "of cells in a tile of a band, at most")                      \
  X(kBandGradientFilters, "filters", 4, 6, "of a tile of a band's weight gradient")                \
  X(kBandGradientEntries, "filter cells", 3, 4, "likewise; their products fill the registers")     \
  X(kBandBytes, "bytes", 24 << 10, 24 << 10, "of a band, where channels can be split: most of L1") \
  X(kGradientBandBytes, "bytes", 96 << 10, 96 << 10,                                               \
    "likewise in a weight gradient, where every block of channels copies the gradients again")     \
  X(kBandCells, "cells", 160, 160, "of a block of rows, at least, if the map has them")            \
  X(kGradientCells, "cells", 512, 512, "likewise in a weight gradient along the cells")            \
  X(kPanelSteps, "terms of a sum", 256, 256, "of a panel of a band's filters, which stays in L1")  \
  X(kBandPartPixels, "pixels", 4096, 4096,                                                         \
    "of a part of a band's weight gradient: sums are stored one by one. Parts of 400 made "        \
    "LeNet's C3 1.3 times slower (Zen 3, 2026-11-29)")                                             \
  X(kStripTiles, "tiles", 8, 8, "that Winograd gathers at once: a strip stays in L1")              \
  X(kChannelBlock, "channels", 64, 64, "between two visits to Winograd's sums")                    \
  X(kGroupFilters, "filters", 64, 64, "that share a stretch of tiles while it is in L1")           \
  X(kWeightChannels, "channels", 64, 64,                                                           \
    "whose sums are complete in L2 where one block holds all tiles")                               \
  X(kManyTiles, "tiles", 128, 128, "from here two panels take turns: no cache holds the tiles")    \
  X(kDenseFilters, "filters", 3, 6, "of a tile of inner products")                                 \
  X(kDensePixels, "pixels", 3, 4, "likewise; their products fill the registers")                   \
  X(kDenseChannels, "channels", 2048, 2048, "between two visits to a dense layer's output")        \
  X(kDenseBlock, "channels", 256, 256, "likewise where filters lie channel by channel")            \
  X(kDenseSteps, "channels", 8, 8, "of these, added at a time")                                    \
  X(kDenseSums, "elements", 1 << 16, 1 << 16, "that such a block holds: half of an L2 cache")      \
  X(kDenseColumns, "filters", 4096, 4096, "of such a block, at most")                              \
  X(kDenseCells, "elements", 1 << 16, 1 << 16, "of the pixels of a weight gradient, in L2")        \
  X(kVectorsAtOnce, "vectors", 1, 2, "of groups that a depthwise kernel takes at once")            \
  X(kTapsAtOnce, "filter cells", 9, 9, "of a depthwise weight gradient: 3 x 3 in one pass")        \
  X(kRowsAtOnce, "rows", 4, 4, "of a depthwise result, which share the rows they read")            \
  X(kDepthwiseBytes, "bytes", 24 << 10, 24 << 10, "of the rows kept for a vector: most of L1")     \
  X(kDepthwiseGroupBytes, "bytes", 192 << 10, 192 << 10,                                           \
    "likewise where groups are innermost, many vectors at a time: in L2")                          \
  X(kDepthwiseFilters, "elements", 1 << 15, 1 << 15, "of the filters of a block read in place")    \
  X(kDepthwiseSlab, "elements", 1 << 17, 1 << 17,                                                  \
    "of the rows of both maps that every vector passes over, where a weight gradient reads in "    \
    "place: they stay in L2")                                                                      \
  X(kPartRows, "rows", 64, 64,                                                                     \
    "of a part of a depthwise weight gradient's sum, at least. 16 made MobileNetV2's of 14 x 14 "  \
    "1.1 times slower (Zen 3, 2026-11-29)")                                                        \
  X(kPixelsAtOnce, "pixels", 8, 8, "of a tile of narrow groups, at most")                          \
  X(kGroupSums, "vectors", 8, 24, "of sums in a tile of a narrow group's weight gradient")         \
  X(kWidestGroup, "channels", 8, 32, "of a narrow group; wider ones do not fit the registers")
