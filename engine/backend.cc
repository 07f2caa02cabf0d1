#include "lockstep/engine/backend.h"

#include "lockstep/engine/cpu/cpu_backend.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep {

Backend& backend_of(Device device) {
  if (device.is_cpu()) [[likely]] {
    return cpu::cpu_backend();
  }
  fail<Error>("[backend] {} is unavailable: this build has no CUDA backend; use --device cpu",
              device.str());
}

}  // namespace lockstep
