#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>

namespace lockstep::data {

// A file that appears complete or not at all: written under another name in the same directory,
// flushed to the disk, then renamed over the target. Unless publish() was called, nothing stays
// behind. Throws DataError that names the target.
class AtomicFile {
 public:
  explicit AtomicFile(const std::filesystem::path& target);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::span<const std::byte> bytes);
  void publish();

 private:
  [[noreturn]] void refuse(const char* what) const;

  std::filesystem::path target_, folder_;
  std::string name_;  // of the temporary file
  int file_ = -1;
  bool published_ = false;
};

}  // namespace lockstep::data
