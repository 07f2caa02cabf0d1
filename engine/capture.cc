#include "lockstep/engine/capture.h"

#include <condition_variable>
#include <exception>
#include <mutex>
#include <utility>

#include "lockstep/engine/tensor/check.h"

namespace lockstep {
namespace {

thread_local DeviceGraph* t_graph = nullptr;
thread_local uint64_t t_epoch = 0;

// Captures go first, so that none waits for long.
class Turns {
 public:
  void begin_capture() {
    std::unique_lock lock(mutex_);
    ++captures_;
    changed_.wait(lock, [this] { return others_ == 0; });
  }
  void end_capture() { leave(captures_); }
  void begin_other() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return captures_ == 0; });
    ++others_;
  }
  void end_other() { leave(others_); }

 private:
  void leave(int& count) {
    const std::lock_guard lock(mutex_);
    --count;
    changed_.notify_all();
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  int captures_ = 0, others_ = 0;
};

Turns& turns() {
  static Turns only;
  return only;
}

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
  std::exception_ptr first;
  for (const auto& run : after_) {
    try {
      run();
    } catch (...) {
      if (!first) first = std::current_exception();
    }
  }
  if (first) std::rethrow_exception(first);
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
  if (graph != nullptr && t_graph == nullptr) turns().begin_capture();
  if (graph == nullptr && t_graph != nullptr) turns().end_capture();
  begin_capture_epoch();
  t_graph = graph;
}

NoCaptures::NoCaptures() { turns().begin_other(); }
NoCaptures::~NoCaptures() { turns().end_other(); }

uint64_t capture_epoch() { return t_epoch; }
void begin_capture_epoch() { ++t_epoch; }

void forbid_in_capture(std::string_view what, std::string_view instead) {
  if (t_graph == nullptr) return;
  const std::string text = fmt::format("[cuda graph] {} cannot be captured: {}", what, instead);
  t_graph->invalidate(text);
  fail<Error>("{}", text);
}

}  // namespace lockstep
