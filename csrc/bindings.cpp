// The Python module cnn_ext._C: facts about the build and the processor. No tensors pass here; the
// operations are registered with torch's dispatcher by csrc/ops/, when this library is loaded.

#include <ATen/Parallel.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/version.h>

#include <array>

#include "cpu/kernels.h"

namespace {

namespace cpu = cnn_ext::cpu;

// How many threads at::parallel_for really uses: one, if this library was built without OpenMP.
int64_t parallel_threads() {
  std::atomic<int64_t> chunks{0};
  at::parallel_for(0, at::get_num_threads(), 1, [&](int64_t, int64_t) { ++chunks; });
  return chunks;
}

pybind11::dict build_facts() {
  pybind11::dict facts;
  facts["torch_version"] = TORCH_VERSION;
#if defined(CNN_EXT_CUDA_VERSION)
  facts["cuda_version"] = CNN_EXT_CUDA_VERSION;
#else
  facts["cuda_version"] = pybind11::none();
#endif
  facts["compiler"] = __VERSION__;
  return facts;
}

std::vector<std::string> kernel_slots() {
#define CNN_EXT_SLOT(name, result, arguments) #name,
  return {CNN_EXT_KERNEL_SLOTS(CNN_EXT_SLOT)};
#undef CNN_EXT_SLOT
}

// What "auto" means for a convolution over (height, width): its name.
std::string chosen_algorithm(bool single, std::array<int64_t, 4> input,
                             std::array<int64_t, 4> weight, std::array<int64_t, 2> stride,
                             std::array<int64_t, 4> padding, std::array<int64_t, 2> dilation,
                             int64_t groups) {
  cpu::Convolution c{};
  c.N = input[0];
  c.G = groups;
  c.C = weight[1];
  c.K = weight[0] / groups;
  c.in[0] = c.out[0] = c.filter[0] = c.stride[0] = c.dilation[0] = 1;
  for (int axis = 0; axis < 2; ++axis) {  // padding: before and after, the last axis first
    c.in[axis + 1] = input[axis + 2];
    c.filter[axis + 1] = weight[axis + 2];
    c.stride[axis + 1] = stride[axis];
    c.dilation[axis + 1] = dilation[axis];
    c.padding[axis + 1] = padding[2 - 2 * axis];
    const int64_t padded = input[axis + 2] + padding[2 - 2 * axis] + padding[3 - 2 * axis];
    const int64_t extent = dilation[axis] * (weight[axis + 2] - 1) + 1;
    c.out[axis + 1] = (padded - extent) / stride[axis] + 1;
  }
  return cpu::name_of(cpu::choose(c, single));
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Build facts and CPU capability of cnn_ext.";
  m.def("build_facts", &build_facts, "torch, CUDA and compiler versions of the build.");
  m.def(
      "cpu_capability", [] { return std::string(cpu::name_of(cpu::capability())); },
      "The instruction set in use: scalar, avx2 or avx512.");
  m.def(
      "best_cpu_capability", [] { return std::string(cpu::name_of(cpu::best_capability())); },
      "The best instruction set of this processor.");
  m.def("set_cpu_capability", &cpu::set_capability, pybind11::arg("name"),
        "Lowers the instruction set in use, or raises it again, up to the best; for tests.");
  m.def("parallel_threads", &parallel_threads, "The number of threads that kernels run on.");
  m.def("chosen_algorithm", &chosen_algorithm,
        "The algorithm that \"auto\" means for a two-dimensional convolution.");
  m.def("kernel_slots", &kernel_slots, "Names of the kernels that every instruction set provides.");
}
