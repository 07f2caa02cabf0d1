// What LOCKSTEP_CUDA_PLUGIN may point at by mistake.
#include "lockstep/engine/plugin_table.h"

#if defined(PLUGIN_OTHER_BUILD)
extern "C" const lockstep::PluginTable* lockstep_cuda_plugin() {
  static constexpr lockstep::PluginTable kTable{.abi = "0.0.0-of-old",
                                                .device_count = nullptr,
                                                .make_backend = nullptr,
                                                .facts = nullptr,
                                                .comms = nullptr};
  return &kTable;
}
#else
extern "C" int some_other_library() { return 1; }
#endif
