#include "lockstep/engine/backend.h"

#include "lockstep/engine/cpu/cpu_backend.h"
#include "lockstep/engine/plugin.h"

namespace lockstep {

Backend& backend_of(Device device) {
  if (device.is_cpu()) [[likely]] {
    return cpu::cpu_backend();
  }
  return cuda_backend(device.index);
}

}  // namespace lockstep
