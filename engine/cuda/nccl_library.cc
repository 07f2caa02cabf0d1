#include "lockstep/engine/cuda/nccl_library.h"

#include <cstdlib>
#include <type_traits>

#include <dlfcn.h>
#include <fmt/format.h>

namespace lockstep::cuda {
namespace {

constexpr int kOldest = NCCL_VERSION(2, 27, 0);

struct Found {
  NcclLibrary library{};
  std::string why;
};

Found load() {
  Found found;
  const char* const named = std::getenv("LOCKSTEP_NCCL_LIBRARY");
  const std::string file = named && *named ? named : "libnccl.so.2";
  void* const handle = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) {
    found.why = fmt::format(
        "NCCL cannot be loaded ({}); install it, put its folder on LD_LIBRARY_PATH, or name the "
        "file in LOCKSTEP_NCCL_LIBRARY",
        dlerror());
    return found;
  }
  NcclLibrary& all = found.library;
  std::string missing;
  const auto take = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(handle, name));
    if (!function && missing.empty()) missing = name;
  };
  take(all.get_version, "ncclGetVersion");
  if (all.get_version) all.get_version(&all.version);
  take(all.error_string, "ncclGetErrorString");
  take(all.last_error, "ncclGetLastError");
  take(all.get_unique_id, "ncclGetUniqueId");
  take(all.init_rank, "ncclCommInitRankConfig");
  take(all.async_error, "ncclCommGetAsyncError");
  take(all.finalize, "ncclCommFinalize");
  take(all.destroy, "ncclCommDestroy");
  take(all.abort, "ncclCommAbort");
  take(all.mem_alloc, "ncclMemAlloc");
  take(all.mem_free, "ncclMemFree");
  take(all.register_buffer, "ncclCommRegister");
  take(all.deregister_buffer, "ncclCommDeregister");
  take(all.register_window, "ncclCommWindowRegister");
  take(all.deregister_window, "ncclCommWindowDeregister");
  take(all.all_reduce, "ncclAllReduce");
  take(all.broadcast, "ncclBroadcast");
  take(all.reduce_scatter, "ncclReduceScatter");
  take(all.all_gather, "ncclAllGather");
  take(all.send, "ncclSend");
  take(all.recv, "ncclRecv");
  take(all.group_start, "ncclGroupStart");
  take(all.group_end, "ncclGroupEnd");
  if (all.version != 0 && all.version < kOldest) {
    found.why = fmt::format("NCCL {}.{}.{} ({}) is too old; install 2.27 or newer",
                            all.version / 10000, all.version / 100 % 100, all.version % 100, file);
  } else if (!missing.empty()) {
    found.why = fmt::format("{} is no NCCL: it has no {}", file, missing);
  }
  return found;
}

}  // namespace

const NcclLibrary* find_nccl(std::string* why) {
  static const auto* const found = new Found(load());
  if (why) *why = found->why;
  return found->why.empty() ? &found->library : nullptr;
}

}  // namespace lockstep::cuda
