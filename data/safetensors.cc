#include "lockstep/data/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <numeric>
#include <set>
#include <span>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lockstep/data/atomic_file.h"
#include "lockstep/data/safetensors_header.h"
#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/sync_debug.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"

namespace lockstep::data {
namespace {

static_assert(std::endian::native == std::endian::little,
              "values are read and written as they lie in memory");
static_assert(sizeof(bool) == 1);

constexpr uint64_t kPrefix = 8;  // the header's length

class InputFile {
 public:
  explicit InputFile(const std::filesystem::path& path) : name_(path.string()) {
    file_ = open(name_.c_str(), O_RDONLY | O_CLOEXEC);
    if (file_ < 0) refuse("cannot be opened");
    struct stat status {};
    if (fstat(file_, &status) != 0) {
      const int code = errno;
      close(file_);
      errno = code;
      refuse("cannot be read");
    }
    if (!S_ISREG(status.st_mode)) {
      close(file_);
      fail<DataError>("[safetensors] {}: expected a file, found something else (a directory?)",
                      name_);
    }
    size_ = static_cast<uint64_t>(status.st_size);
  }
  ~InputFile() { close(file_); }
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  const std::string& name() const { return name_; }
  uint64_t size() const { return size_; }

  void read(std::span<std::byte> out, uint64_t at) const {
    while (!out.empty()) {
      const ssize_t got = pread(file_, out.data(), out.size(), static_cast<off_t>(at));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) refuse("reading failed");
      check<DataError>(got > 0, "[safetensors] {}: became shorter while it was read", name_);
      out = out.subspan(static_cast<size_t>(got));
      at += static_cast<uint64_t>(got);
    }
  }

 private:
  [[noreturn]] void refuse(const char* what) const {
    const int code = errno;
    fail<DataError>("[safetensors] {}: {}: {}", name_, what, std::strerror(code));
  }

  std::string name_;
  int file_ = -1;
  uint64_t size_ = 0;
};

// The length of the header, known to lie within the file.
uint64_t header_length(const InputFile& file) {
  check<DataError>(file.size() >= kPrefix,
                   "[safetensors] {}: truncated: its {} bytes cannot hold a header's length",
                   file.name(), file.size());
  std::array<std::byte, kPrefix> bytes;
  file.read(bytes, 0);
  const auto length = std::bit_cast<uint64_t>(bytes);
  check<DataError>(length <= kMaxSafetensorsHeader,
                   "[safetensors] {}: not a safetensors file: its header would have {} bytes; at "
                   "most {} are allowed",
                   file.name(), length, kMaxSafetensorsHeader);
  check<DataError>(length <= file.size() - kPrefix,
                   "[safetensors] {}: truncated: its header has {} bytes, but the file ends {} "
                   "bytes after the header's length",
                   file.name(), length, file.size() - kPrefix);
  return length;
}

std::span<std::byte> bytes_of(const Tensor& t) {
  return {static_cast<std::byte*>(t.data_ptr()),
          static_cast<size_t>(t.numel()) * size_of(t.dtype())};
}

}  // namespace

Safetensors read_safetensors(const std::filesystem::path& path) {
  const autograd::NoGrad no_grad;
  const InputFile file(path);
  const uint64_t length = header_length(file);
  const uint64_t data_begin = kPrefix + length;
  SafetensorsHeader header;
  {
    std::string json(length, '\0');
    file.read(std::as_writable_bytes(std::span(json)), kPrefix);
    header = parse_safetensors_header(json, file.size() - data_begin, file.name());
  }
  Safetensors result;
  result.metadata = std::move(header.metadata);
  for (auto& entry : header.entries) {
    const Tensor tensor = empty(entry.shape, {entry.dtype});
    const std::span<std::byte> bytes = bytes_of(tensor);
    file.read(bytes, data_begin + entry.begin);
    if (entry.dtype == DType::kBool) {
      for (const std::byte value : bytes) {
        check<DataError>(value <= std::byte{1},
                         "[safetensors] {}: tensor \"{}\": a bool is 0 or 1, found {}", file.name(),
                         entry.name, static_cast<int>(value));
      }
    }
    result.tensors.emplace_back(std::move(entry.name), tensor);
  }
  return result;
}

void write_safetensors(const std::filesystem::path& path, const NamedTensors& tensors,
                       const std::map<std::string, std::string>& metadata) {
  const autograd::NoGrad no_grad;
  SafetensorsHeader header{{}, metadata};
  std::set<std::string_view> names;
  for (const auto& [name, tensor] : tensors) {
    check(name != "__metadata__", "[safetensors] {}: no tensor can have the name \"{}\"",
          path.string(), name);
    check(names.insert(name).second, "[safetensors] {}: the name \"{}\" appears twice",
          path.string(), name);
    check(tensor.defined(), "[safetensors] {}: \"{}\" is undefined", path.string(), name);
    header.entries.push_back({name, tensor.dtype(), tensor.sizes(), 0, 0});
  }
  std::vector<size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return size_of(header.entries[a].dtype) > size_of(header.entries[b].dtype);
  });
  uint64_t end = 0;
  for (const size_t i : order) {
    header.entries[i].begin = end;
    end += static_cast<uint64_t>(tensors[i].second.numel()) * size_of(header.entries[i].dtype);
    header.entries[i].end = end;
  }
  std::string json = format_safetensors_header(header);
  json.resize((json.size() + 7) / 8 * 8, ' ');
  check(json.size() <= kMaxSafetensorsHeader,
        "[safetensors] {}: the header takes {} bytes; at most {} are allowed", path.string(),
        json.size(), kMaxSafetensorsHeader);

  const SyncAllowed allowed;
  AtomicFile file(path);
  const uint64_t length = json.size();
  file.write(std::as_bytes(std::span(&length, 1)));
  file.write(std::as_bytes(std::span(json)));
  for (const size_t i : order) {
    file.write(bytes_of(tensors[i].second.detach().to(Device{}).contiguous()));
  }
  file.publish();
}

void save_state_dict(const std::filesystem::path& path, const nn::Module& module,
                     const std::map<std::string, std::string>& metadata) {
  write_safetensors(path, module.state_dict(), metadata);
}

void load_state_dict(const std::filesystem::path& path, const nn::Module& module, bool strict) {
  const Safetensors file = read_safetensors(path);
  try {
    module.load_state_dict(file.tensors, strict);
  } catch (const ValueError& error) {
    fail("[safetensors] {}: {}", path.string(), error.what());
  }
}

}  // namespace lockstep::data
