// The Python module cnn_ext._C: facts about the build and the processor. No tensors pass here; the
// operations are registered with torch's dispatcher by csrc/ops/, when this library is loaded.

#include <ATen/Parallel.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/version.h>

#include <vector>

#include "cpu/convolution/route.h"
#include "cpu/kernels.h"

#if defined(CNN_EXT_CUDA)
#include "cuda_facts.h"  // written by setup.py
#endif

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
#if defined(CNN_EXT_CUDA)
  facts["cuda_version"] = CNN_EXT_CUDA_VERSION;
  facts["cuda_architectures"] = CNN_EXT_CUDA_ARCHITECTURES;
#else
  facts["cuda_version"] = pybind11::none();
  facts["cuda_architectures"] = pybind11::none();
#endif
  facts["compiler"] = __VERSION__;
  return facts;
}

std::vector<std::string> kernel_slots() {
  std::vector<std::string> names;
#define CNN_EXT_NAMES(Family) \
  for (const char* name : cpu::Family<float>::kNames) names.emplace_back(name);
  CNN_EXT_FAMILIES(CNN_EXT_NAMES)
#undef CNN_EXT_NAMES
  return names;
}

// The steps of dense maps of so many channels in all.
cpu::FeatureMapStrides dense(bool channels_last, int64_t groups, int64_t channels,
                             const int64_t* size) {
  const int64_t pixels = size[0] * size[1] * size[2], all = groups * channels;
  const int64_t c = channels_last ? 1 : pixels, pixel = channels_last ? all : 1;
  return {all * pixels, channels * c, c, {pixel * size[1] * size[2], pixel * size[2], pixel}};
}

// What "auto" means for a convolution over one to three axes: its name. Sizes are (N, C, ...) and
// (K, C / groups, ...); padding is before and after each axis, the last axis first.
std::string chosen_algorithm(const std::string& dtype, bool channels_last, bool weight_gradient,
                             const std::vector<int64_t>& input, const std::vector<int64_t>& weight,
                             const std::vector<int64_t>& stride,
                             const std::vector<int64_t>& padding,
                             const std::vector<int64_t>& dilation, int64_t groups) {
  cpu::Convolution c{};
  c.N = input.at(0);
  c.G = groups;
  c.C = weight.at(1);
  c.K = weight.at(0) / groups;
  const int axes = static_cast<int>(weight.size()) - 2;
  for (int axis = 0; axis < cpu::kSpatial; ++axis) {
    c.in[axis] = c.out[axis] = c.filter[axis] = c.stride[axis] = c.dilation[axis] = 1;
    const int from = axis - (cpu::kSpatial - axes);
    if (from < 0) continue;
    const int64_t before = padding.at(2 * (axes - 1 - from));
    const int64_t after = padding.at(2 * (axes - 1 - from) + 1);
    c.in[axis] = input.at(from + 2);
    c.filter[axis] = weight.at(from + 2);
    c.stride[axis] = stride.at(from);
    c.dilation[axis] = dilation.at(from);
    c.padding[axis] = before;
    const int64_t extent = c.dilation[axis] * (c.filter[axis] - 1) + 1;
    c.out[axis] = (c.in[axis] + before + after - extent) / c.stride[axis] + 1;
  }
  c.input = dense(channels_last, c.G, c.C, c.in);
  c.output = dense(channels_last, c.G, c.K, c.out);
  // Parts of complex tensors are not dense; volumes of float64 are never channels_last.
  const bool twice = dtype == "float64" || dtype == "complex128";
  const bool turns = dtype.rfind("complex", 0) != 0 && !(dtype == "float64" && axes == 3);
  const auto precision = twice ? cpu::Precision::float64
                         : dtype == "bfloat16" && cpu::multiplies_bfloat16()
                             ? cpu::Precision::bfloat16
                             : cpu::Precision::float32;
  return cpu::name_of(cpu::choose(c, precision, weight_gradient, turns));
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Build facts and CPU capability of cnn_ext.";
  m.def("build_facts", &build_facts, "torch, CUDA and compiler versions of the build.");
  m.def(
      "cpu_capability", [] { return std::string(cpu::name_of(cpu::capability())); },
      "The instruction set in use: scalar, avx2, avx512 or avx512_bf16.");
  m.def(
      "best_cpu_capability", [] { return std::string(cpu::name_of(cpu::best_capability())); },
      "The best instruction set of this processor.");
  m.def("set_cpu_capability", &cpu::set_capability, pybind11::arg("name"),
        "Lowers the instruction set in use, or raises it again, up to the best; for tests.");
  m.def("parallel_threads", &parallel_threads, "The number of threads that kernels run on.");
  m.def("chosen_algorithm", &chosen_algorithm,
        "The algorithm that \"auto\" means for a convolution.");
  m.def("kernel_slots", &kernel_slots, "Names of the kernels that every instruction set provides.");
}
