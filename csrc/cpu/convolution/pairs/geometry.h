// What the kernel that pairs channels of bfloat16 is told, and its table. Plain data, no torch.
#pragma once

#include "../../family.h"
#include "../problem.h"

namespace cnn_ext::cpu {

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

// X(slot, result, arguments), for an element type T.
#define CNN_EXT_PAIRS_SLOTS(X) X(pair_channels, void, (const Pairing&, int64_t first, int64_t last))

CNN_EXT_FAMILY(PairsKernels, CNN_EXT_PAIRS_SLOTS);

}  // namespace cnn_ext::cpu
