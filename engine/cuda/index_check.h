#pragma once

#include <mutex>
#include <string>

#include <cuda_runtime.h>

#include "lockstep/engine/index_checks.h"

namespace lockstep::cuda {

// The first index that was wrong: in pinned memory, which a device writes to and the host looks at
// once it has waited. Whoever exchanges `claimed` writes the rest, then `complete`.
struct WrongIndex {
  unsigned claimed = 0, complete = 0;
  IndexRule rule{};
  int64_t index = 0, position = 0;
};

// One device's. Nothing is asked of the host in a call, so that steps can be recorded with it.
class IndexCheck {
 public:
  IndexCheck();  // for the current device
  ~IndexCheck();
  IndexCheck(const IndexCheck&) = delete;
  IndexCheck& operator=(const IndexCheck&) = delete;

  void check(cudaStream_t stream, const IndexRule& rule, const Tensor& index,
             const Tensor& poisoned) const;
  std::string take();  // IndexChecks::wrong_index()

 private:
  std::mutex mutex_;
  WrongIndex* found_ = nullptr;
};

}  // namespace lockstep::cuda
