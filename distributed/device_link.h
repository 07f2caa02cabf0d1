#pragma once

#include <atomic>
#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "lockstep/distributed/collective.h"
#include "lockstep/engine/device_clock.h"
#include "lockstep/engine/device_comm.h"

namespace lockstep::distributed {

// One collective between devices, as this rank has handed it over.
struct DeviceOp {
  std::chrono::steady_clock::time_point launched = std::chrono::steady_clock::now();
  std::shared_ptr<Event> ready;  // the data is there
  // -- once it has been handed over, and null before
  Call call;
  std::chrono::steady_clock::time_point issued;
  std::shared_ptr<CommEvent> begun, done;
};

// One rank's place in a communicator of devices, with what a process group needs around it: a
// failure that ends everything, and a clock over what the device has begun and does not finish.
//
// Nobody waits for the device here. What waits, with the group's timeout, is the hand-over, which
// takes moments once all ranks have come to it. Any thread may call fail(), look() and the queries;
// the others come one after the other.
class DeviceLink {
 public:
  explicit DeviceLink(Device device) : device_(device) {}
  DeviceLink(const DeviceLink&) = delete;
  DeviceLink& operator=(const DeviceLink&) = delete;

  Device device() const { return device_; }
  DeviceComm& comm() { return *comm_; }

  // Waits until all members are there. Throws Error, or DistributedError as await() does.
  void join(DeviceComms& comms, const DeviceCommConfig& config);
  // The orderly end, or after a failure the other one; waits for a few seconds at most.
  void close() noexcept;

  // Waits until the communicator's last call is through. Throws DistributedError if that takes
  // longer than the timeout or fails, and once fail() has been called.
  void await();
  // Hands a collective over: `body` issues it to the communicator, behind what makes the data.
  void run(const std::shared_ptr<DeviceOp>& op, const Collective& collective,
           const std::function<void()>& body);

  // Ends what is under way; the first text wins.
  void fail(const std::string& text) noexcept;
  void throw_if_failed() const;

  // What has gone wrong on the device since the last look, or has stood still for longer than the
  // timeout; empty if nothing has.
  std::string look();

  // 0: for ever.
  void set_timeout(std::chrono::milliseconds timeout) { timeout_ = timeout.count(); }
  std::chrono::milliseconds timeout() const { return std::chrono::milliseconds(timeout_); }

  // Those of the device once it has done the collective; until then, those of the hand-over.
  Work::Times times_of(const DeviceOp& op) const;

 private:
  using Clock = std::chrono::steady_clock;

  std::string stalled();

  const Device device_;
  std::atomic<int64_t> timeout_ = ProcessGroup::kDefaultTimeout.count();
  std::shared_ptr<DeviceComm> comm_;  // set once
  mutable DeviceClock clock_;

  mutable std::mutex mutex_;  // of what follows
  std::optional<std::string> failure_;
  std::deque<std::shared_ptr<DeviceOp>> under_way_;
  const DeviceOp* watched_ = nullptr;  // the oldest, seen to have begun
  Clock::time_point watched_since_;
  std::atomic<bool> failed_ = false;
};

}  // namespace lockstep::distributed
