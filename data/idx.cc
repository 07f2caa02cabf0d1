#include "lockstep/data/idx.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <limits>
#include <memory>

#include <zlib.h>

#include "lockstep/engine/tensor/check.h"

namespace lockstep::data {
namespace {

// Deflate expands one input byte to at most 1032 output bytes, so no honest gzip file can hold
// more.
constexpr uint64_t kMaxExpansion = 1032;

bool is_idx_type(uint8_t code) {
  return code == 0x08 || code == 0x09 || (code >= 0x0b && code <= 0x0e);
}

// A byte source over zlib, which passes files without a gzip header through unchanged.
class Input {
 public:
  explicit Input(const std::filesystem::path& path) : name_(path.string()) {
    std::error_code error;
    const auto status = std::filesystem::status(path, error);
    check<DataError>(std::filesystem::exists(status), "[idx] {}: no such file", name_);
    check<DataError>(std::filesystem::is_regular_file(status),
                     "[idx] {}: expected a file, found something else (a directory?)", name_);
    file_size_ = std::filesystem::file_size(path, error);
    check<DataError>(!error, "[idx] {}: cannot be read: {}", name_, error.message());
    errno = 0;
    file_.reset(gzopen(name_.c_str(), "rb"));
    check<DataError>(file_ != nullptr, "[idx] {}: cannot be opened: {}", name_,
                     errno ? std::strerror(errno) : "out of memory");
    gzbuffer(file_.get(), 1 << 17);
  }

  const std::string& name() const { return name_; }

  // Upper bound of what the file can hold once decompressed.
  uint64_t capacity() {
    if (gzdirect(file_.get())) return file_size_;
    constexpr auto kMax = std::numeric_limits<uint64_t>::max();
    return file_size_ > kMax / kMaxExpansion ? kMax : file_size_ * kMaxExpansion;
  }

  // Fills `out` as far as the content reaches and returns how far that was.
  size_t read(uint8_t* out, size_t count) {
    size_t done = 0;
    while (done < count) {
      const auto chunk = static_cast<unsigned>(std::min<size_t>(count - done, 1u << 30));
      const int got = gzread(file_.get(), out + done, chunk);
      if (got <= 0) {
        int code = Z_OK;
        const char* text = gzerror(file_.get(), &code);
        if (code == Z_ERRNO) {
          fail<DataError>("[idx] {}: reading failed: {}", name_, std::strerror(errno));
        }
        // Z_BUF_ERROR is zlib's word for a gzip stream that ends early.
        check<DataError>(code == Z_OK || code == Z_BUF_ERROR,
                         "[idx] {}: damaged gzip data after {} bytes: {}", name_, position_ + done,
                         text);
        ends_early_ = code == Z_BUF_ERROR;
        break;
      }
      done += static_cast<size_t>(got);
    }
    position_ += done;
    return done;
  }

  bool ends_early() const { return ends_early_; }  // the last read met a cut gzip stream

