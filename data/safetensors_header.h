#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "lockstep/engine/tensor/dims.h"
#include "lockstep/engine/tensor/dtype.h"

// Internal: the JSON header of a safetensors file, as text and as what it says.
namespace lockstep::data {

struct SafetensorsEntry {
  std::string name;
  DType dtype = DType::kFloat32;
  Dims shape;
  uint64_t begin = 0, end = 0;  // bytes, counted from the end of the header
};

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;  // in the header's order
  std::map<std::string, std::string> metadata;
};

// The largest header, as in the reference implementation.
inline constexpr uint64_t kMaxSafetensorsHeader = 100'000'000;

// Throws DataError, naming `file`, the tensor and its values, unless the entries are well formed,
// agree with their shapes and dtypes, and fill the `data_size` bytes behind the header exactly.
SafetensorsHeader parse_safetensors_header(std::string_view json, uint64_t data_size,
                                           const std::string& file);

// Without the padding. Throws ValueError where a name or a metadata text is not UTF-8.
std::string format_safetensors_header(const SafetensorsHeader& header);

}  // namespace lockstep::data
