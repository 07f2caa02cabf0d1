#include "lockstep/data/safetensors_header.h"

#include <algorithm>
#include <array>
#include <limits>
#include <set>
#include <utility>

#include <nlohmann/json.hpp>

#include "lockstep/engine/tensor/check.h"

namespace lockstep::data {
namespace {

constexpr std::array<std::string_view, kDTypeCount> kDTypeNames = {"F32", "F64", "BF16", "F16",
                                                                   "I64", "I32", "U8",   "BOOL"};
constexpr std::string_view kMetadata = "__metadata__";

// A name from a file that may be damaged, short enough for an error text.
std::string shown(std::string_view text) {
  constexpr size_t kMost = 100;
  return text.size() <= kMost ? std::string(text) : std::string(text.substr(0, kMost)) + "...";
}

// Follows the parser through the header: {name: {"dtype": text, "shape": [sizes], "data_offsets":
// [begin, end]}, ..., "__metadata__": {text: text}}. Everything else is refused where it is met, so
// that a hostile header cannot make the parser build anything large or deep.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  HeaderReader(uint64_t data_size, const std::string& file) : data_size_(data_size), file_(file) {}

  SafetensorsHeader take() { return std::move(header_); }

  bool null() override { refuse_value("null"); }
  bool boolean(bool) override { refuse_value("a bool"); }
  bool number_integer(number_integer_t value) override {
    refuse_value(fmt::format("the negative number {}", value));
  }
  bool number_float(number_float_t, const string_t& text) override {
    refuse_value(fmt::format("the number {}", shown(text)));
  }
  bool binary(binary_t&) override { refuse_value("binary data"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (where_ == Where::kShape) {
      if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        refuse_tensor("a size of {} is too large", value);
      }
      if (entry_.shape.size() == kMaxDims) {
        refuse_tensor("it has more than {} dimensions, which is all that a tensor can have here",
                      kMaxDims);
      }
      entry_.shape.push_back(static_cast<int64_t>(value));
    } else if (where_ == Where::kOffsets) {
      if (offsets_ == 2) refuse_tensor("data_offsets holds more than two numbers");
      (offsets_++ == 0 ? entry_.begin : entry_.end) = value;
    } else {
      refuse_value(fmt::format("the number {}", value));
    }
    return true;
  }

  bool string(string_t& text) override {
    if (where_ == Where::kMetadata) {
      header_.metadata.emplace(key_, std::move(text));
    } else if (where_ == Where::kTensor && key_ == "dtype") {
      const auto found = std::find(kDTypeNames.begin(), kDTypeNames.end(), text);
      if (found == kDTypeNames.end()) {
        refuse_tensor("dtype \"{}\" is not one of {}", shown(text), fmt::join(kDTypeNames, ", "));
      }
      entry_.dtype = static_cast<DType>(found - kDTypeNames.begin());
    } else {
      refuse_value(fmt::format("the text \"{}\"", shown(text)));
    }
    return true;
  }

  bool start_object(size_t) override {
    if (where_ == Where::kOutside) {
      where_ = Where::kTop;
    } else if (where_ == Where::kTop) {
      where_ = key_ == kMetadata ? Where::kMetadata : Where::kTensor;
      if (where_ == Where::kTensor) {
        entry_ = {};
        entry_.name = key_;
        offsets_ = 0;
      }
      fields_.clear();
    } else {
      refuse_value("an object");
    }
    return true;
  }

  bool key(string_t& text) override {
    auto& taken = where_ == Where::kTop ? names_ : fields_;
    if (!taken.insert(text).second) {
      if (where_ == Where::kTop) refuse("the name \"{}\" appears twice", shown(text));
      if (where_ == Where::kMetadata) refuse("the metadata \"{}\" appears twice", shown(text));
      refuse_tensor("\"{}\" appears twice", shown(text));
    }
    if (where_ == Where::kTensor && text != "dtype" && text != "shape" && text != "data_offsets") {
      refuse_tensor("it has a field \"{}\"; dtype, shape and data_offsets are all there is",
                    shown(text));
    }
    key_ = std::move(text);
    return true;
  }

  bool end_object() override {
    if (where_ == Where::kTensor) finish_tensor();
    where_ = where_ == Where::kTop ? Where::kOutside : Where::kTop;
    return true;
  }

  bool start_array(size_t) override {
    if (where_ == Where::kTensor && key_ == "shape") {
      where_ = Where::kShape;
    } else if (where_ == Where::kTensor && key_ == "data_offsets") {
      where_ = Where::kOffsets;
    } else {
      refuse_value("an array");
    }
    return true;
  }

  bool end_array() override {
    if (where_ == Where::kOffsets && offsets_ != 2) {
      refuse_tensor("data_offsets holds {} numbers, not a begin and an end", offsets_);
    }
    where_ = Where::kTensor;
    return true;
  }

  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    refuse("the header is not JSON: byte {}: {}", position, shown(error.what()));
  }

 private:
  enum class Where { kOutside, kTop, kMetadata, kTensor, kShape, kOffsets };