 private:
  struct Close {
    void operator()(gzFile_s* file) const { gzclose_r(file); }
  };
  std::string name_;
  uint64_t file_size_ = 0;
  uint64_t position_ = 0;
  bool ends_early_ = false;
  std::unique_ptr<gzFile_s, Close> file_;
};

std::vector<int64_t> read_dims(Input& input, int dimensions) {
  std::vector<uint8_t> raw(4 * static_cast<size_t>(dimensions));
  const size_t got = input.read(raw.data(), raw.size());
  check<DataError>(got == raw.size(),
                   "[idx] {}: truncated: expected {} bytes for {} dimensions, found {}",
                   input.name(), raw.size(), dimensions, got);
  std::vector<int64_t> dims(static_cast<size_t>(dimensions));
  for (size_t i = 0; i < dims.size(); ++i) {
    const uint8_t* b = &raw[4 * i];
    dims[i] = int64_t{b[0]} << 24 | int64_t{b[1]} << 16 | int64_t{b[2]} << 8 | int64_t{b[3]};
  }
  return dims;
}

uint64_t payload_size(Input& input, const std::vector<int64_t>& dims, IdxType type) {
  uint64_t size = size_of(type);
  if (std::find(dims.begin(), dims.end(), 0) != dims.end()) return 0;
  for (const int64_t dim : dims) {
    if (__builtin_mul_overflow(size, static_cast<uint64_t>(dim), &size)) {
      fail<DataError>("[idx] {}: its dimensions ({}) need more than 2^64 bytes", input.name(),
                      fmt::join(dims, " x "));
    }
  }
  check<DataError>(size <= input.capacity(),
                   "[idx] {}: truncated or damaged: its header promises {} bytes ({} of {}), but a "
                   "file of this size holds at most {}",
                   input.name(), size, fmt::join(dims, " x "), name_of(type), input.capacity());
  return size;
}

}  // namespace

size_t size_of(IdxType type) {
  switch (type) {
    case IdxType::kUInt8:
    case IdxType::kInt8:
      return 1;
    case IdxType::kInt16:
      return 2;
    case IdxType::kInt32:
    case IdxType::kFloat32:
      return 4;
    case IdxType::kFloat64:
      return 8;
  }
  return 0;
}

std::string_view name_of(IdxType type) {
  switch (type) {
    case IdxType::kUInt8:
      return "uint8";
    case IdxType::kInt8:
      return "int8";
    case IdxType::kInt16:
      return "int16";
    case IdxType::kInt32:
      return "int32";
    case IdxType::kFloat32:
      return "float32";
    case IdxType::kFloat64:
      return "float64";
  }
  return "unknown";
}

int64_t IdxArray::count() const {
  int64_t count = 1;
  for (const int64_t dim : dims) count *= dim;
  return count;
}

IdxArray read_idx(const std::filesystem::path& path) {
  Input input(path);
  std::array<uint8_t, 4> magic{};
  const size_t got = input.read(magic.data(), magic.size());
  check<DataError>(got == magic.size(),
                   "[idx] {}: truncated: expected a magic number of 4 bytes, found {}",
                   input.name(), got);
  check<DataError>(
      magic[0] == 0 && magic[1] == 0 && is_idx_type(magic[2]),
      "[idx] {}: not an IDX file: expected the magic number 00 00 <type 08, 09, 0b..0e> "
      "<dimensions>, found {:02x}",
      input.name(), fmt::join(magic, " "));
  IdxArray array;
  array.type = static_cast<IdxType>(magic[2]);
  array.dims = read_dims(input, magic[3]);
  const uint64_t size = payload_size(input, array.dims, array.type);
  array.bytes.resize(size);
  const size_t filled = input.read(array.bytes.data(), size);
  check<DataError>(filled == size, "[idx] {}: truncated: expected {} bytes ({} of {}), found {}",
                   input.name(), size, fmt::join(array.dims, " x "), name_of(array.type), filled);
  // Reading past the end also makes zlib verify the checksum behind the data.
  uint8_t extra = 0;
  check<DataError>(
      input.read(&extra, 1) == 0,
      "[idx] {}: expected the file to end after {} bytes of values ({} of {}), found more",
      input.name(), size, fmt::join(array.dims, " x "), name_of(array.type));

  check<DataError>(
      !input.ends_early(),
      "[idx] {}: truncated: expected the gzip checksum after {} bytes of values, found "
      "the end of the file",
      input.name(), size);

  const size_t width = size_of(array.type);  // values are stored big-endian
  if (std::endian::native == std::endian::little && width > 1) {
    for (auto at = array.bytes.begin(); at != array.bytes.end();
         at += static_cast<int64_t>(width)) {
      std::reverse(at, at + static_cast<int64_t>(width));
    }
  }
  return array;
}

}  // namespace lockstep::data
