#include "lockstep/launch/report.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string_view>

#include <fcntl.h>
#include <nlohmann/json.hpp>
#include <sys/stat.h>
#include <unistd.h>

#include "lockstep/engine/tensor/check.h"

namespace lockstep::launch {
namespace {

using std::filesystem::path;

[[noreturn]] void refuse(const path& target, const char* what) {
  const int code = errno;
  fail<Error>("[report] --report {}: {}: {}", target.string(), what, std::strerror(code));
}

path folder_of(const path& target) {
  return target.has_parent_path() ? target.parent_path() : path(".");
}

// A new file beside the target, removed again unless it was renamed.
class TemporaryFile {
 public:
  explicit TemporaryFile(const path& target) : target_(target) {
    if (!target.has_filename() || std::filesystem::is_directory(target)) {
      fail<Error>("[report] --report {}: is a directory; name a file", target.string());
    }
    name_ = (folder_of(target) / fmt::format(".{}.{}.tmp", target.filename().string(), getpid()))
                .string();
    file_ = open(name_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (file_ < 0) refuse(target_, "cannot create a file in its directory");
  }
  ~TemporaryFile() {
    if (file_ >= 0) close(file_);
    if (!renamed_) unlink(name_.c_str());
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  void write(std::string_view text) {
    while (!text.empty()) {
      const ssize_t done = ::write(file_, text.data(), text.size());
      if (done < 0 && errno == EINTR) continue;
      if (done < 0) refuse(target_, "cannot be written");
      text.remove_prefix(static_cast<size_t>(done));
    }
  }

  void publish() {
    if (fsync(file_) != 0) refuse(target_, "cannot be synced");
    if (std::rename(name_.c_str(), target_.c_str()) != 0) refuse(target_, "cannot be replaced");
    renamed_ = true;
    const int folder = open(folder_of(target_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder >= 0) {  // makes the rename itself durable, where the file system can
      fsync(folder);
      close(folder);
    }
  }

 private:
  path target_;
  std::string name_;
  int file_ = -1;
  bool renamed_ = false;
};

}  // namespace

std::string to_json(const Report& r) {
  nlohmann::ordered_json json;
  const auto number_or_null = [](const std::optional<double>& value) {
    return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json();
  };
  const auto text_or_null = [](const std::string& text) {
    return text.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json(text);
  };
  json["program"] = r.program;
  json["world_size"] = r.world_size;
  json["device"] = r.device;
  json["steps"] = r.steps;
  json["epochs"] = r.epochs;
  json["train_loss"] = number_or_null(r.train_loss);
  if (r.test_accuracy) json["test_accuracy"] = *r.test_accuracy;
  json["samples_per_second"] = r.samples_per_second;
  json["seconds_per_step"] = r.seconds_per_step;
  json["communication_seconds_per_step"] = r.communication_seconds_per_step;
  json["exposed_communication_seconds_per_step"] = r.exposed_communication_seconds_per_step;
  json["peak_memory_bytes"] = r.peak_memory_bytes;
  json["weights_sha256"] = text_or_null(r.weights_sha256);
  json["reduction"] = r.reduction;
  json["global_batch"] = r.global_batch;
  json["accumulate"] = r.accumulate;
  json["seed"] = r.seed;
  json["log"] = text_or_null(r.log);
  json["step_losses"] = r.step_losses;
  // Paths may hold bytes that are not UTF-8; they become U+FFFD rather than an exception.
  return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

void check_report_path(const path& target) { TemporaryFile probe(target); }

void write_report(const path& target, const Report& report) {
  TemporaryFile file(target);
  file.write(to_json(report));
  file.publish();
}

}  // namespace lockstep::launch
