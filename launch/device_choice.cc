#include "lockstep/launch/device_choice.h"

#include <algorithm>

#include "lockstep/engine/plugin.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::launch {

Device choose_device(const std::string& flag, int local_rank, int devices, const std::string& why) {
  const Device wanted = Device::parse(flag);
  if (wanted.is_cpu()) return wanted;
  check<Error>(devices > 0,
               "[launch] --device {} cannot be used: {}. `lockstep doctor` says what was found; "
               "--device cpu works everywhere",
               flag, why);
  return {wanted.type, static_cast<int16_t>(std::max(local_rank, 0) % devices)};
}

Device choose_device(const std::string& flag, int local_rank) {
  if (Device::parse(flag).is_cpu()) return {};
  const CudaStatus& status = cuda_status();
  return choose_device(flag, local_rank, status.devices, status.why);
}

}  // namespace lockstep::launch
