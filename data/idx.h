#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>
#include <vector>

namespace lockstep::data {

// Element types of the IDX format, by the code that stands in the file's third byte.
enum class IdxType : uint8_t {
  kUInt8 = 0x08,
  kInt8 = 0x09,
  kInt16 = 0x0b,
  kInt32 = 0x0c,
  kFloat32 = 0x0d,
  kFloat64 = 0x0e,
};

size_t size_of(IdxType type);
std::string_view name_of(IdxType type);  // "uint8", "int16", ...

// A dense array in row-major order; `bytes` holds product(dims) elements in this machine's byte
// order. No dimensions means one element.
struct IdxArray {
  IdxType type = IdxType::kUInt8;
  std::vector<int64_t> dims;
  std::vector<uint8_t> bytes;

  int64_t count() const;  // number of elements
};

// Reads one IDX file, plain or gzip compressed (told apart by content, not by name).
// Throws DataError, naming the file, what was expected and what was found, if the file is missing,
// unreadable, truncated, damaged, longer than its header says, or claims an impossible size; the
// claimed size is checked against the file before memory is allocated.
IdxArray read_idx(const std::filesystem::path& path);

}  // namespace lockstep::data
