#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <mutex>

#include <cuda_runtime.h>

#include "lockstep/engine/cuda/memory.h"

namespace lockstep::cuda {

// While one lives, this thread may call what a capture forbids because it might wait, and does not.
class RelaxedCapture {
 public:
  RelaxedCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  ~RelaxedCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  RelaxedCapture(const RelaxedCapture&) = delete;
  RelaxedCapture& operator=(const RelaxedCapture&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

// The memory of one graph, whose addresses are in its kernels. What is given back during the
// capture is handed out again at once: one stream does everything in the order of the host's calls.
// Nobody else ever gets it. After retire() what is unused goes back to the device, and the rest
// when it is given back.
class GraphMemory {
 public:
  explicit GraphMemory(MemoryPool& pool) : pool_(pool) {}
  ~GraphMemory() { retire(); }
  GraphMemory(const GraphMemory&) = delete;
  GraphMemory& operator=(const GraphMemory&) = delete;

  void* allocate(size_t bytes);         // null for 0 bytes
  bool give_back(void* data) noexcept;  // false if it is not from here
  void retire() noexcept;               // not while the thread captures
  bool is_empty() const;
  size_t bytes() const;

 private:
  MemoryPool& pool_;
  mutable std::mutex mutex_;
  bool retired_ = false;
  size_t bytes_ = 0;
  std::map<void*, size_t> used_;  // and their sizes
  std::multimap<size_t, void*> unused_;
};

}  // namespace lockstep::cuda
