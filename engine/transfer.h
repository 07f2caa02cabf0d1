#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "lockstep/engine/backend.h"
#include "lockstep/engine/device_comm.h"

// Copies that nobody waits for, between the host and a device that works beside it.
namespace lockstep {

// Which of a device's two streams. Each does its work in the order in which it was issued; the two
// know nothing of each other but what wait_for() says.
enum class Lane : uint8_t {
  kCompute,  // of the backend's ops and copies
  kCopies,   // beside it
};

// What a backend has that works beside the host. Any thread may call.
class Transfers {
 public:
  Transfers() = default;
  virtual ~Transfers();
  Transfers(const Transfers&) = delete;
  Transfers& operator=(const Transfers&) = delete;

  // Pinned host memory: the device reads and writes it by itself. From a pool that keeps it. It may
  // be given back while copies that were issued before are still under way; nobody gets it before
  // they are done. Throws Error when there is none.
  virtual void* allocate_pinned(size_t bytes) = 0;
  virtual void deallocate_pinned(void* data) noexcept = 0;
  // Pins memory that comes from elsewhere, until unpin(), which comes before it is released and
  // after the last copy is done. False where that cannot be: copies work, but wait.
  virtual bool pin(void* data, size_t bytes) noexcept = 0;
  virtual void unpin(void* data) noexcept = 0;

  // The host's side is pinned, and left alone until the lane has come behind the copy.
  virtual void copy_from_pinned(void* device, const void* host, size_t bytes, Lane lane) = 0;
  virtual void copy_to_pinned(void* host, const void* device, size_t bytes, Lane lane) = 0;

  virtual std::shared_ptr<Event> record_event(Lane lane) = 0;  // after the lane's work so far
  // After the work of kCompute so far; knows when that was done.
  virtual std::shared_ptr<CommEvent> record_timed_event() = 0;
  // On the host's clock; none while the event, which comes from record_timed_event(), is to come.
  virtual std::optional<std::chrono::steady_clock::time_point> time_of(
      const std::shared_ptr<CommEvent>& event) = 0;
  virtual void wait_for(const std::shared_ptr<Event>& event, Lane lane) = 0;  // its later work does
};

// Null for the CPU, whose calls return when their work is done. Throws Error like backend_of().
Transfers* transfers_of(Device device);

// A piece of pinned memory; null and empty for 0 bytes.
class PinnedMemory {
 public:
  PinnedMemory(Transfers& transfers, size_t bytes)
      : transfers_(transfers), data_(bytes > 0 ? transfers.allocate_pinned(bytes) : nullptr) {}
  ~PinnedMemory() {
    if (data_ != nullptr) transfers_.deallocate_pinned(data_);
  }
  PinnedMemory(const PinnedMemory&) = delete;
  PinnedMemory& operator=(const PinnedMemory&) = delete;
  void* data() const { return data_; }

 private:
  Transfers& transfers_;
  void* const data_;
};

}  // namespace lockstep
