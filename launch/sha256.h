#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace lockstep::launch {

using Sha256Digest = std::array<uint8_t, 32>;

std::string to_hex(const Sha256Digest& digest);  // 64 lower-case digits

// SHA-256 (FIPS 180-4) of everything passed to update(), in order.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  void update(std::span<const std::byte> bytes);
  void update(std::string_view text);
  Sha256Digest finish();  // once, at the end; throws Error on a second call

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

}  // namespace lockstep::launch
