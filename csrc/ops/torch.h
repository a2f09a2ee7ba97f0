// What every file of csrc/ops/ needs of torch, included first in each. The build has GCC read it
// once for all of them (setup.py), for it takes most of the time of a file.
#ifndef CNN_EXT_TORCH_H
#define CNN_EXT_TORCH_H

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#endif
