#include "lockstep/engine/gradient_kernels.h"

#include "lockstep/engine/backend.h"

namespace lockstep {

GradientKernels::~GradientKernels() = default;

GradientKernels* gradient_kernels_of(Device device) {
  return device.is_cpu() ? nullptr : dynamic_cast<GradientKernels*>(&backend_of(device));
}

}  // namespace lockstep
