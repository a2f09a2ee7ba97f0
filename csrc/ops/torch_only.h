// A guard: in this thread, torch's operators run torch's own kernels, also while cnn_ext.enable()
// has ours registered. Every call of ours holds one, so that what it asks of ATen never comes back
// to us; so do the references and opponents that we are compared with. The tasks of
// at::parallel_for run in other threads and call no such operator.
#pragma once

#pragma GCC visibility push(default)  // tests/cuda/emulation is linked with these

namespace cnn_ext {

class TorchOnly {
 public:
  TorchOnly() { enter(); }
  ~TorchOnly() { leave(); }
  TorchOnly(const TorchOnly&) = delete;
  TorchOnly& operator=(const TorchOnly&) = delete;

  static bool is_on();
  // For a Python block, which is no C++ scope.
  static void enter();
  static void leave();
};

}  // namespace cnn_ext

#pragma GCC visibility pop
