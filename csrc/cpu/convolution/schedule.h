// How a convolution is shared out among threads. A kernel's plan follows from the shape alone, and
// with it the order of every sum. A schedule gives each thread its tasks and changes no bit of a
// result, so that one thread and sixty-four compute the same.
#pragma once

#include <algorithm>

#include "problem.h"

namespace cnn_ext::cpu {

// How many of the threads at hand a convolution is worth.
inline int64_t threads_worth(const Convolution& c, int64_t threads) {
  const double operations = 2.0 * c.pixels() * c.G * c.K * c.reduction();
  const double worth = std::max(1.0, operations / kOperationsPerThread);
  return static_cast<int64_t>(std::min<double>(threads, worth));
}

inline int64_t power_of_two_below(int64_t most) {
  int64_t result = 1;
  while (2 * result <= most) result *= 2;
  return result;
}

// A weight gradient sums over pixels. Its sum is cut into parts, which are added in order at the
// end: so many that `tasks` times the parts are enough for kPartTasks threads, but each part has
// at least `pixels_of_part` pixels and all parts have at most kPartElements elements. Where there
// is one task, there are two parts of fewer pixels, for two threads. A power of two, so that as
// many threads have equal shares.
inline int64_t parts_of_sum(const Convolution& c, int64_t tasks, int64_t pixels_of_part) {
  const int64_t elements = c.G * c.K * c.reduction();
  const int64_t wanted = divide_up(kPartTasks, tasks);
  const int64_t parts = std::min({wanted, kPartElements / elements, c.pixels() / pixels_of_part});
  const int64_t least = tasks == 1 && c.pixels() >= kTwoPartPixels ? 2 : 1;
  return power_of_two_below(std::max(parts, least));
}

}  // namespace cnn_ext::cpu
