#include "lockstep/engine/plugin.h"

#include <array>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <mutex>

#include <dlfcn.h>

#include "lockstep/engine/tensor/check.h"

namespace lockstep {
namespace {

constexpr const char* kFile = "liblockstep_cuda.so";
constexpr int kMaxDevices = 64;

struct Plugin {
  CudaStatus status;
  const PluginTable* table = nullptr;
};

std::string path_of_plugin() {
  if (const char* path = std::getenv("LOCKSTEP_CUDA_PLUGIN"); path && *path) return path;
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&path_of_plugin), &info) == 0 || !info.dli_fname) {
    return kFile;
  }
  return std::filesystem::path(info.dli_fname).replace_filename(kFile).string();
}

// Never unloaded: tensors and streams live as long as the process.
void load(Plugin& plugin) {
  CudaStatus& status = plugin.status;
  const std::string path = path_of_plugin();
  std::error_code ignored;
  if (path.find('/') != std::string::npos && !std::filesystem::exists(path, ignored)) {
    status.why = fmt::format(
        "there is no {}; build Lockstep where nvcc is (CUDA Toolkit), or point "
        "LOCKSTEP_CUDA_PLUGIN at the plugin",
        path);
    return;
  }
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    status.why = fmt::format("the plugin cannot be loaded: {}", dlerror());
    return;
  }
  status.path = path;
  const auto entry = reinterpret_cast<PluginEntry>(dlsym(library, kPluginSymbol));
  if (!entry) {
    status.why = fmt::format("{} is no plugin of Lockstep's: it has no {}", path, kPluginSymbol);
    return;
  }
  const PluginTable* table = entry();
  if (std::string_view(table->abi) != LOCKSTEP_PLUGIN_ABI) {
    status.why = fmt::format(
        "{} belongs to another build of Lockstep ({}, this is {}); build or install both together",
        path, table->abi, LOCKSTEP_PLUGIN_ABI);
    return;
  }
  plugin.table = table;
  status.devices = std::min(table->device_count(status.why), kMaxDevices);
}

Plugin& plugin() {
  static Plugin& only = []() -> Plugin& {
    auto* made = new Plugin;  // outlives every static tensor
    load(*made);
    return *made;
  }();
  return only;
}

}  // namespace

const CudaStatus& cuda_status() { return plugin().status; }

Facts cuda_facts() {
  const PluginTable* table = plugin().table;
  return table ? table->facts() : Facts{};
}

DeviceComms* cuda_comms() {
  const PluginTable* table = plugin().table;
  return table ? &table->comms() : nullptr;
}

Backend& cuda_backend(int index) {
  static std::array<std::atomic<Backend*>, kMaxDevices> backends{};
  static std::mutex mutex;
  const CudaStatus& status = cuda_status();
  if (index < 0 || index >= status.devices) {
    check<Error>(status.devices > 0,
                 "[backend] cuda:{} is unavailable: {}. --device cpu works "
                 "everywhere, and `lockstep doctor` says what was found",
                 index, status.why);
    fail<Error>("[backend] cuda:{} is unavailable: there {} here", index,
                status.devices == 1 ? "is one device, cuda:0,"
                                    : fmt::format("are {} devices, cuda:0 to cuda:{},",
                                                  status.devices, status.devices - 1));
  }
  auto& slot = backends[static_cast<size_t>(index)];
  if (Backend* made = slot.load(std::memory_order_acquire)) return *made;
  const std::lock_guard lock(mutex);
  if (!slot.load(std::memory_order_relaxed)) {
    slot.store(plugin().table->make_backend(index).release(), std::memory_order_release);
  }
  return *slot.load(std::memory_order_relaxed);
}

}  // namespace lockstep
