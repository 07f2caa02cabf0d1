#include "lockstep/data/atomic_file.h"

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include <fcntl.h>
#include <unistd.h>

#include "lockstep/engine/tensor/check.h"

namespace lockstep::data {

AtomicFile::AtomicFile(const std::filesystem::path& target)
    : target_(target), folder_(target.has_parent_path() ? target.parent_path() : ".") {
  std::error_code ignored;
  if (!target.has_filename() || std::filesystem::is_directory(target, ignored)) {
    fail<DataError>("[file] {}: is a directory; name a file", target.string());
  }
  static std::atomic<unsigned> count{0};  // threads may write to one target: the last one wins
  name_ = (folder_ / fmt::format(".{}.{}.{}.tmp", target.filename().string(), getpid(), count++))
              .string();
  file_ = open(name_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (file_ < 0) refuse("cannot create a file in its directory");
}

AtomicFile::~AtomicFile() {
  if (file_ >= 0) close(file_);
  if (!published_) unlink(name_.c_str());
}

void AtomicFile::refuse(const char* what) const {
  const int code = errno;
  fail<DataError>("[file] {}: {}: {}", target_.string(), what, std::strerror(code));
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t done = ::write(file_, bytes.data(), bytes.size());
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) refuse("cannot be written");
    bytes = bytes.subspan(static_cast<size_t>(done));
  }
}

void AtomicFile::publish() {
  if (fsync(file_) != 0) refuse("cannot be synced");
  if (std::rename(name_.c_str(), target_.c_str()) != 0) refuse("cannot be replaced");
  published_ = true;
  const int folder = open(folder_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder >= 0) {  // makes the rename itself durable, where the file system can
    fsync(folder);
    close(folder);
  }
}

}  // namespace lockstep::data
