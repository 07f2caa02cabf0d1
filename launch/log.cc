#include "lockstep/launch/log.h"

#include <cstdio>
#include <filesystem>
#include <memory>
#include <mutex>

#include <spdlog/logger.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/sinks/basic_file_sink.h>

#include "lockstep/engine/tensor/check.h"

namespace lockstep::launch::log {
namespace {

// Standard error with a status line below the messages.
class TerminalSink : public spdlog::sinks::base_sink<std::mutex> {
 public:
  void status(const std::string& text) {
    const std::lock_guard lock(mutex_);
    if (text.empty() && status_.empty()) return;
    status_ = text;
    write(kClearLine + status_);
  }

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    spdlog::memory_buf_t buffer;
    formatter_->format(message, buffer);
    const std::string line(buffer.data(), buffer.size());
    write(status_.empty() ? line : kClearLine + line + status_);
  }
  void flush_() override { std::fflush(stderr); }

 private:
  static inline const std::string kClearLine = "\r\x1b[K";

  // One call per message, so that lines of several ranks on one pipe do not mix.
  static void write(const std::string& text) {
    std::fwrite(text.data(), 1, text.size(), stderr);
    std::fflush(stderr);
  }

  std::string status_;
};

class Log {
 public:
  Log() { rebuild(); }

  void start(const Settings& settings) {
    std::string file;
    std::shared_ptr<spdlog::sinks::basic_file_sink_mt> sink;
    if (!settings.directory.empty()) {
      std::error_code error;
      std::filesystem::create_directories(settings.directory, error);
      check<Error>(!error, "[log] --log-dir {}: cannot be created: {}", settings.directory,
                   error.message());
      file = fmt::format("{}/rank_{:04d}.log", settings.directory, settings.rank);
      try {
        sink = std::make_shared<spdlog::sinks::basic_file_sink_mt>(file);
      } catch (const spdlog::spdlog_ex& e) {
        fail<Error>("[log] {}: cannot be written: {}", file, e.what());
      }
    }
    const std::lock_guard lock(mutex_);
    settings_ = settings;
    started_ = true;
    file_ = std::move(file);
    file_sink_ = std::move(sink);
    rebuild();
  }

  void write(spdlog::level::level_enum level, const std::string& text) {
    logger()->log(level, spdlog::string_view_t(text));
  }
  void status(const std::string& text) { terminal_->status(text); }
  void flush() { logger()->flush(); }

  std::string file() {
    const std::lock_guard lock(mutex_);
    return file_;
  }

 private:
  std::shared_ptr<spdlog::logger> logger() {
    const std::lock_guard lock(mutex_);
    return logger_;
  }

  std::string prefix() const {
    if (!started_) return "";
    if (settings_.size == 0) return fmt::format("[rank {}] ", settings_.rank);
    return fmt::format("[rank {}/{}] ", settings_.rank, settings_.size);
  }

  void rebuild() {
    const auto formatter = [](const std::string& pattern) {
      return std::make_unique<spdlog::pattern_formatter>(pattern);
    };
    terminal_->set_level(settings_.rank == 0 ? spdlog::level::info : spdlog::level::warn);
    terminal_->set_formatter(formatter(prefix() + "%v"));
    logger_ = std::make_shared<spdlog::logger>("lockstep", terminal_);
    if (file_sink_) {
      file_sink_->set_formatter(formatter("%Y-%m-%d %H:%M:%S.%e [%l] " + prefix() + "%v"));
      logger_->sinks().push_back(file_sink_);
    }
    logger_->flush_on(spdlog::level::info);
  }

  std::mutex mutex_;
  Settings settings_;
  bool started_ = false;
  std::string file_;
  std::shared_ptr<TerminalSink> terminal_ = std::make_shared<TerminalSink>();
  std::shared_ptr<spdlog::sinks::basic_file_sink_mt> file_sink_;
  std::shared_ptr<spdlog::logger> logger_;
};

// Never destroyed: a thread may still log while the process ends.
Log& instance() {
  static Log* const log = new Log;
  return *log;
}

}  // namespace

void start(const Settings& settings) { instance().start(settings); }
void info(const std::string& text) { instance().write(spdlog::level::info, text); }
void warn(const std::string& text) { instance().write(spdlog::level::warn, "warning: " + text); }
void error(const std::string& text) { instance().write(spdlog::level::err, "error: " + text); }
std::string file() { return instance().file(); }
void status(const std::string& text) { instance().status(text); }

void flush() noexcept {
  try {
    instance().flush();
  } catch (...) {  // nothing is left to tell it to
  }
}

}  // namespace lockstep::launch::log
