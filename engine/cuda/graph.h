#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include <cuda_runtime.h>

#include "lockstep/engine/capture.h"
#include "lockstep/engine/cuda/graph_memory.h"
#include "lockstep/engine/cuda/optimizer.h"
#include "lockstep/engine/cuda/pinned.h"

namespace lockstep::cuda {

class Captures;

// A captured stream. What kernels take from the host at each replay lies in slots: bytes on the
// device and the same on the host, which are filled and copied ahead of the graph.
class CudaGraph final : public DeviceGraph {
 public:
  explicit CudaGraph(Captures& captures);
  ~CudaGraph() override { abandon(); }

  void begin(const RandomKey& random) override;
  void end() override;
  void abandon() noexcept override;
  void check_launch() const override;
  void launch(const RandomKey& random) override;
  size_t nodes() const override { return nodes_; }
  size_t bytes() const override { return memory_ ? memory_->bytes() : 0; }
  uint32_t draws() const override { return static_cast<uint32_t>(scopes_.front().ordinals.size()); }
  void sgd_step(std::span<const OptimizerSegment> segments, std::function<SgdArgs()> args) override;
  void adam_step(std::span<const OptimizerSegment> segments,
                 std::function<AdamArgs()> args) override;

  Tensor value(std::function<float()> now) override;
  void enter_random_scope(const RandomKey& first, std::function<RandomKey()> now) override;
  void leave_random_scope(uint32_t drawn) override;

  // -- while it captures
  void* allocate(size_t bytes) { return memory_->allocate(bytes); }
  // What lies between the scope's first key and this one; throws Error if not only ordinals do.
  RandomKey relative(const RandomKey& key);
  const RandomKey* random() const {
    return static_cast<const RandomKey*>(scopes_.back().slot.device);
  }

 private:
  friend class Captures;
  struct Slot {
    void* device = nullptr;
    std::byte* host = nullptr;
  };
  struct Chunk {
    Chunk(Captures& captures, void* memory);
    ~Chunk();
    Chunk(const Chunk&) = delete;
    Chunk& operator=(const Chunk&) = delete;
    Captures& owner;
    void* const device;
    std::vector<std::byte> host;
    size_t used = 0;
  };
  Slot add_slot(size_t bytes);
  // Slots for Math<float> and Math<double> of what `args` says at each replay.
  template <template <typename> typename Math, typename Args>
  MathSlots add_math(std::function<Args()> args);

  Captures& captures_;
  std::shared_ptr<GraphMemory> memory_;
  bool capturing_ = false;
  cudaGraphExec_t executable_ = nullptr;
  size_t nodes_ = 0;
  std::vector<std::shared_ptr<Chunk>> chunks_;
  std::vector<std::function<void()>> fill_slots_;
  struct RandomNumbers {
    RandomKey first;
    Slot slot;                    // the same at each replay
    std::set<uint32_t> ordinals;  // drawn, after the first
  };
  std::vector<RandomNumbers> scopes_;  // begin()'s, and those entered since
};

// A device's captures, one at a time, and the memory of its graphs. Any thread may call.
class Captures {
 public:
  Captures(int device, cudaStream_t stream, MemoryPool& memory, PinnedPool& pinned)
      : device_(device), stream_(stream), memory_(memory), pinned_(pinned) {}

  std::unique_ptr<DeviceGraph> make_graph();
  // The graph that this thread captures, or null. Throws Error while another thread does.
  CudaGraph* current() const {
    CudaGraph* const graph = current_.load(std::memory_order_acquire);
    if (graph != nullptr) [[unlikely]] {
      check_thread();
    }
    return graph;
  }

  // True if it has taken the memory: it is a graph's, or waits for the end of a capture.
  bool deallocate(void* data, size_t bytes) noexcept;
  bool deallocate_pinned(void* data, cudaStream_t copies) noexcept;

 private:
  friend class CudaGraph;
  std::shared_ptr<GraphMemory> make_memory();
  void start(CudaGraph& graph);
  void finish() noexcept;
  // What a graph leaves behind; after the capture, if there is one.
  struct Remains {
    cudaGraphExec_t executable = nullptr;
    std::shared_ptr<GraphMemory> memory;
  };
  void bury(Remains remains) noexcept;
  void check_thread() const;

  const int device_;
  const cudaStream_t stream_;
  MemoryPool& memory_;
  PinnedPool& pinned_;
  std::atomic<CudaGraph*> current_ = nullptr;
  std::thread::id thread_;  // that captures
  std::mutex mutex_;
  std::vector<std::shared_ptr<GraphMemory>> graphs_;  // that have memory
  std::vector<std::pair<void*, size_t>> later_;       // given back during the capture
  std::vector<std::pair<void*, cudaStream_t>> pinned_later_;
  std::vector<Remains> remains_later_;
};

}  // namespace lockstep::cuda
