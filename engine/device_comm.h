#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "lockstep/engine/backend.h"
#include "lockstep/engine/tensor/dtype.h"

// The seam between process groups and the library that moves data between devices (NCCL): thin, so
// that everything about ranks, their calls and their failures stays above it. Comes with the plugin
// (engine/plugin_table.h).
namespace lockstep {

enum class CommReduction : uint8_t { kSum, kMin, kMax };

// What one member makes and all start with.
struct DeviceCommId {
  std::array<std::byte, 128> bytes{};
};

struct DeviceCommConfig {
  int device = 0;
  int rank = 0;
  int size = 1;
  DeviceCommId id{};
  // Whether memory is registered so that the library may choose its fastest algorithms, whose bits
  // differ from run to run.
  bool windows = false;
};

// A point in a communicator's stream.
class CommEvent : public Event {
 public:
  virtual bool is_done() const = 0;
  // From `earlier` to this one, both done.
  virtual double seconds_since(const CommEvent& earlier) const = 0;
};

// A device's place in a fixed set of devices, one in each process, with a stream of its own.
//
// Nothing waits. A call that starts something on the host (a collective, a registration, the end)
// may return before that is through; until poll() says that it is, only poll() and abort() may be
// called. Collectives are then queued in the stream, in the order of the calls. All functions throw
// Error naming the library's call and its reason. Buffers are the device's memory; a count or
// number of bytes of 0 is not allowed. One thread issues; any may poll(), abort() and release
// memory.
class DeviceComm {
 public:
  virtual ~DeviceComm() = default;  // aborts, unless the end has gone through
  DeviceComm(const DeviceComm&) = delete;
  DeviceComm& operator=(const DeviceComm&) = delete;

  // Whether the last call is through. Throws Error when the library has found something wrong, with
  // whatever it was asked to do.
  virtual bool poll() = 0;
  // Ends what is under way, here and on the device, and everything that waits for it. Later calls
  // throw. Idempotent.
  virtual void abort() noexcept = 0;
  // The orderly end: every member calls it, with nothing under way. poll() says when it is through;
  // after that only deallocate() is allowed.
  virtual void close() = 0;

  // -- memory, aligned for registration, not zeroed
  virtual void* allocate(size_t bytes) = 0;
  virtual void deallocate(void* data) noexcept = 0;
  // Makes memory from allocate() known to the library, so that it needs no copies. All members do
  // so alike. When poll() has said that it is through, registration() says how it went: empty, or
  // why the memory is not registered, which is no error.
  virtual void enroll(void* data, size_t bytes) = 0;
  virtual std::string registration(void* data) const = 0;
  // Before memory is released, unless the end came first.
  virtual void withdraw(void* data) noexcept = 0;

  // -- the stream
  virtual void wait_for(const std::shared_ptr<Event>& event) = 0;
  virtual std::shared_ptr<CommEvent> mark() = 0;  // after all work issued so far
  // Memory that belongs to the work issued until the next call of this function.
  virtual std::byte* scratch(size_t bytes) = 0;

  // -- collectives
  virtual void all_reduce(void* data, int64_t count, DType dtype, CommReduction op) = 0;
  virtual void broadcast(void* data, size_t bytes, int root) = 0;
  // Member r gets the reduced r-th part, of `count` elements; `out` may be that part of `in`.
  virtual void reduce_scatter(void* out, const void* in, int64_t count, DType dtype,
                              CommReduction op) = 0;
  // `bytes` from each member; `in` may be this member's part of `out`.
  virtual void all_gather(void* out, const void* in, size_t bytes) = 0;
  struct Transfer {
    int peer;  // not this member
    std::byte* data;
    size_t bytes;
  };
  // All at once. What goes from one member to another goes in the order of the two lists.
  virtual void exchange(std::span<const Transfer> sends, std::span<const Transfer> receives) = 0;

  // -- computed by this member alone
  // left = left op right, as the device's pointwise kernels compute; dtypes as they have.
  virtual void combine(void* left, const void* right, int64_t count, DType dtype,
                       CommReduction op) = 0;
  virtual void copy(void* to, const void* from, size_t bytes) = 0;

 protected:
  DeviceComm() = default;
};

// Makes them.
class DeviceComms {
 public:
  virtual ~DeviceComms() = default;
  DeviceComms(const DeviceComms&) = delete;
  DeviceComms& operator=(const DeviceComms&) = delete;

  // Why there can be none in this process, and what to do about it; empty if there can. Loads the
  // library.
  virtual std::string problem() = 0;
  virtual std::string version() = 0;  // "2.28.9"; needs the library
  // The same text for two processes only if they use one device, which the library refuses.
  virtual std::string identity(int device) = 0;
  virtual DeviceCommId make_id() = 0;
  // Starts joining the others; poll() says when they have come.
  virtual std::unique_ptr<DeviceComm> join(const DeviceCommConfig& config) = 0;

 protected:
  DeviceComms() = default;
};

}  // namespace lockstep
