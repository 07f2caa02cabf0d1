#include "lockstep/engine/cuda/graph.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "lockstep/engine/cuda/status.h"
#include "lockstep/engine/optimizer_math.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"

namespace lockstep::cuda {
namespace {

constexpr size_t kChunkBytes = 8192;
constexpr size_t kSlotAlignment = 16;

}  // namespace

CudaGraph::CudaGraph(Captures& captures) : captures_(captures) {}

void CudaGraph::begin(const RandomKey& random) {
  memory_ = captures_.make_memory();
  scopes_ = {{random, add_slot(sizeof(RandomKey)), {}}};
  captures_.start(*this);
  capturing_ = true;
}

void CudaGraph::end() {
  cudaGraph_t graph = nullptr;
  capturing_ = false;
  cudaError_t status = cudaStreamEndCapture(captures_.stream_, &graph);
  captures_.finish();
  if (status == cudaSuccess) status = cudaGraphGetNodes(graph, nullptr, &nodes_);
  if (status == cudaSuccess) status = cudaGraphInstantiate(&executable_, graph, 0);
  if (graph != nullptr) cudaGraphDestroy(graph);
  check_cuda(status, "the end of a capture");
}

void CudaGraph::abandon() noexcept {
  if (cudaSetDevice(captures_.device_) != cudaSuccess) cudaGetLastError();
  if (capturing_) {
    capturing_ = false;
    cudaGraph_t graph = nullptr;
    cudaStreamEndCapture(captures_.stream_, &graph);
    if (graph != nullptr) cudaGraphDestroy(graph);
    captures_.finish();
  }
  chunks_.clear();
  captures_.bury({std::exchange(executable_, nullptr), std::move(memory_)});
  fill_slots_.clear();
  scopes_.clear();
  nodes_ = 0;
  forget();
}

void CudaGraph::check_launch() const { captures_.current(); }

void CudaGraph::launch(const RandomKey& random) {
  check_cuda(cudaSetDevice(captures_.device_), "cudaSetDevice");
  captures_.current();  // throws where another thread captures
  std::memcpy(scopes_.front().slot.host, &random, sizeof random);
  for (const auto& fill : fill_slots_) fill();
  for (const auto& chunk : chunks_) {
    captures_.pinned_.copy_to_device(chunk->device, chunk->host.data(), chunk->used,
                                     captures_.stream_);
  }
  check_cuda(cudaGraphLaunch(executable_, captures_.stream_), "cudaGraphLaunch");
}

CudaGraph::Chunk::Chunk(Captures& captures, void* memory)
    : owner(captures), device(memory), host(kChunkBytes) {}
CudaGraph::Chunk::~Chunk() { owner.deallocate(device, kChunkBytes); }

CudaGraph::Slot CudaGraph::add_slot(size_t bytes) {
  const size_t size = (bytes + kSlotAlignment - 1) / kSlotAlignment * kSlotAlignment;
  if (chunks_.empty() || chunks_.back()->used + size > kChunkBytes) {
    chunks_.push_back(std::make_shared<Chunk>(captures_, memory_->allocate(kChunkBytes)));
  }
  Chunk& chunk = *chunks_.back();
  const Slot slot{static_cast<std::byte*>(chunk.device) + chunk.used,
                  chunk.host.data() + chunk.used};
  chunk.used += size;
  return slot;
}

template <template <typename> typename Math, typename Args>
MathSlots CudaGraph::add_math(std::function<Args()> args) {
  const Slot narrow = add_slot(sizeof(Math<float>)), wide = add_slot(sizeof(Math<double>));
  fill_slots_.push_back([narrow, wide, args = std::move(args)] {
    const Args now = args();
    const Math<float> of_float(now);
    const Math<double> of_double(now);
    std::memcpy(narrow.host, &of_float, sizeof of_float);
    std::memcpy(wide.host, &of_double, sizeof of_double);
  });
  const float* const flag = skip() ? skip()->flag.template data<float>() : nullptr;
  return {narrow.device, wide.device, flag};
}

Tensor CudaGraph::value(std::function<float()> now) {
  const Slot slot = add_slot(sizeof(float));
  fill_slots_.emplace_back([slot, now = std::move(now)] {
    const float is = now();
    std::memcpy(slot.host, &is, sizeof is);
  });
  return from_memory(slot.device, {}, DType::kFloat32, chunks_.back(),
                     {DeviceType::kCuda, static_cast<int16_t>(captures_.device_)});
}

void CudaGraph::enter_random_scope(const RandomKey& first, std::function<RandomKey()> now) {
  const Slot slot = add_slot(sizeof(RandomKey));
  fill_slots_.emplace_back([slot, now = std::move(now)] {
    const RandomKey is = now();
    std::memcpy(slot.host, &is, sizeof is);
  });
  scopes_.push_back({first, slot, {}});
}

void CudaGraph::leave_random_scope(uint32_t drawn) {
  const size_t here = scopes_.back().ordinals.size();
  if (drawn != here) {
    invalidate(
        fmt::format("[cuda graph] of {} random ops in a scope {} drew their numbers on the host, "
                    "where a replay does not come by; make them on the device",
                    drawn, drawn - here));
  }
  scopes_.pop_back();
}

void CudaGraph::sgd_step(std::span<const OptimizerSegment> segments,
                         std::function<SgdArgs()> args) {
  const SgdArgs now = args();
  cuda::sgd_step(captures_.stream_, segments, now, add_math<SgdMath>(std::move(args)));
}

void CudaGraph::adam_step(std::span<const OptimizerSegment> segments,
                          std::function<AdamArgs()> args) {
  const AdamArgs now = args();
  cuda::adam_step(captures_.stream_, segments, now, add_math<AdamMath>(std::move(args)));
}

RandomKey CudaGraph::relative(const RandomKey& key) {
  auto& [first, slot, ordinals] = scopes_.back();
  const bool same = key.philox.key0 == first.philox.key0 && key.philox.key1 == first.philox.key1 &&
                    key.step == first.step && key.micro_batch == first.micro_batch &&
                    key.ordinal >= first.ordinal;
  if (!same) {
    forbid_in_capture("a random op in a RandomScope, or after a seed, of the captured step's own",
                      "all replays would draw the same numbers. Seed before the capture, and open "
                      "the RandomScope around the capture and around each replay");
  }
  RandomKey result;
  result.ordinal = key.ordinal - first.ordinal;
  ordinals.insert(result.ordinal);
  return result;
}

std::unique_ptr<DeviceGraph> Captures::make_graph() { return std::make_unique<CudaGraph>(*this); }

std::shared_ptr<GraphMemory> Captures::make_memory() {
  const std::lock_guard lock(mutex_);
  return graphs_.emplace_back(std::make_shared<GraphMemory>(memory_));
}

void Captures::start(CudaGraph& graph) {
  check_cuda(cudaSetDevice(device_), "cudaSetDevice");
  const std::lock_guard lock(mutex_);
  check<Error>(current_.load() == nullptr, "[cuda graph] another thread captures cuda:{}", device_);
  check_cuda(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal),
             "cudaStreamBeginCapture");
  thread_ = std::this_thread::get_id();
  current_.store(&graph, std::memory_order_release);
}

