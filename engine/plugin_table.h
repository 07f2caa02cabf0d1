#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "lockstep/engine/backend.h"
#include "lockstep/engine/device_comm.h"

// What the CUDA plugin shows to the core library, which finds it by the symbol's name.
//
// Plugin and core exchange C++ objects, so both must have been compiled from the same headers; the
// build gives both a hash of them (LOCKSTEP_PLUGIN_ABI), and the core compares before it calls.
namespace lockstep {

// A line of what `lockstep doctor` says: ("driver", "580.65 (CUDA 13.0)").
using Facts = std::vector<std::pair<std::string, std::string>>;

struct PluginTable {
  const char* abi;
  // How many devices can be used. 0: `why` says what is missing, and what to do about it.
  int (*device_count)(std::string& why);
  // Throws Error when the device cannot be used.
  std::unique_ptr<Backend> (*make_backend)(int index);
  // Versions of the libraries, and one entry per device. Never throws.
  Facts (*facts)();
  // What joins devices of several processes. Lives as long as the process.
  DeviceComms& (*comms)();
};

inline constexpr const char* kPluginSymbol = "lockstep_cuda_plugin";
using PluginEntry = const PluginTable* (*)();

}  // namespace lockstep
