#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace lockstep {

enum class DeviceType : uint8_t { kCpu, kCuda };

struct Device {
  DeviceType type = DeviceType::kCpu;
  int16_t index = 0;  // the CPU is one device, index 0

  static Device parse(std::string_view text);  // "cpu", "cuda", "cuda:1"; throws ValueError
  std::string str() const;                     // "cpu", "cuda:0"
  bool is_cpu() const { return type == DeviceType::kCpu; }
  friend bool operator==(Device, Device) = default;
};

}  // namespace lockstep
