#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include "lockstep/engine/tensor/device.h"
#include "lockstep/engine/tensor/intrusive.h"

namespace lockstep {

class Backend;

// Contents that are still on their way into a storage. wait() returns when they are there, or
// throws; any thread may call it, any number of times.
class Arrival {
 public:
  virtual ~Arrival() = default;
  virtual void wait() = 0;
};

// A run of bytes on one device, shared by the tensors that view it.
//
// The version counts in-place writes; autograd compares it with the version at the time a tensor
// was saved. An alias is a storage of its own over somebody else's bytes: its writes do not count
// as writes to the neighbours, which is what parameters that live side by side in a bucket need.
class Storage : public RefCounted {
 public:
  // Uninitialised memory from the backend of `device`.
  static Ptr<Storage> allocate(size_t bytes, Device device);
  // Bytes owned by `owner`, which stays alive as long as this storage.
  static Ptr<Storage> alias(void* data, size_t bytes, Device device, std::shared_ptr<void> owner);
  static Ptr<Storage> alias(void* data, size_t bytes, Ptr<Storage> owner);

  ~Storage() override;

  // Waits for contents that are on their way, here or into the storage that this is an alias of.
  void* data() const {
    if (parent_) parent_->data();
    if (awaited_.load(std::memory_order_acquire)) [[unlikely]] {
      await();
    }
    return data_;
  }
  size_t bytes() const { return bytes_; }
  Device device() const { return device_; }

  uint32_t version() const { return version_.load(std::memory_order_relaxed); }
  void bump_version() { version_.fetch_add(1, std::memory_order_relaxed); }
  // The graph node of the last in-place write that was recorded; for messages. Empty: none was.
  std::string_view last_writer() const { return last_writer_; }
  void set_last_writer(std::string_view literal) { last_writer_ = literal; }

  // From now on data() waits for `arrival`, until it has come; pointers that were taken before know
  // nothing of it. Whoever fills the bytes keeps them alive meanwhile. Not while another thread
  // calls expect() or data().
  void expect(std::shared_ptr<Arrival> arrival);

 private:
  Storage(void* data, size_t bytes, Device device) : data_(data), bytes_(bytes), device_(device) {}
  void await() const;

  void* data_;
  size_t bytes_;
  Device device_;
  std::atomic<uint32_t> version_{0};
  std::string_view last_writer_;
  Backend* backend_ = nullptr;  // set when the bytes are ours to free
  std::shared_ptr<void> owner_;
  Ptr<Storage> parent_;
  std::shared_ptr<Arrival> arrival_;  // kept when it has come: other threads may be about to wait
  mutable std::atomic<bool> awaited_{false};
};

}  // namespace lockstep
