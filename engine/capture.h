#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lockstep/engine/backend.h"
#include "lockstep/engine/tensor/random.h"

// Recording what a device is given, to issue all of it again by one call: what cuda::CUDAGraph
// (cuda_graph.h) is made of. While a thread captures, nothing runs; a replay runs the kernels and
// nothing of the host's. So whatever a step takes from the host has to be brought anew by each
// replay, as random keys and optimizers' rates are, or must not be captured.
namespace lockstep {

class DeviceGraph {
 public:
  DeviceGraph() = default;
  virtual ~DeviceGraph();
  DeviceGraph(const DeviceGraph&) = delete;
  DeviceGraph& operator=(const DeviceGraph&) = delete;

  // From here to end() what this thread issues to the device goes into the graph. `random` is the
  // key that the next random op would get.
  virtual void begin(const RandomKey& random) = 0;
  // Throws Error if the device could not capture what it was given; the graph is then as new.
  virtual void end() = 0;
  // Instead of end(), and of a finished graph: forgets it, and gives its memory back.
  virtual void abandon() noexcept = 0;
  // Throws Error where launch() would, because of another thread's capture.
  virtual void check_launch() const = 0;
  // The random ops draw as if `random` had been begin()'s.
  virtual void launch(const RandomKey& random) = 0;

  virtual size_t nodes() const = 0;
  virtual size_t bytes() const = 0;    // of device memory that it holds
  virtual uint32_t draws() const = 0;  // random ops, different keys counted

  // As the backend's, with arguments that each replay asks for anew.
  virtual void sgd_step(std::span<const OptimizerSegment> segments,
                        std::function<SgdArgs()> args) = 0;
  virtual void adam_step(std::span<const OptimizerSegment> segments,
                         std::function<AdamArgs()> args) = 0;

  // float32 of no dimensions on the device, which a replay finds to be what `now` says then. For
  // ops of this capture only.
  virtual Tensor value(std::function<float()> now) = 0;

  // From here on random ops draw as if `now`, asked for at each replay, were the key of the first
  // of them; at this moment it is `first`.
  virtual void enter_random_scope(const RandomKey& first, std::function<RandomKey()> now) = 0;
  // As before again. `drawn`: numbers of ops that have drawn in the scope, on any device.
  virtual void leave_random_scope(uint32_t drawn) = 0;

  // Whether a replay makes the updates that are recorded from now on.
  struct Skip {
    Tensor flag;           // float32 on the device: if not 0, it does not
    bool skipped = false;  // by the last replay, as far as somebody has looked
    bool throws = false;   // somebody throws then, behind the replay
  };
  void skip_updates_if(std::shared_ptr<Skip> skip);  // null: it does
  const std::shared_ptr<Skip>& skip() const { return skip_; }

  // What the host has to do at each replay. All checks come first: they throw, and nothing has
  // happened. `run` may be null.
  void before_replay(std::function<void()> check, std::function<void()> run);
  void run_before_replay() const;
  // What it has to do behind it, in this order; may wait. All of it is done even if something
  // throws; the first exception leaves the replay then.
  void after_replay(std::function<void()> run);
  void run_after_replay() const;

  // What has to hold where the capture ends: throws if it does not.
  void at_end(std::function<void()> check);
  void run_at_end() const;

  // Of the capture under way: why its end() has to fail. The first reason counts.
  void invalidate(std::string why);
  const std::string& why_invalid() const { return why_invalid_; }

 protected:
  void forget();  // callbacks and reason

 private:
  struct Callback {
    std::function<void()> check, run;
  };
  std::vector<Callback> callbacks_;
  std::vector<std::function<void()>> after_, at_end_;
  std::shared_ptr<Skip> skip_;
  std::string why_invalid_;
};

// What a backend has that can capture.
class Capturing {
 public:
  Capturing() = default;
  virtual ~Capturing();
  Capturing(const Capturing&) = delete;
  Capturing& operator=(const Capturing&) = delete;
  virtual std::unique_ptr<DeviceGraph> make_graph() = 0;
};

// While one lives, no capture is under way: making it waits for the end of those that are, and
// later ones wait for its end. For threads beside the training that use a device, such as those
// that fetch data; not for one that captures, or that a capture waits for.
class NoCaptures {
 public:
  NoCaptures();
  ~NoCaptures();
  NoCaptures(const NoCaptures&) = delete;
  NoCaptures& operator=(const NoCaptures&) = delete;
};

// The graph that this thread captures; null while there is none.
DeviceGraph* graph_in_capture();
// Where there was none, waits while NoCaptures live.
void set_graph_in_capture(DeviceGraph* graph);

// Changes where this thread begins or ends a capture, and with each replay: what has been computed
// before, and kept, may be out of date, or never have been computed at all.
uint64_t capture_epoch();
void begin_capture_epoch();

// Throws Error if this thread captures, and spoils the capture: "`what` cannot be captured:
// `instead`".
void forbid_in_capture(std::string_view what, std::string_view instead);

}  // namespace lockstep
