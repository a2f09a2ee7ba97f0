// As much of CUDA as our kernels use, on the CPU and one thing after the other: a test of index
// arithmetic, of bounds and of synchronisation, on machines without a GPU. It says nothing about
// speed, nothing about what a real compiler for GPUs makes of the same source, and no more about
// rounding than that sums are float32 and TF32 has 10 bits.
//
// A thread of a block is a fiber, which runs until it meets a barrier; then the next one runs.
// Blocks run one after the other. In ascending order a read that no barrier protects sees what was
// there before; in descending order it is the other threads that do. So both are tried, and must
// agree to the last bit (`emulated::descending`). Shared memory is allocated anew for every block,
// of exactly the size declared, filled with ones (NaN as a float), under AddressSanitizer like
// everything else.
#pragma once

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <exception>
#include <map>
#include <new>
#include <stdexcept>
#include <type_traits>
#include <utility>
#include <vector>

#include <c10/core/Device.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(threads)

namespace emulated {

struct Index {
  unsigned x = 0;
};

constexpr size_t kStack = 128 * 1024;

// From one stack to another. swapcontext would do, but asks the system each time.
#if defined(__x86_64__)
using Context = void*;  // the stack pointer, above what a call must preserve
extern "C" void emulated_switch(Context* from, Context to);
asm(R"(
.text
.local emulated_switch
emulated_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");
inline void switch_context(Context& from, Context& to) { emulated_switch(&from, to); }
inline void prepare(Context& context, char* stack, void (*start)()) {
  void** top = reinterpret_cast<void**>(stack + kStack) - 2;
  *--top = nullptr;  // where `start` would return to: it does not
  *--top = reinterpret_cast<void*>(start);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  context = top;
}
#else
using Context = ucontext_t;
inline void switch_context(Context& from, Context& to) { swapcontext(&from, &to); }
inline void prepare(Context& context, char* stack, void (*start)()) {
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = kStack;
  context.uc_link = nullptr;
  makecontext(&context, start, 0);
}
#endif

struct Fiber {
  Context context;
  char* stack = nullptr;
  bool done = false;
  int64_t collectives = 0;  // operations of a whole warp that this thread has taken part in
  void* fake_stack = nullptr;
};

inline bool descending = false;
inline int compute_capability = 90;
inline int64_t launches = 0;

inline std::vector<Fiber> fibers;
inline Fiber* current = nullptr;
inline Context scheduler;
inline void* scheduler_fake_stack = nullptr;
inline const void* scheduler_stack = nullptr;
inline size_t scheduler_stack_size = 0;
inline const std::function<void()>* body = nullptr;
inline std::exception_ptr error;  // thrown by a thread
struct Allocation {
  void* memory;
  size_t size;
};
inline std::map<const void*, Allocation> shared;  // of the block that runs

inline void to_fiber(Fiber& fiber) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&scheduler_fake_stack, fiber.stack, kStack);
#endif
  switch_context(scheduler, fiber.context);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(scheduler_fake_stack, nullptr, nullptr);
#endif
}

inline void to_scheduler(Fiber& fiber) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(fiber.done ? nullptr : &fiber.fake_stack, scheduler_stack,
                                 scheduler_stack_size);
#endif
  switch_context(fiber.context, scheduler);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fiber.fake_stack, &scheduler_stack, &scheduler_stack_size);
#endif
}

inline void enter() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_size);
#endif
  try {
    (*body)();
  } catch (...) {
    error = std::current_exception();
  }
  current->done = true;
  to_scheduler(*current);
}

}  // namespace emulated

inline emulated::Index threadIdx, blockIdx, blockDim, gridDim;

inline void __syncthreads() { emulated::to_scheduler(*emulated::current); }

namespace emulated {

inline void run_block(int threads) {
  if (static_cast<int>(fibers.size()) < threads) fibers.resize(threads);
  for (int i = 0; i < threads; ++i) {
    Fiber& fiber = fibers[i];
    if (fiber.stack == nullptr) fiber.stack = static_cast<char*>(std::malloc(kStack));
    fiber.done = false;
    fiber.collectives = 0;
    fiber.fake_stack = nullptr;
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(fiber.stack, kStack);  // of what ran there before
#endif
    prepare(fiber.context, fiber.stack, enter);
  }
  for (int left = threads; left > 0;) {
    for (int i = 0; i < threads; ++i) {  // every thread to its next barrier, or to its end
      const int thread = descending ? threads - 1 - i : i;
      threadIdx.x = static_cast<unsigned>(thread);
      current = &fibers[thread];
      to_fiber(*current);
      if (error != nullptr) std::rethrow_exception(std::exchange(error, nullptr));
    }
    int done = 0;
    for (int i = 0; i < threads; ++i) {
      done += fibers[i].done;
      if (fibers[i].collectives != fibers[i / 32 * 32].collectives) {
        throw std::logic_error("emulated CUDA: the threads of a warp part ways");
      }
    }
    if (done != 0 && done != threads) {
      throw std::logic_error("emulated CUDA: some threads end where others wait at a barrier");
    }
    left = threads - done;
  }
}

inline void free_shared() {
  for (auto& [key, allocation] : shared) {
    ::operator delete(allocation.memory, std::align_val_t{64});
  }
  shared.clear();
}

inline void run(int64_t blocks, int threads, const std::function<void()>& kernel) {
  ++launches;
  body = &kernel;
  blockDim.x = static_cast<unsigned>(threads);
  gridDim.x = static_cast<unsigned>(blocks);
  for (int64_t i = 0; i < blocks; ++i) {
    blockIdx.x = static_cast<unsigned>(descending ? blocks - 1 - i : i);
    free_shared();
    run_block(threads);
  }
  free_shared();
}

// The block's variable that is declared at `key`.
template <typename T>
T& shared_variable(const void* key) {
  auto found = shared.find(key);
  if (found == shared.end()) {
    void* const memory = ::operator new(sizeof(T), std::align_val_t{64});
    std::memset(memory, 0xff, sizeof(T));
    found = shared.emplace(key, Allocation{memory, sizeof(T)}).first;
    size_t total = 0;
    for (const auto& [other, allocation] : shared) total += allocation.size;
    if (total > 48 * 1024) throw std::logic_error("emulated CUDA: more than 48 KB shared");
  }
  return *static_cast<T*>(found->second.memory);
}

}  // namespace emulated

