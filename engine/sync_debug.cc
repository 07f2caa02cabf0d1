#include "lockstep/engine/sync_debug.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "lockstep/engine/capture.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep {
namespace {

using cuda::SyncDebugMode;

thread_local int t_allowed = 0;
thread_local const char* t_cause = nullptr;

SyncDebugMode mode_called(std::string_view name, const char* from) {
  if (name == "default") return SyncDebugMode::kDefault;
  if (name == "warn") return SyncDebugMode::kWarn;
  if (name == "error") return SyncDebugMode::kError;
  fail("[{}] the mode must be default, warn or error, got '{}'", from, name);
}

std::atomic<SyncDebugMode>& mode() {
  static std::atomic<SyncDebugMode> only = [] {
    const char* const wanted = std::getenv("LOCKSTEP_SYNC_DEBUG");
    return wanted == nullptr || *wanted == '\0' ? SyncDebugMode::kDefault
                                                : mode_called(wanted, "LOCKSTEP_SYNC_DEBUG");
  }();
  return only;
}

}  // namespace

namespace cuda {

void set_sync_debug_mode(std::string_view name) {
  mode().store(mode_called(name, "set_sync_debug_mode"), std::memory_order_relaxed);
}

SyncDebugMode get_sync_debug_mode() { return mode().load(std::memory_order_relaxed); }

}  // namespace cuda

SyncAllowed::SyncAllowed() { ++t_allowed; }
SyncAllowed::~SyncAllowed() { --t_allowed; }

SyncCause::SyncCause(const char* what) : before_(t_cause) {
  if (t_cause == nullptr) t_cause = what;
}
SyncCause::~SyncCause() { t_cause = before_; }

void about_to_wait(const char* call) {
  forbid_in_capture(t_cause != nullptr ? t_cause : call,
                    "it waits until the device has done its work, and a capture does none. Do it "
                    "before the capture, or after a replay");
  const SyncDebugMode wanted = cuda::get_sync_debug_mode();
  if (wanted == SyncDebugMode::kDefault || t_allowed > 0) return;
  const std::string text = fmt::format(
      "[sync debug] called a synchronizing CUDA operation: {} waits until the device has done all "
      "that it was given. What means to wait says so with a SyncAllowed",
      t_cause != nullptr ? t_cause : call);
  check<Error>(wanted != SyncDebugMode::kError, "{}", text);
  fmt::print(stderr, "{}\n", text);
}

}  // namespace lockstep