void Captures::finish() noexcept {
  std::vector<std::pair<void*, size_t>> later;
  std::vector<std::pair<void*, cudaStream_t>> pinned_later;
  std::vector<Remains> remains_later;
  {
    const std::lock_guard lock(mutex_);
    current_.store(nullptr, std::memory_order_release);
    later.swap(later_);
    pinned_later.swap(pinned_later_);
    remains_later.swap(remains_later_);
  }
  for (const auto& [data, bytes] : later) {
    if (!deallocate(data, bytes)) memory_.deallocate(data, bytes);
  }
  for (const auto& [data, copies] : pinned_later) pinned_.deallocate(data, {stream_, copies});
  for (Remains& remains : remains_later) bury(std::move(remains));
}

void Captures::bury(Remains remains) noexcept {
  {
    const std::lock_guard lock(mutex_);
    if (current_.load(std::memory_order_acquire) != nullptr) {
      remains_later_.push_back(std::move(remains));
      return;
    }
  }
  if (remains.executable != nullptr) {
    cudaStreamSynchronize(stream_);
    cudaGraphExecDestroy(remains.executable);
  }
  cudaGetLastError();
  if (remains.memory) remains.memory->retire();
}

void Captures::check_thread() const {
  check<Error>(thread_ == std::this_thread::get_id(),
               "[cuda graph] another thread captures cuda:{}; leave the device alone until it is "
               "done",
               device_);
}

// The capture's own memory may be used again by the capture; other memory only after it, since
// freeing it has a place in the stream, or waits.
bool Captures::deallocate(void* data, size_t bytes) noexcept {
  if (data == nullptr) return true;
  const std::lock_guard lock(mutex_);
  if (graphs_.empty()) return false;
  if (const CudaGraph* const graph = current_.load(std::memory_order_acquire)) {
    const bool own = thread_ == std::this_thread::get_id() && graph->memory_->give_back(data);
    if (!own) later_.emplace_back(data, bytes);
    return true;
  }
  const bool taken = std::any_of(graphs_.begin(), graphs_.end(),
                                 [&](const auto& memory) { return memory->give_back(data); });
  std::erase_if(graphs_,
                [](const auto& memory) { return memory.use_count() == 1 && memory->is_empty(); });
  return taken;
}

bool Captures::deallocate_pinned(void* data, cudaStream_t copies) noexcept {
  const std::lock_guard lock(mutex_);
  if (current_.load(std::memory_order_acquire) == nullptr) return false;
  pinned_later_.emplace_back(data, copies);
  return true;
}

}  // namespace lockstep::cuda
