#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "lockstep/data/dataset.h"

namespace char_gpt {

// Where Debian's package bible-kjv-text keeps its text.
inline constexpr const char* kBible = "/usr/lib/bible.data";

// The bytes of a text file. What Unix compress(1) has packed (.Z) and the data file of
// bible-kjv-text, which holds such a stream, are unpacked. Throws lockstep::DataError.
std::string read_text(const std::filesystem::path& file);

// Unpacks a .Z stream: LZW with codes of 9 to 16 bits (Welch, "A technique for high-performance
// data compression", IEEE Computer 17(6), 1984).
std::string unpack_lzw(std::string_view packed);

// Windows of `context` bytes of a text, one beginning every `stride` bytes. Batches are x and y:
// int64 (B, context), y being one byte further than x.
class Windows : public lockstep::data::Dataset {
 public:
  // `text` is shared and the windows lie in [begin, end) of it. Throws lockstep::ValueError if not
  // one of them fits.
  Windows(std::shared_ptr<const std::string> text, size_t begin, size_t end, int64_t context,
          int64_t stride = 1);

  int64_t size() const override { return size_; }
  lockstep::data::Batch get(std::span<const int64_t> indices) const override;

 private:
  std::shared_ptr<const std::string> text_;
  size_t begin_;
  int64_t context_, stride_, size_;
};

}  // namespace char_gpt
