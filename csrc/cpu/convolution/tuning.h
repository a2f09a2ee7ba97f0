// The tuning constants that hold for every instruction set, on one page: thresholds of the rule
// (route.h), shares of threads (schedule.h) and memory of the drivers (csrc/ops/convolution/).
// Those of the kernels are in ../tuning.h, where it is also said what the reasons rest on.
#pragma once

#include <cstdint>

// X(type, name, unit, value, reason)
#define CNN_EXT_CONVOLUTION_TUNING(X)                                                              \
  /* The rule */                                                                                   \
  X(int64_t, kWinogradChannels, "channels", 16, "of Winograd, at least: fewer fill no vector")     \
  X(double, kSavesAThird, "of the products", 2.0 / 3, "that Winograd may take")                    \
  X(double, kSavesTwoThirds, "of the products", 1.0 / 3,                                           \
    "likewise in bfloat16, whose products by pairs have twice the rate")                           \
  X(int64_t, kWholePanel, "filters", 32, "of a group: a panel of float32 with AVX-512")            \
  X(double, kGoodBand, "elements", 1 << 15, "of a band that stays in the cache")                   \
  X(double, kMostBand, "elements", 1 << 22, "of a band that direct convolution serves at all")     \
  X(int64_t, kBandSteps, "terms of a sum", 1024, "of a band, at most: offsets on the stack")       \
  X(int64_t, kFewTaps, "filter cells", 4, "whose patches are packed as fast as a band is copied")  \
  X(int64_t, kFewColumns, "filters", 16, "fewer leave most of a panel empty")                      \
  X(int64_t, kFewFilters, "filters", 32, "fewer, in a weight gradient, are worth a band")          \
  X(int64_t, kFewChannels, "channels", 16, "fewer, of bfloat16, are written out as pairs anyway")  \
  X(int64_t, kShortRow, "pixels", 16, "shorter rows fill no vector of float32")                    \
  X(int64_t, kDirectTaps, "filter cells", 64, "of a depthwise filter, at most")                    \
  X(int64_t, kDepthwiseColumns, "pixels", 512, "of a row that depthwise takes at once")            \
  X(int64_t, kDepthwiseCells, "elements", 1 << 16, "of the rows that depthwise keeps, at most")    \
  X(int64_t, kDenseWeights, "elements", 1 << 17, "fewer filters are packed in no time")            \
  X(int64_t, kManyWeights, "elements", 1 << 22, "more come from memory, whatever is done")         \
  X(int64_t, kDenseInputs, "pixels", 64, "of a dense product, at most")                            \
  X(int64_t, kManyInputs, "pixels", 256, "likewise, with more than kManyWeights")                  \
  X(double, kInsideProducts, "of the products", 0.75,                                              \
    "with cells, and not padding: otherwise regions")                                              \
  X(int64_t, kRegionPixels, "pixels", 64, "of a region of products, at least")                     \
  X(double, kInsideBand, "of the products", 0.97, "likewise of a band, which costs less padded")   \
  X(int64_t, kBandRegionPixels, "pixels", 1024, "of a region of a band, at least")                 \
  X(double, kTapPixels, "pixels", 256, "of a tap of a weight gradient, on average")                \
  X(int64_t, kWindowElements, "elements", 1 << 21, "of the windows of an image, side by side")     \
  X(int64_t, kChannelsOfRows, "channels", 32, "fewer are faster by whole windows than by rows")    \
  /* Threads */                                                                                    \
  X(double, kOperationsPerThread, "multiplications and additions", 5e5,                            \
    "about as long as it takes to wake a thread")                                                  \
  X(int64_t, kPartTasks, "tasks", 16, "of a weight gradient: as many threads find work")           \
  X(int64_t, kPartElements, "elements", 1 << 20, "of all parts of its sum: 4 MiB of float32")      \
  X(int64_t, kTwoPartPixels, "pixels", 256, "that two parts have together, at least")              \
  X(int64_t, kDenseTask, "filters", 64, "of a task of a dense layer, channel by channel")          \
  /* Winograd */                                                                                   \
  X(int64_t, kTileBlock, "tiles", 56,                                                              \
    "between two visits to a weight gradient's sums, at most. 60 made VGG 1_2's error a tenth "    \
    "larger (Zen 3, 2026-11-24)")                                                                  \
  X(int64_t, kOwnBlock, "tiles", 28, "of a block that a thread carries from input to output")      \
  X(int64_t, kOwnFilters, "elements", 1 << 20,                                                     \
    "transformed filters, where threads have blocks of their own")                                 \
  X(int64_t, kSharedBlock, "tiles", 56,                                                            \
    "of a block that all threads share, at least: each reads or makes all filters")                \
  X(int64_t, kKeptFilters, "elements", 1 << 22,                                                    \
    "transformed filters that shared blocks read again")                                           \
  X(int64_t, kWinogradMemory, "elements per thread", 1 << 20, "of a shared block")                 \
  X(int64_t, kGradientMemory, "elements per thread", 1 << 20,                                      \
    "of a weight gradient's shared block: VGG 3_2 is 1.2 times faster than with 7 << 18 "          \
    "(Zen 3, 2026-11-29)")                                                                         \
  X(int64_t, kWideGradientMemory, "elements per thread", 7 << 18, "likewise with AVX-512 (Zen 4)") \
  X(int64_t, kPartTiles, "tiles", 448, "of a part of a weight gradient's sum, at least")           \
  X(int64_t, kHalfTiles, "tiles", 32, "likewise of two parts")                                     \
  X(int64_t, kThreadSums, "elements", 1 << 18,                                                     \
    "transformed filters of a group whose sums a thread keeps: 1 MiB of float32")                  \
  /* Images at a time, however many threads there are: see `each_images`. */                       \
  X(int64_t, kPhaseMemory, "elements", 1 << 21, "of images whose stride's phases are channels")    \
  X(int64_t, kTransposeMemory, "elements", 1 << 21, "of images transposed to channels_last")       \
  X(int64_t, kRoundedMemory, "elements", 1 << 22, "of images converted to float32")                \
  X(int64_t, kPairMemory, "pairs", 1 << 20, "of images whose channels are paired")                 \
  X(int64_t, kWindowMemory, "elements", 1 << 20, "of windows side by side")

namespace cnn_ext::cpu {

#define CNN_EXT_CONSTANT(type, name, unit, value, reason) constexpr type name = value;
CNN_EXT_CONVOLUTION_TUNING(CNN_EXT_CONSTANT)
#undef CNN_EXT_CONSTANT

}  // namespace cnn_ext::cpu
