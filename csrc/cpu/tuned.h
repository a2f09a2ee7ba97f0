// The constants of tuning.h, with the values of the instruction set in whose namespace this is
// included.
#pragma once

#include "tuning.h"

#define CNN_EXT_CONSTANT(name, unit, few, many, reason) \
  constexpr int name = CNN_EXT_VECTOR_REGISTERS == 32 ? (many) : (few);
CNN_EXT_KERNEL_TUNING(CNN_EXT_CONSTANT)
#undef CNN_EXT_CONSTANT
