#include "lockstep/engine/transfer.h"

namespace lockstep {

Transfers::~Transfers() = default;

Transfers* transfers_of(Device device) {
  return device.is_cpu() ? nullptr : dynamic_cast<Transfers*>(&backend_of(device));
}

}  // namespace lockstep
