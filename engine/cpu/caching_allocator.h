#pragma once

#include <cstddef>

namespace lockstep::cpu {

// All addresses that allocate() returns are multiples of this: a cache line, an AVX-512 register.
inline constexpr size_t kAlignment = 64;

struct AllocatorStats {
  size_t bytes_in_use = 0;  // as asked for, rounded up to size classes
  size_t peak_bytes = 0;    // the largest bytes_in_use so far
  size_t bytes_cached = 0;  // freed, kept for reuse
};

// Uninitialised memory. Freed blocks are kept and handed out again, because fresh pages cost a
// fault each. Throws Error when the system has no more, after giving back what was cached; the text
// says how much was asked for, in use and cached. Zero bytes give a valid address. Under
// AddressSanitizer nothing is kept, so that it sees every use after free.
void* allocate(size_t bytes);

// `bytes` must be what allocate() was asked for. Any thread may free what another allocated, up to
// the end of the process. Null is ignored.
void deallocate(void* address, size_t bytes) noexcept;

AllocatorStats allocator_stats();
void reset_peak_bytes();

// Gives what is cached back to the system, except blocks of at most 512 bytes: their slabs stay.
void empty_cache() noexcept;

// Memory for the duration of a scope, e.g. a kernel's workspace.
class Workspace {
 public:
  explicit Workspace(size_t bytes) : address_(allocate(bytes)), bytes_(bytes) {}
  ~Workspace() { deallocate(address_, bytes_); }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  template <typename T>
  T* as() const {
    return static_cast<T*>(address_);
  }

 private:
  void* address_;
  size_t bytes_;
};

}  // namespace lockstep::cpu
