#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "lockstep/engine/tensor/device.h"
#include "lockstep/engine/tensor/random.h"

// CUDA graphs, as torch.cuda.CUDAGraph and torch.cuda.graph: a step of training is issued by the
// host once, and from then on with one call.
namespace lockstep {
class DeviceGraph;

namespace cuda {

// What was captured runs with replay(), on the memory that it was captured with: inputs are written
// into the tensors that the capture read (copy_), results are read from those that it made. Those
// it made stay its own until it is reset; they count as allocated. Tensors from before it, which it
// reads or writes, the program has to keep.
//
// Capturing runs nothing, and leaves the random numbers and the optimizers where they were. A
// replay draws the random numbers that the step would draw now (of the RandomScope around it, say),
// takes lr and the other rates as they are now, and counts the optimizers' steps. Hooks and all
// other code on the host do not run again.
//
// Errors are Error, and leave the device usable.
class CUDAGraph {
 public:
  CUDAGraph();
  ~CUDAGraph();
  CUDAGraph(const CUDAGraph&) = delete;
  CUDAGraph& operator=(const CUDAGraph&) = delete;

  // From here what this thread issues to `device` is captured; other threads must leave the device
  // alone meanwhile. Throws if the device is no CUDA device, if there is a graph in here already,
  // or if this thread captures.
  void capture_begin(Device device = {DeviceType::kCuda, 0});
  // Throws, and leaves this empty, if something has been called that cannot be captured.
  void capture_end();
  // Issues all of it, ahead of what comes next; waits for it if the step has a GradScaler or a
  // DataParallel, which then throws what its backward() would. Throws, and does nothing, where
  // there is no graph, or where an optimizer of the step, or what it remembers, is not the same any
  // more.
  void replay();
  // Forgets the graph, and gives back the memory that no tensor uses. Waits for the last replay.
  void reset() noexcept;

  size_t nodes() const;  // kernels, copies and fills
  size_t bytes() const;  // of device memory that belong to the graph

 private:
  friend class GraphCapture;
  std::unique_ptr<DeviceGraph> graph_;
  RandomState begun_;      // at capture_begin()
  uint32_t ordinals_ = 0;  // drawn by a replay
  bool captured_ = false;
  std::string why_none_;  // what a GraphCapture's destructor could not throw
};

// Captures while it lives:
//
//   cuda::CUDAGraph graph;
//   {
//     cuda::GraphCapture capture(graph);
//     ...  // a step
//     capture.end();
//   }
//   graph.replay();
//
// Waits for the device first. An exception that leaves the scope ends the capture, and the graph
// stays empty. end() throws what capture_end() does; left to the destructor, the first replay()
// throws it.
class GraphCapture {
 public:
  explicit GraphCapture(CUDAGraph& graph, Device device = {DeviceType::kCuda, 0});
  ~GraphCapture();
  GraphCapture(const GraphCapture&) = delete;
  GraphCapture& operator=(const GraphCapture&) = delete;
  void end();

 private:
  CUDAGraph& graph_;
  const int exceptions_;  // under way when it began
  bool ended_ = false;
};

// Whether this thread captures, as torch.cuda.is_current_stream_capturing.
bool is_current_stream_capturing();

}  // namespace cuda
}  // namespace lockstep
