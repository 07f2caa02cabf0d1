#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "runtime_types.h"

// Capturing streams into graphs, and running those.
//
// A node is a piece of work and the nodes it comes behind. A launch runs them in a random order
// among those that this allows, so that a missing dependency shows. Kernels, copies between device
// memory and pinned host memory, fills, host functions and events are captured; what a device
// refuses in a capture fails here with the same code and makes the capture invalid. Memory that is
// allocated or freed in stream order would become a part of a true graph, and fails here.
//
// Of everything here: the caller holds device_mutex().
namespace lockstep::emulation {

struct Node {
  std::function<void()> work;
  std::vector<size_t> behind;  // numbers of earlier nodes
};

struct Capture {
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  bool invalid = false, over = false;
  std::vector<Node> nodes;
  std::vector<cudaStream_t> streams;  // the first is where it began

  size_t add(std::function<void()> work, std::vector<size_t> behind);
};

// Where a stream, or an event recorded in it, stands in a capture.
struct CapturePlace {
  std::shared_ptr<Capture> capture;  // null: in none
  std::vector<size_t> behind;        // the nodes that the next one comes behind
  bool active() const { return capture && !capture->over; }
};

// For calls that a capturing thread must not make: fails, and spoils the thread's captures, unless
// they or the thread are in relaxed mode.
cudaError_t check_unsafe_call();

}  // namespace lockstep::emulation
