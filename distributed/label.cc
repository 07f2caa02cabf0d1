#include "lockstep/distributed/label.h"

#include <algorithm>

#include "lockstep/engine/tensor/check.h"

namespace lockstep::distributed {
namespace {

constexpr uint64_t kStart = 14695981039346656037u;

uint64_t fnv(uint64_t hash, std::string_view text) {  // FNV-1a
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211u;
  return hash;
}

// A name's beginning says least: layers of one kind differ behind it.
std::string shortened(const std::string& name, size_t most) {
  return name.size() <= most ? name : ".." + name.substr(name.size() - most + 2);
}

void copy_text(std::string_view text, std::span<char> to) {
  std::copy_n(text.begin(), std::min(text.size(), to.size() - 1), to.begin());
}

}  // namespace

Label::Label(std::string_view text) : hash(fnv(kStart, text)) { copy_text(text, contents); }

Label::Label(int bucket_index, std::span<const std::string> names, uint64_t tag)
    : bucket(bucket_index) {
  hash = fnv(kStart, fmt::format("{} {}\n", bucket_index, tag));
  for (const std::string& name : names) hash = fnv(fnv(hash, name), {"\n", 1});
  constexpr size_t kHalf = (sizeof(contents) - 6) / 2;
  if (names.size() == 1) {
    copy_text(shortened(names.front(), sizeof(contents) - 1), contents);
  } else if (names.size() > 1) {
    copy_text(fmt::format("{}{}{}", shortened(names.front(), kHalf),
                          names.size() > 2 ? " ... " : ", ", shortened(names.back(), kHalf)),
              contents);
  }
}

std::string Label::str() const {
  std::string text;
  const auto add = [&](const std::string& part, const char* between) {
    text += (text.empty() ? "" : between) + part;
  };
  if (step >= 0) add(fmt::format("step {}", step), "");
  if (bucket >= 0) add(fmt::format("bucket {}", bucket), ", ");
  if (contents[0] != '\0') add(contents, bucket >= 0 ? ": " : ", ");
  return text;
}

}  // namespace lockstep::distributed
