// The Python module cnn_ext._C: facts about the build and the processor. No tensors pass here; the
// operations are registered with torch's dispatcher by csrc/ops/, when this library is loaded.

#include <ATen/Parallel.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/version.h>

#include <vector>

#include "cpu/convolution/route.h"
#include "cpu/kernel_names.h"
#include "cpu/tuning.h"
#include "ops/enable.h"
#include "ops/trace.h"
#include "ops/without_cuda.h"

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

#define CNN_EXT_TUPLE(name, unit, few, many, reason) \
  pybind11::make_tuple(#name, unit, few, many, reason),
std::vector<pybind11::tuple> kernel_tuning() { return {CNN_EXT_KERNEL_TUNING(CNN_EXT_TUPLE)}; }
#undef CNN_EXT_TUPLE

#define CNN_EXT_TUPLE(type, name, unit, value, reason) \
  pybind11::make_tuple(#name, unit, cpu::name, reason),
std::vector<pybind11::tuple> convolution_tuning() {
  return {CNN_EXT_CONVOLUTION_TUNING(CNN_EXT_TUPLE)};
}
#undef CNN_EXT_TUPLE

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

cpu::Dtype dtype_named(const std::string& name) {
  constexpr const char* kNames[] = {"float32",   "float64",   "bfloat16",  "float16",
                                    "complex32", "complex64", "complex128"};
  for (int i = 0; i < 7; ++i) {
    if (name == kNames[i]) return static_cast<cpu::Dtype>(i);
  }
  throw pybind11::value_error("dtype: expected a floating-point or complex dtype, got " + name);
}

// The route of a convolution of dense tensors over one to three axes. Sizes are (N, C, ...) and
// (K, C / groups, ...); padding is before and after each axis, the last axis first.
pybind11::dict route(const std::string& pass, const std::string& dtype, bool channels_last,
                     const std::vector<int64_t>& input, const std::vector<int64_t>& weight,
                     const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
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
  c = cpu::densified(c, channels_last);
  cpu::Request request{cpu::Pass::forward, c, axes, dtype_named(dtype), std::nullopt};
  for (const auto other : {cpu::Pass::input_gradient, cpu::Pass::weight_gradient}) {
    if (pass == cpu::name_of(other)) request.pass = other;
  }
  const cpu::Route found = cpu::plan(request);
  pybind11::dict facts;
  facts["algorithm"] = cpu::name_of(found.algorithm);
  facts["row"] = found.row;
  facts["path"] = cpu::describe(found);
  facts["precision"] = cpu::name_of(found.precision);
  return facts;
}

// The rule of "auto", row by row: name, algorithm, when, reason.
std::vector<std::vector<std::string>> rule() {
  std::vector<std::vector<std::string>> rows;
  for (const cpu::Row& row : cpu::kRule) {
    rows.push_back({row.name, cpu::name_of(row.algorithm), row.when, row.reason});
  }
  return rows;
}

pybind11::list end_trace(size_t trace) {
  pybind11::list list;
  for (const cnn_ext::Record& r : cnn_ext::end_trace(trace)) {
    list.append(pybind11::make_tuple(r.op, r.pass, r.route, r.sizes, r.dtype, r.layout, r.threads,
                                     r.workspace_bytes, r.milliseconds));
  }
  return list;
}

pybind11::list end_totals(size_t totals) {
  pybind11::list list;
  for (const cnn_ext::Total& t : cnn_ext::end_totals(totals)) {
    list.append(pybind11::make_tuple(t.op, t.pass, t.route, t.calls, t.milliseconds));
  }
  return list;
}

// Operator, reason ("" where our kernel ran), calls and multiply-adds, since this library was
// loaded.
pybind11::list override_counts() {
  pybind11::list list;
  for (const cnn_ext::Override& one : cnn_ext::overrides()) {
    for (int i = 0; i < cnn_ext::kReasons; ++i) {
      const auto reason = static_cast<cnn_ext::Reason>(i);
      const cnn_ext::Count& count = one.counts->of(reason);
      const int64_t calls = count.calls, multiply_adds = count.multiply_adds;
      list.append(pybind11::make_tuple(one.name, cnn_ext::name_of(reason), calls, multiply_adds));
    }
  }
  return list;
}

void bind_enable(pybind11::module_& m) {
  m.def("register_overrides", &cnn_ext::register_overrides,
        "Registers our kernels for torch's operators on the CPU.");
  m.def("release_overrides", &cnn_ext::release_overrides, "Releases them.");
  m.def("check_override", &cnn_ext::check_override,
        "Raises where an operator of torch's is not the one that a kernel was written for.");
  m.def("override_counts", &override_counts,
        "Calls and multiply-adds by operator and by why they went to torch.");
  m.def("enter_torch_only", &cnn_ext::TorchOnly::enter, "Keeps torch's kernels in this thread.");
  m.def("leave_torch_only", &cnn_ext::TorchOnly::leave, "Ends that.");
  m.def("set_process_algorithm", &cnn_ext::set_process_algorithm,
        "What \"auto\" means to torch's operators on our kernels.");
  m.def("set_thread_algorithm", &cnn_ext::set_thread_algorithm,
        "The same in this thread; \"\" for the process's.");
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  cnn_ext::refuse_gpu_tensors();
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
  m.def("convolution_route", &route, "The route that a convolution takes under \"auto\".");
  m.def("convolution_rule", &rule,
        "What \"auto\" means: name, algorithm, when and why, row by row.");
  m.def("kernel_tuning", &kernel_tuning,
        "Constants of the kernels: name, unit, value with 16 vector registers, with 32, reason.");
  m.def("convolution_tuning", &convolution_tuning,
        "Constants of every instruction set: name, unit, value, reason.");
  m.def("begin_trace", &cnn_ext::begin_trace, "Starts a record of every call; returns its name.");
  m.def("end_trace", &end_trace, "Ends it; returns the calls.");
  m.def("begin_totals", &cnn_ext::begin_totals, "Starts totals of all calls; returns their name.");
  m.def("end_totals", &end_totals, "Ends them; returns op, pass, route, calls and milliseconds.");
  bind_enable(m);
  m.def("kernel_slots", &cpu::kernel_names,
        "Names of the kernels that every instruction set provides.");
}
