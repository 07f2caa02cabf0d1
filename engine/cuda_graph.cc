#include "lockstep/engine/cuda_graph.h"

#include <exception>
#include <utility>

#include "lockstep/engine/capture.h"
#include "lockstep/engine/sync_debug.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::cuda {
namespace {

RandomKey key_of(const RandomState& s) {
  return make_random_key(s.seed, s.purpose, s.step, s.micro_batch, s.ordinal);
}

bool same_stream(const RandomState& a, const RandomState& b) {
  return a.seed == b.seed && a.purpose == b.purpose && a.step == b.step &&
         a.micro_batch == b.micro_batch;
}

Capturing& capturing_device(Device device) {
  auto* const capturing = device.is_cpu() ? nullptr : dynamic_cast<Capturing*>(&backend_of(device));
  check<Error>(capturing != nullptr, "[cuda graph] CUDA graphs need a CUDA device, got {}",
               device.str());
  return *capturing;
}

}  // namespace

CUDAGraph::CUDAGraph() = default;
CUDAGraph::~CUDAGraph() { reset(); }

void CUDAGraph::capture_begin(Device device) {
  Capturing& capturing = capturing_device(device);
  check<Error>(graph_ == nullptr,
               "[cuda graph] this CUDAGraph has a captured graph, or captures one; use another, or "
               "reset() it");
  check<Error>(graph_in_capture() == nullptr,
               "[cuda graph] this thread captures another graph; captures do not nest");
  auto graph = capturing.make_graph();
  begun_ = random_state();
  set_graph_in_capture(graph.get());
  try {
    graph->begin(key_of(begun_));
  } catch (...) {
    set_graph_in_capture(nullptr);
    throw;
  }
  graph_ = std::move(graph);
  why_none_.clear();
}

void CUDAGraph::capture_end() {
  check<Error>(graph_ != nullptr && graph_in_capture() == graph_.get(),
               "[cuda graph] capture_end() without a capture_begin() by this thread");
  const RandomState now = random_state();
  set_random_state(begun_);
  try {
    graph_->run_at_end();
    check<Error>(graph_->why_invalid().empty(), "{}", graph_->why_invalid());
    check<Error>(same_stream(now, begun_),
                 "[cuda graph] the random generator has been seeded in the capture, or a "
                 "RandomScope is still open: seed before the capture, and open the scope around "
                 "capture and replays");
    graph_->end();
    ordinals_ = now.ordinal - begun_.ordinal;
    check<Error>(graph_->draws() == ordinals_,
                 "[cuda graph] of {} random ops {} drew their numbers on the host, where a replay "
                 "does not come by; make them on the device",
                 ordinals_, ordinals_ - graph_->draws());
    set_graph_in_capture(nullptr);
  } catch (...) {
    reset();
    throw;
  }
  captured_ = true;
}

void CUDAGraph::replay() {
  check<Error>(why_none_.empty(), "{}", why_none_);
  check<Error>(captured_,
               "[cuda graph] replay() of a CUDAGraph without a preceding successful "
               "capture");
  check<Error>(graph_in_capture() == nullptr,
               "[cuda graph] replay() while this thread captures; graphs do not nest");
  graph_->check_launch();
  graph_->run_before_replay();
  begin_capture_epoch();
  RandomState state = random_state();
  graph_->launch(key_of(state));
  state.ordinal += ordinals_;
  set_random_state(state);
  graph_->run_after_replay();
}

void CUDAGraph::reset() noexcept {
  why_none_.clear();
  if (graph_ == nullptr) return;
  const bool capturing = graph_in_capture() == graph_.get();
  graph_->abandon();
  if (capturing) {
    set_graph_in_capture(nullptr);
    set_random_state(begun_);
  }
  graph_.reset();
  captured_ = false;
  ordinals_ = 0;
}

size_t CUDAGraph::nodes() const { return graph_ ? graph_->nodes() : 0; }
size_t CUDAGraph::bytes() const { return graph_ ? graph_->bytes() : 0; }

GraphCapture::GraphCapture(CUDAGraph& graph, Device device)
    : graph_(graph), exceptions_(std::uncaught_exceptions()) {
  capturing_device(device);
  if (graph_in_capture() == nullptr) {
    const SyncAllowed allowed;
    backend_of(device).synchronize();
  }
  graph_.capture_begin(device);
}

GraphCapture::~GraphCapture() {
  if (ended_) return;
  if (std::uncaught_exceptions() > exceptions_) {
    graph_.reset();
    return;
  }
  try {
    graph_.capture_end();
  } catch (const std::exception& e) {
    graph_.why_none_ = e.what();
  }
}

void GraphCapture::end() {
  ended_ = true;
  graph_.capture_end();
}

bool is_current_stream_capturing() { return graph_in_capture() != nullptr; }

}  // namespace lockstep::cuda
