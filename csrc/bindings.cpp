// The Python module cnn_ext._C: facts about the build and the processor. No tensors pass here; the
// operations are registered with torch's dispatcher by csrc/ops/, when this library is loaded.

#include <ATen/Parallel.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/version.h>

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
  m.def("kernel_slots", &kernel_slots, "Names of the kernels that every instruction set provides.");
}
