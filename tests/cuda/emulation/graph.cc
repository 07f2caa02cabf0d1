#include "graph.h"

#include <algorithm>
#include <mutex>
#include <set>
#include <utility>

#include "pending.h"
#include "random_order.h"
#include "runtime_api.h"
#include "runtime_state.h"
#include "stream.h"

struct CUgraph_st {
  std::vector<lockstep::emulation::Node> nodes;
};
struct CUgraphExec_st {
  std::shared_ptr<const std::vector<lockstep::emulation::Node>> nodes;
};
struct CUgraphNode_st {};

namespace {

using namespace lockstep::emulation;

// All guarded by device_mutex().
std::set<cudaGraph_t>& graphs() {
  static auto* const all = new std::set<cudaGraph_t>;
  return *all;
}
std::set<cudaGraphExec_t>& executables() {
  static auto* const all = new std::set<cudaGraphExec_t>;
  return *all;
}

thread_local std::vector<std::shared_ptr<Capture>> captures_of_thread;
thread_local cudaStreamCaptureMode mode_of_thread = cudaStreamCaptureModeGlobal;

cudaError_t check(const void* pointer) {
  if (device_count() == 0) return remember(cudaErrorNoDevice);
  return pointer == nullptr ? remember(cudaErrorInvalidValue) : cudaSuccess;
}

void run_nodes(const std::vector<Node>& nodes) {
  static uint64_t launches = 0;
  Random random;
  random.seed(order_seed() + ++launches);
  std::vector<bool> done(nodes.size());
  for (size_t left = nodes.size(); left > 0; --left) {
    std::vector<size_t> ready;
    for (size_t i = 0; i < nodes.size() && ready.size() < 8; ++i) {
      const auto is_done = [&](size_t before) { return done[before]; };
      if (!done[i] && std::all_of(nodes[i].behind.begin(), nodes[i].behind.end(), is_done)) {
        ready.push_back(i);
      }
    }
    const size_t next = ready[random.next() % ready.size()];
    nodes[next].work();
    done[next] = true;
  }
}

// Whether all work of the other streams has been joined by the first.
bool is_joined(const Capture& capture) {
  std::vector<bool> reached(capture.nodes.size());
  std::vector<size_t> open = place_of(capture.streams.front()).behind;
  while (!open.empty()) {
    const size_t node = open.back();
    open.pop_back();
    if (reached[node]) continue;
    reached[node] = true;
    const auto& before = capture.nodes[node].behind;
    open.insert(open.end(), before.begin(), before.end());
  }
  return std::all_of(reached.begin(), reached.end(), [](bool is) { return is; });
}

}  // namespace

namespace lockstep::emulation {

size_t Capture::add(std::function<void()> work, std::vector<size_t> behind) {
  nodes.push_back({std::move(work), std::move(behind)});
  return nodes.size() - 1;
}

cudaError_t check_unsafe_call() {
  if (mode_of_thread == cudaStreamCaptureModeRelaxed) return cudaSuccess;
  for (const auto& capture : captures_of_thread) {
    if (capture->mode == cudaStreamCaptureModeRelaxed) continue;
    capture->invalid = true;
    return remember(cudaErrorStreamCaptureUnsupported);
  }
  return cudaSuccess;
}

}  // namespace lockstep::emulation

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  const cudaError_t error = check(mode);
  if (error == cudaSuccess) std::swap(*mode, mode_of_thread);
  return error;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  if (device_count() == 0) return remember(cudaErrorNoDevice);
  if (stream_device(stream) < 0) return remember(cudaErrorInvalidResourceHandle);
  if (is_default(stream)) return remember(cudaErrorStreamCaptureUnsupported);
  const std::lock_guard lock(device_mutex());
  CapturePlace& place = place_of(stream);
  if (place.active()) {
    place.capture->invalid = true;
    return remember(cudaErrorIllegalState);
  }
  place = {std::make_shared<Capture>(), {}};
  place.capture->mode = mode;
  place.capture->streams = {stream};
  captures_of_thread.push_back(place.capture);
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  if (const cudaError_t error = check(graph); error != cudaSuccess) return error;
  *graph = nullptr;
  if (stream_device(stream) < 0) return remember(cudaErrorInvalidResourceHandle);
  const std::lock_guard lock(device_mutex());
  if (is_default(stream) || !place_of(stream).active()) return remember(cudaErrorIllegalState);
  const std::shared_ptr<Capture> capture = place_of(stream).capture;
  if (capture->streams.front() != stream) return remember(cudaErrorStreamCaptureUnmatched);
  const auto ours = std::find(captures_of_thread.begin(), captures_of_thread.end(), capture);
  if (ours == captures_of_thread.end() && capture->mode != cudaStreamCaptureModeRelaxed) {
    return remember(cudaErrorStreamCaptureWrongThread);
  }
  if (ours != captures_of_thread.end()) captures_of_thread.erase(ours);
  const bool joined = is_joined(*capture);
  capture->over = true;
  for (const cudaStream_t each : capture->streams) place_of(each) = {};
  if (capture->invalid) return remember(cudaErrorStreamCaptureInvalidated);
  if (!joined) return remember(cudaErrorStreamCaptureUnjoined);
  *graph = new CUgraph_st{std::move(capture->nodes)};
  graphs().insert(*graph);
  return cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, size_t* count) {
  if (const cudaError_t error = check(count); error != cudaSuccess) return error;
  const std::lock_guard lock(device_mutex());
  if (!graphs().contains(graph)) return remember(cudaErrorInvalidValue);
  if (nodes != nullptr) return remember(cudaErrorNotSupported);
  *count = graph->nodes.size();
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph,
                                 unsigned long long flags) {
  if (const cudaError_t error = check(executable); error != cudaSuccess) return error;
  if (flags != 0) return remember(cudaErrorNotSupported);
  const std::lock_guard lock(device_mutex());
  if (!graphs().contains(graph)) return remember(cudaErrorInvalidValue);
  *executable = new CUgraphExec_st{std::make_shared<const std::vector<Node>>(graph->nodes)};
  executables().insert(*executable);
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  if (device_count() == 0) return remember(cudaErrorNoDevice);
  if (stream_device(stream) < 0) return remember(cudaErrorInvalidResourceHandle);
  const std::lock_guard lock(device_mutex());
  if (!executables().contains(executable)) return remember(cudaErrorInvalidValue);
  if (!is_default(stream) && place_of(stream).active()) {  // as a child of another graph
    place_of(stream).capture->invalid = true;
    return remember(cudaErrorNotSupported);
  }
  submit(stream, [nodes = executable->nodes] { run_nodes(*nodes); });
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  if (device_count() == 0) return remember(cudaErrorNoDevice);
  const std::lock_guard lock(device_mutex());
  if (graphs().erase(graph) == 0) return remember(cudaErrorInvalidValue);
  delete graph;
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  if (device_count() == 0) return remember(cudaErrorNoDevice);
  const std::lock_guard lock(device_mutex());
  if (executables().erase(executable) == 0) return remember(cudaErrorInvalidValue);
  delete executable;
  return cudaSuccess;
}
