// What every kernel and driver for CUDA stands on: how shared memory is declared, how a kernel is
// launched, what the device can do, sums over a block. Kernels know no torch beyond this file.
//
// CNN_EXT_EMULATED_CUDA compiles the same kernels and drivers for the CPU, where tests run them on
// a machine without a GPU (tests/cuda/emulation).
#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Exception.h>
#include <c10/util/Half.h>

#include <cstdint>
#include <limits>

#if defined(CNN_EXT_EMULATED_CUDA)
#include "emulated_cuda.h"
#else
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <mma.h>

// A variable that the threads of a block share: uninitialised, as shared memory is.
#define CNN_EXT_SHARED(Type, name) __shared__ Type name
#endif

namespace cnn_ext::cuda {

// Sums are taken in double for double and in float for everything else.
template <typename T>
struct Accumulator {
  using type = float;
};
template <>
struct Accumulator<double> {
  using type = double;
};

#if !defined(CNN_EXT_EMULATED_CUDA)

using c10::cuda::CUDAGuard;

// On the current stream, with `threads` threads in each of `blocks` blocks.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), int64_t blocks, int threads,
            const Arguments&... arguments) {
  if (blocks == 0) return;
  TORCH_CHECK(blocks <= std::numeric_limits<int>::max(), "cnn_ext: a kernel of ", blocks,
              " blocks; CUDA takes 2147483647");
  kernel<<<static_cast<unsigned>(blocks), threads, 0, c10::cuda::getCurrentCUDAStream()>>>(
      arguments...);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

// 80 for compute capability 8.0, of the current device. No synchronisation, no allocation.
inline int compute_capability() {
  int device = 0, major = 0, minor = 0;
  C10_CUDA_CHECK(cudaGetDevice(&device));
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
  return 10 * major + minor;
}

#endif

inline int64_t blocks_for(int64_t count, int64_t each) { return (count + each - 1) / each; }

// kWidth neighbouring cells as one access.
template <typename T, int kWidth>
struct alignas(sizeof(T) * kWidth) Pack {
  T cells[kWidth];
};

template <typename T>
bool is_aligned(const T* pointer, int width) {
  return reinterpret_cast<uintptr_t>(pointer) % (sizeof(T) * width) == 0;
}

template <typename T, int kWidth>
__device__ inline Pack<T, kWidth> load(const T* from) {
  return *reinterpret_cast<const Pack<T, kWidth>*>(from);
}
template <typename T, int kWidth>
__device__ inline void store(T* to, const Pack<T, kWidth>& pack) {
  *reinterpret_cast<Pack<T, kWidth>*>(to) = pack;
}

constexpr int kThreads = 256;  // of a block, where a kernel has no other wish

// The number of this thread in the grid.
__device__ inline int64_t thread_index() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

// value / divisor, for 0 <= value: on 32 bits where it fits, since 64 take several times as long.
__device__ inline int64_t divide(int64_t value, int64_t divisor) {
  if (static_cast<uint64_t>(value | divisor) >> 32 == 0) {
    return static_cast<uint32_t>(value) / static_cast<uint32_t>(divisor);
  }
  return value / divisor;
}

// The sum over a block of kThreads threads, in a fixed order; every thread calls it, thread 0 gets
// it.
template <typename T>
__device__ T block_sum(T value) {
  struct Cells {
    T cells[kThreads];
  };
  CNN_EXT_SHARED(Cells, shared);
  const int thread = threadIdx.x;
  shared.cells[thread] = value;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (thread < half) shared.cells[thread] += shared.cells[thread + half];
    __syncthreads();
  }
  return shared.cells[0];
}

}  // namespace cnn_ext::cuda
