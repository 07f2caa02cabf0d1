#include "lockstep/engine/capture.h"

#include <utility>

#include "lockstep/engine/tensor/check.h"

namespace lockstep {
namespace {

thread_local DeviceGraph* t_graph = nullptr;
thread_local uint64_t t_epoch = 0;

}  // namespace

DeviceGraph::~DeviceGraph() = default;
Capturing::~Capturing() = default;

void DeviceGraph::before_replay(std::function<void()> check, std::function<void()> run) {
  callbacks_.push_back({std::move(check), std::move(run)});
}

void DeviceGraph::run_before_replay() const {
  for (const Callback& each : callbacks_) each.check();
  for (const Callback& each : callbacks_) {
    if (each.run) each.run();
  }
}

void DeviceGraph::after_replay(std::function<void()> run) { after_.push_back(std::move(run)); }

void DeviceGraph::run_after_replay() const {
  for (const auto& run : after_) run();
}

void DeviceGraph::at_end(std::function<void()> check) { at_end_.push_back(std::move(check)); }

void DeviceGraph::run_at_end() const {
  for (const auto& check : at_end_) check();
}

void DeviceGraph::skip_updates_if(std::shared_ptr<Skip> skip) { skip_ = std::move(skip); }

void DeviceGraph::invalidate(std::string why) {
  if (why_invalid_.empty()) why_invalid_ = std::move(why);
}

void DeviceGraph::forget() {
  callbacks_.clear();
  after_.clear();
  at_end_.clear();
  skip_.reset();
  why_invalid_.clear();
}

DeviceGraph* graph_in_capture() { return t_graph; }
void set_graph_in_capture(DeviceGraph* graph) {
  begin_capture_epoch();
  t_graph = graph;
}

uint64_t capture_epoch() { return t_epoch; }
void begin_capture_epoch() { ++t_epoch; }

void forbid_in_capture(std::string_view what, std::string_view instead) {
  if (t_graph == nullptr) return;
  const std::string text = fmt::format("[cuda graph] {} cannot be captured: {}", what, instead);
  t_graph->invalidate(text);
  fail<Error>("{}", text);
}

}  // namespace lockstep
