#include "lockstep/engine/tensor/device.h"

#include <charconv>

#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/same_device.h"

namespace lockstep {

Device Device::parse(std::string_view text) {
  const auto colon = text.find(':');
  const auto type = text.substr(0, colon);
  Device device;
  if (type == "cuda") {
    device.type = DeviceType::kCuda;
  } else if (type != "cpu") {
    fail("[device] \"{}\" is not a device; use cpu, cuda or cuda:N", text);
  }
  if (colon != std::string_view::npos) {
    const auto digits = text.substr(colon + 1);
    const auto [end, error] =
        std::from_chars(digits.data(), digits.data() + digits.size(), device.index);
    check(error == std::errc{} && end == digits.data() + digits.size() && device.index >= 0 &&
              (device.index == 0 || !device.is_cpu()),
          "[device] \"{}\" has no such index; use cpu, cuda or cuda:N", text);
  }
  return device;
}

std::string Device::str() const { return is_cpu() ? "cpu" : fmt::format("cuda:{}", index); }

void fail_on_devices(const char* op, Device a, Device b) {
  fail(
      "Expected all tensors to be on the same device, but found at least two devices, {} and {}! "
      "(in {}; .to(device) moves a tensor)",
      a, b, op);
}

}  // namespace lockstep