  template <typename... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> text, Args&&... args) const {
    fail<DataError>("[safetensors] {}: {}", file_, fmt::format(text, std::forward<Args>(args)...));
  }
  template <typename... Args>
  [[noreturn]] void refuse_tensor(fmt::format_string<Args...> text, Args&&... args) const {
    refuse("tensor \"{}\": {}", shown(entry_.name), fmt::format(text, std::forward<Args>(args)...));
  }
  [[noreturn]] void refuse_value(const std::string& what) const {
    switch (where_) {
      case Where::kOutside:
        refuse("the header must be an object, found {}", what);
      case Where::kTop:
        refuse("tensor \"{}\": expected an object with dtype, shape and data_offsets, found {}",
               shown(key_), what);
      case Where::kMetadata:
        refuse("metadata \"{}\": expected a text, found {}", shown(key_), what);
      case Where::kShape:
        refuse_tensor("shape holds {}, not sizes", what);
      case Where::kOffsets:
        refuse_tensor("data_offsets holds {}, not byte counts", what);
      case Where::kTensor:
        break;
    }
    refuse_tensor("{} cannot be {}", key_, what);
  }

  // Everything about a tensor that can be checked without looking at its neighbours.
  void finish_tensor() {
    for (const char* field : {"dtype", "shape", "data_offsets"}) {
      if (!fields_.contains(field)) refuse_tensor("it has no {}", field);
    }
    const auto& [name, dtype, shape, begin, end] = entry_;
    // Sizes of zero count as one at first: the strides of an empty tensor must not overflow either.
    int64_t bytes = static_cast<int64_t>(size_of(dtype));
    bool overflow = false;
    for (const int64_t size : shape) {
      overflow = overflow || __builtin_mul_overflow(bytes, std::max<int64_t>(size, 1), &bytes);
    }
    if (overflow) {
      refuse_tensor("{} of shape {} need more than 2^63 bytes", name_of(dtype), shape.str());
    }
    if (std::find(shape.begin(), shape.end(), 0) != shape.end()) bytes = 0;
    if (begin > end || end > data_size_) {
      refuse_tensor("data_offsets [{}, {}] do not lie within the file's {} bytes of data", begin,
                    end, data_size_);
    }
    if (end - begin != static_cast<uint64_t>(bytes)) {
      refuse_tensor("data_offsets [{}, {}] span {} bytes, but {} of shape {} take {}", begin, end,
                    end - begin, name_of(dtype), shape.str(), bytes);
    }
    if (begin % size_of(dtype) != 0) {
      refuse_tensor("data_offsets [{}, {}]: {} cannot begin there; it must be a multiple of {}",
                    begin, end, name_of(dtype), size_of(dtype));
    }
    header_.entries.push_back(std::move(entry_));
  }

  uint64_t data_size_;
  const std::string& file_;
  SafetensorsHeader header_;
  Where where_ = Where::kOutside;
  std::string key_;
  std::set<std::string, std::less<>> names_, fields_;  // seen: at the top, in the current object
  SafetensorsEntry entry_;
  int offsets_ = 0;
};

// No byte belongs to two tensors or to none.
void check_coverage(const SafetensorsHeader& header, uint64_t data_size, const std::string& file) {
  std::vector<const SafetensorsEntry*> order;
  for (const auto& entry : header.entries) order.push_back(&entry);
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return std::pair(a->begin, a->end) < std::pair(b->begin, b->end);
  });
  uint64_t covered = 0;
  const SafetensorsEntry* previous = nullptr;
  for (const auto* entry : order) {
    if (entry->begin < covered) {
      fail<DataError>(
          "[safetensors] {}: tensor \"{}\": data_offsets [{}, {}] overlap tensor "
          "\"{}\" with [{}, {}]",
          file, shown(entry->name), entry->begin, entry->end, shown(previous->name),
          previous->begin, previous->end);
    }
    check<DataError>(entry->begin == covered,
                     "[safetensors] {}: tensor \"{}\": data_offsets [{}, {}] leave a gap: the "
                     "bytes from {} on belong to no tensor",
                     file, shown(entry->name), entry->begin, entry->end, covered);
    covered = entry->end;
    previous = entry;
  }
  check<DataError>(covered == data_size,
                   "[safetensors] {}: its tensors end after {} bytes of data, but {} bytes follow "
                   "the header",
                   file, covered, data_size);
}

}  // namespace

SafetensorsHeader parse_safetensors_header(std::string_view json, uint64_t data_size,
                                           const std::string& file) {
  check<DataError>(!json.empty() && json.front() == '{',
                   "[safetensors] {}: the header must begin with {{", file);
  HeaderReader reader(data_size, file);
  nlohmann::json::sax_parse(json, &reader);
  SafetensorsHeader header = reader.take();
  check_coverage(header, data_size, file);
  return header;
}

std::string format_safetensors_header(const SafetensorsHeader& header) {
  try {
    auto json = nlohmann::ordered_json::object();
    if (!header.metadata.empty()) json[std::string(kMetadata)] = header.metadata;
    for (const auto& entry : header.entries) {
      auto& out = json[entry.name];
      out["dtype"] = kDTypeNames[static_cast<size_t>(entry.dtype)];
      out["shape"] = std::vector<int64_t>(entry.shape.begin(), entry.shape.end());
      out["data_offsets"] = {entry.begin, entry.end};
    }
    return json.dump();
  } catch (const nlohmann::json::type_error& error) {
    fail("[safetensors] names and metadata must be UTF-8: {}", error.what());
  }
}

}  // namespace lockstep::data
