#pragma once

#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "lockstep/engine/device_comm.h"

namespace lockstep {

// When the host's steady clock stood at moments of a device. Any thread may ask.
class DeviceClock {
 public:
  using Clock = std::chrono::steady_clock;

  // `origin` has just come: its moment is now.
  void start(std::shared_ptr<CommEvent> origin) {
    const std::lock_guard lock(mutex_);
    origin_ = std::move(origin);
    at_ = Clock::now();
  }
  bool started() const {
    const std::lock_guard lock(mutex_);
    return origin_ != nullptr;
  }
  // None before start(), and of an event that is still to come.
  std::optional<Clock::time_point> time_of(const std::shared_ptr<CommEvent>& event) {
    const std::lock_guard lock(mutex_);
    if (!origin_ || !event->is_done()) return std::nullopt;
    const double seconds = event->seconds_since(*origin_);
    const auto time =
        at_ + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
    if (seconds > kRenew) {
      origin_ = event;
      at_ = time;
    }
    return time;
  }

 private:
  static constexpr double kRenew = 10.0;  // seconds; CUDA tells the time between events in float

  mutable std::mutex mutex_;
  std::shared_ptr<CommEvent> origin_;
  Clock::time_point at_;
};

}  // namespace lockstep
