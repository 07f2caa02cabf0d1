#pragma once

#include <cstdint>
#include <string_view>

// Finding out where the host waits for a device. A training step is fast only while the host runs
// ahead of it, and one item() in the wrong place undoes that without a sign.
namespace lockstep {
namespace cuda {

enum class SyncDebugMode : uint8_t {
  kDefault,  // nobody asks
  kWarn,     // a line on stderr for every wait
  kError,    // it throws Error instead of waiting
};

// As PyTorch's torch.cuda.set_sync_debug_mode: "default", "warn" or "error"; throws ValueError for
// anything else. Of the whole process; before the first call it is what LOCKSTEP_SYNC_DEBUG says.
// Scopes of SyncAllowed are exempt; an item() or to(Device{}) of the program's own is not.
void set_sync_debug_mode(std::string_view mode);
SyncDebugMode get_sync_debug_mode();

}  // namespace cuda

// While one lives, this thread may wait: for what is meant to, like printing or a checkpoint.
class SyncAllowed {
 public:
  SyncAllowed();
  ~SyncAllowed();
  SyncAllowed(const SyncAllowed&) = delete;
  SyncAllowed& operator=(const SyncAllowed&) = delete;
};

// Names what waits while it lives, in messages: a literal like "item()". Of several, the outermost.
class SyncCause {
 public:
  explicit SyncCause(const char* what);
  ~SyncCause();
  SyncCause(const SyncCause&) = delete;
  SyncCause& operator=(const SyncCause&) = delete;

 private:
  const char* const before_;
};

// A backend's, before it waits: warns or throws. `call` is what waits where no SyncCause says it.
void about_to_wait(const char* call);

}  // namespace lockstep
