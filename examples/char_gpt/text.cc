#include "text.h"

#include <fstream>
#include <iterator>
#include <vector>

#include "lockstep/engine/tensor/factory.h"

namespace char_gpt {

using lockstep::DataError;
using lockstep::ValueError;

namespace {

constexpr std::string_view kLzwMagic = "\x1f\x9d";
constexpr size_t kLzwHeader = 3;

// The codes of a .Z stream. They are stored lowest bit first, in groups of eight codes; where the
// width changes, the rest of the group is padding.
class Codes {
 public:
  explicit Codes(std::string_view packed) : packed_(packed) {}

  bool next(unsigned width, uint32_t* code) {
    if (width != width_) {
      const size_t group = size_t{8} * width_;
      if (width_ != 0) bit_ = group_ + (bit_ - group_ + group - 1) / group * group;
      group_ = bit_;
      width_ = width;
    }
    if (bit_ + width > 8 * packed_.size()) return false;
    uint32_t bits = 0;
    for (size_t byte = bit_ / 8, k = 0; k < 3 && byte + k < packed_.size(); ++k) {
      bits |= uint32_t{static_cast<uint8_t>(packed_[byte + k])} << (8 * k);
    }
    *code = bits >> (bit_ % 8) & ((1u << width) - 1);
    bit_ += width;
    return true;
  }
  void end_group() {  // the next code begins a group, whatever its width
    const size_t group = size_t{8} * width_;
    group_ = bit_ = group_ + (bit_ - group_ + group - 1) / group * group;
  }

 private:
  std::string_view packed_;
  size_t bit_ = 0, group_ = 0;
  unsigned width_ = 0;
};

uint32_t big_endian(std::string_view bytes) {
  uint32_t value = 0;
  for (const char c : bytes) value = value << 8 | static_cast<uint8_t>(c);
  return value;
}

}  // namespace

std::string unpack_lzw(std::string_view packed) {
  constexpr uint32_t kClear = 256;
  constexpr unsigned kFirstWidth = 9, kLastWidth = 16;
  if (packed.size() < kLzwHeader || packed.substr(0, 2) != kLzwMagic) {
    throw DataError("[unpack_lzw] not a stream of compress(1): it does not begin with 1f 9d");
  }
  const auto flags = static_cast<uint8_t>(packed[2]);
  const unsigned last_width = flags & 31;
  const bool clears = (flags & 0x80) != 0;
  if (last_width < kFirstWidth || last_width > kLastWidth) {
    throw DataError("[unpack_lzw] codes of up to " + std::to_string(last_width) +
                    " bits; expected 9 to 16");
  }

  // A code above 255 stands for the string of another code and one byte more. Each code that is
  // read defines one: the string before it and its own first byte.
  struct Entry {
    uint32_t prefix;
    char last;
  };
  std::vector<Entry> entries(size_t{1} << last_width);
  const uint32_t first = clears ? kClear + 1 : kClear;
  uint32_t next = first, previous = 0;
  bool fresh = true;  // no code before this one
  unsigned width = kFirstWidth;
  std::string text;
  std::string reversed;  // the string of the present code, last byte first
  Codes codes(packed.substr(kLzwHeader));
  for (uint32_t code = 0;;) {
    if (next == 1u << width && width < last_width) ++width;
    if (!codes.next(width, &code)) return text;
    if (clears && code == kClear) {
      codes.end_group();
      width = kFirstWidth;
      next = first;
      fresh = true;
      continue;
    }
    const bool unfinished = !fresh && code == next;  // the very code that it defines
    if (fresh ? code > 255 : code > next || (unfinished && next == entries.size())) {
      throw DataError("[unpack_lzw] code " + std::to_string(code) + " after " +
                      std::to_string(text.size()) + " bytes is not defined; the file is damaged");
    }
    const char begins_previous = reversed.empty() ? '\0' : reversed.back();
    reversed.clear();
    if (unfinished) reversed.push_back(begins_previous);
    uint32_t at = unfinished ? previous : code;
    for (; at > 255; at = entries[at].prefix) reversed.push_back(entries[at].last);
    reversed.push_back(static_cast<char>(at));
    text.append(reversed.rbegin(), reversed.rend());
    if (!fresh && next < entries.size()) entries[next++] = {previous, reversed.back()};
    previous = code;
    fresh = false;
  }
}

std::string read_text(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::string bytes{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  if (!in.good() || bytes.empty()) {
    throw DataError("[char_gpt] " + file.string() + " cannot be read or is empty; " +
                    (file == kBible
                         ? "install the package bible-kjv-text (apt-get install bible-kjv-text) or "
                           "name another text with --text FILE"
                         : "name a text with --text FILE"));
  }
  try {
    if (bytes.starts_with(kLzwMagic)) return unpack_lzw(bytes);
    if (bytes.starts_with("EC02")) {  // then a title and a table of places inside the .Z stream
      constexpr size_t kFirstPlace = 0x5c;  // that of the first code, just behind the header
      if (bytes.size() < kFirstPlace + 4) throw DataError("[char_gpt] the header is cut off");
      const size_t place = big_endian(std::string_view(bytes).substr(kFirstPlace, 4));
      if (place < kLzwHeader || place > bytes.size()) {
        throw DataError("[char_gpt] the text begins at " + std::to_string(place) + " of " +
                        std::to_string(bytes.size()) + " bytes");
      }
      return unpack_lzw(std::string_view(bytes).substr(place - kLzwHeader));
    }
  } catch (const DataError& error) {
    throw DataError(file.string() + ": " + error.what());
  }
  return bytes;
}

Windows::Windows(std::shared_ptr<const std::string> text, size_t begin, size_t end, int64_t context,
                 int64_t stride)
    : text_(std::move(text)), begin_(begin), context_(context), stride_(stride), size_(0) {
  const auto starts = static_cast<int64_t>(end - begin) - context;  // a byte more for y
  if (begin > end || end > text_->size() || context < 1 || stride < 1 || starts < 1) {
    throw ValueError("[windows] " + std::to_string(end - begin) +
                     " bytes of text hold no window of " + std::to_string(context) +
                     " bytes and its next; use a longer text or a smaller --context");
  }
  size_ = (starts - 1) / stride + 1;
}

lockstep::data::Batch Windows::get(std::span<const int64_t> indices) const {
  const auto count = static_cast<int64_t>(indices.size());
  const auto x = lockstep::empty({count, context_}, {lockstep::DType::kInt64});
  const auto y = lockstep::empty({count, context_}, {lockstep::DType::kInt64});
  auto* to_x = x.data<int64_t>();
  auto* to_y = y.data<int64_t>();
  for (const int64_t index : indices) {
    if (index < 0 || index >= size_) {
      throw ValueError("[windows] window " + std::to_string(index) + " of " +
                       std::to_string(size_));
    }
    const char* from = text_->data() + begin_ + static_cast<size_t>(index * stride_);
    for (int64_t i = 0; i < context_; ++i) {
      *to_x++ = static_cast<uint8_t>(from[i]);
      *to_y++ = static_cast<uint8_t>(from[i + 1]);
    }
  }
  return {x, y, count};
}

}  // namespace char_gpt