#define CNN_EXT_SHARED(Type, name)                                   \
  Type& name = emulated::shared_variable<Type>([]() -> const void* { \
    static const char key = 0;                                       \
    return &key;                                                     \
  }())

// ------------------------------------------------------------------------------------ arithmetic

// Not to be fused, whatever the compiler is allowed.
inline float __fmul_rn(float a, float b) {
  volatile float product = a * b;
  return product;
}
inline double __dmul_rn(double a, double b) {
  volatile double product = a * b;
  return product;
}
inline double __dadd_rn(double a, double b) {
  volatile double sum = a + b;
  return sum;
}
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }

using __half = c10::Half;
using __nv_bfloat16 = c10::BFloat16;

// ---------------------------------------------------------------------------------- tensor cores
//
// nvcuda::wmma, whose fragments are opaque: here thread 0 of a warp holds all of it, and the others
// only count. What wmma asks of pointers and strides is checked.

namespace nvcuda::wmma {

struct row_major {};
struct col_major {};
struct matrix_a {};
struct matrix_b {};
struct accumulator {};
namespace precision {
struct tf32 {};
}  // namespace precision
enum layout_t { mem_row_major, mem_col_major };

template <typename T>
struct Stored {
  using type = T;
};
template <>
struct Stored<precision::tf32> {
  using type = float;
};

template <typename Use, int M, int N, int K, typename T, typename Layout = void>
struct fragment {
  static constexpr int kRows = std::is_same_v<Use, matrix_b> ? K : M;
  static constexpr int kColumns = std::is_same_v<Use, matrix_a> ? K : N;
  static constexpr bool kTensorFloat = std::is_same_v<T, precision::tf32>;
  float cells[kRows][kColumns];
};

inline bool first_of_warp() {
  ++emulated::current->collectives;
  return threadIdx.x % 32 == 0;
}

template <typename T>
void check_access(const T* pointer, unsigned stride) {
  if (reinterpret_cast<uintptr_t>(pointer) % 32 != 0 || stride * sizeof(T) % 16 != 0) {
    throw std::logic_error("emulated CUDA: wmma wants 32-byte pointers and 16-byte strides");
  }
}

inline float __float_to_tf32(float x) {  // to nearest, ties away from zero
  if (!std::isfinite(x)) return x;
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  bits = (bits + 0x1000u) & ~0x1fffu;
  std::memcpy(&x, &bits, 4);
  return x;
}

template <typename Fragment>
void fill_fragment(Fragment& f, float value) {
  if (!first_of_warp()) return;
  for (auto& row : f.cells) {
    for (float& cell : row) cell = value;
  }
}

template <typename Use, int M, int N, int K, typename T, typename Layout>
void load_matrix_sync(fragment<Use, M, N, K, T, Layout>& f, const typename Stored<T>::type* from,
                      unsigned stride) {
  if (!first_of_warp()) return;
  check_access(from, stride);
  constexpr bool kRowMajor = std::is_same_v<Layout, row_major>;
  for (int i = 0; i < f.kRows; ++i) {
    for (int j = 0; j < f.kColumns; ++j) {
      const auto value = from[kRowMajor ? i * stride + j : j * stride + i];
      f.cells[i][j] = static_cast<float>(value);
      if (f.kTensorFloat && f.cells[i][j] == f.cells[i][j] &&
          f.cells[i][j] != __float_to_tf32(f.cells[i][j])) {
        throw std::logic_error("emulated CUDA: a number that is not rounded to TF32");
      }
    }
  }
}

template <int M, int N, int K>
void store_matrix_sync(float* to, const fragment<accumulator, M, N, K, float>& f, unsigned stride,
                       layout_t layout) {
  if (!first_of_warp()) return;
  check_access(to, stride);
  for (int i = 0; i < M; ++i) {
    for (int j = 0; j < N; ++j) {
      to[layout == mem_row_major ? i * stride + j : j * stride + i] = f.cells[i][j];
    }
  }
}

template <int M, int N, int K, typename A, typename B>
void mma_sync(fragment<accumulator, M, N, K, float>& d, const A& a, const B& b,
              const fragment<accumulator, M, N, K, float>& c) {
  if (!first_of_warp()) return;
  for (int i = 0; i < M; ++i) {
    float sums[N];
    for (int j = 0; j < N; ++j) sums[j] = c.cells[i][j];
    for (int k = 0; k < K; ++k) {
      for (int j = 0; j < N; ++j) sums[j] += a.cells[i][k] * b.cells[k][j];
    }
    for (int j = 0; j < N; ++j) d.cells[i][j] = sums[j];
  }
}

}  // namespace nvcuda::wmma

// ---------------------------------------------------------------------------------- the host side

namespace cnn_ext::cuda {

struct CUDAGuard {
  explicit CUDAGuard(c10::Device) {}
};

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), int64_t blocks, int threads,
            const Arguments&... arguments) {
  emulated::run(blocks, threads, [&] { kernel(arguments...); });
}

inline int compute_capability() { return emulated::compute_capability; }

}  // namespace cnn_ext::cuda
