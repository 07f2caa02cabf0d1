#include "lockstep/launch/progress.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "lockstep/launch/log.h"

namespace lockstep::launch {
namespace {

using namespace std::chrono_literals;

constexpr auto kRedraw = 100ms;
constexpr auto kLineEvery = 10s;
constexpr int kWidestBar = 40;
constexpr int kNarrowestBar = 8;

std::string tail(const ProgressState& s, const char* separator) {
  std::string text;
  if (s.loss) text += fmt::format("{}loss {:.4f}", separator, *s.loss);
  text += fmt::format("{}{:.0f} samples/s{}{} left", separator, s.samples_per_second, separator,
                      format_duration(s.seconds_left));
  return text;
}

int columns_of(int file) {
  winsize size{};
  if (isatty(file) == 0) return 0;
  return ioctl(file, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

}  // namespace

std::string format_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0.0) return "?";
  const auto whole = static_cast<int64_t>(std::min(std::round(seconds), 3.6e8));
  const int64_t hours = whole / 3600, minutes = whole / 60 % 60, rest = whole % 60;
  if (hours > 0) return fmt::format("{}:{:02d}:{:02d}", hours, minutes, rest);
  return fmt::format("{}:{:02d}", minutes, rest);
}

std::string format_bar(const ProgressState& s, int width) {
  const std::string head = fmt::format("epoch {}/{} ", s.epoch + 1, s.epochs);
  const std::string count = fmt::format("{}/{}", s.step, s.steps) + tail(s, "  ");
  // Two brackets and a blank surround the bar; the last column stays free, or some terminals wrap.
  const int room = width - 1 - static_cast<int>(head.size() + count.size()) - 3;
  std::string bar;
  if (room >= kNarrowestBar) {
    const int length = std::min(room, kWidestBar);
    const auto done = static_cast<int>(length * std::clamp<int64_t>(s.step, 0, s.steps) /
                                       std::max<int64_t>(s.steps, 1));
    bar = std::string(static_cast<size_t>(done), '=');
    if (done < length) bar += '>';
    bar.resize(static_cast<size_t>(length), ' ');
    bar = "[" + bar + "] ";
  }
  return (head + bar + count).substr(0, static_cast<size_t>(std::max(width - 1, 0)));
}

std::string format_line(const ProgressState& s) {
  return fmt::format("epoch {}/{}, step {}/{}", s.epoch + 1, s.epochs, s.step, s.steps) +
         tail(s, ", ");
}

int terminal_columns() {
  if (const int columns = columns_of(STDERR_FILENO); columns > 0) return columns;
  if (std::getenv("OMPI_COMM_WORLD_RANK") == nullptr) return 0;
  std::error_code error;
  const auto target =
      std::filesystem::read_symlink(fmt::format("/proc/{}/fd/2", getppid()), error).string();
  if (error || (target.rfind("/dev/pts/", 0) != 0 && target.rfind("/dev/tty", 0) != 0)) return 0;
  const int file = open(target.c_str(), O_RDONLY | O_NOCTTY | O_CLOEXEC);
  if (file < 0) return 0;
  const int columns = columns_of(file);
  close(file);
  return columns;
}

Progress::~Progress() {
  if (options_.columns == 0) return;
  try {
    log::status("");
  } catch (...) {  // the terminal is gone; so is the bar
  }
}

void Progress::update(int64_t steps_done, std::optional<double> loss, int64_t samples_done,
                      std::chrono::duration<double> training, Clock::time_point now) {
  if (steps_done < 1) return;
  if (loss) {
    epoch_loss_sum_ += *loss;
    ++epoch_losses_;
  }
  const int64_t per_epoch = options_.steps_per_epoch;
  ProgressState state;
  state.epoch = (steps_done - 1) / per_epoch;
  state.epochs = (options_.total_steps + per_epoch - 1) / per_epoch;
  state.step = steps_done - state.epoch * per_epoch;
  state.steps = std::min(per_epoch, options_.total_steps - state.epoch * per_epoch);
  state.loss = loss;
  const double seconds = std::max(training.count(), 1e-9);
  state.samples_per_second = static_cast<double>(samples_done) / seconds;
  state.seconds_left = seconds / static_cast<double>(steps_done) *
                       static_cast<double>(options_.total_steps - steps_done);

  if (state.step == state.steps) {
    end_epoch(state, training);
    drawn_ = now;
    return;
  }
  if (options_.columns > 0) {
    if (drawn_ && now - *drawn_ < kRedraw) return;
    log::status(format_bar(state, options_.columns));
    drawn_ = now;
  } else {
    if (!drawn_) drawn_ = now;  // the first line comes after ten seconds
    if (now - *drawn_ < kLineEvery) return;
    log::info(format_line(state));
    drawn_ = now;
  }
}

void Progress::end_epoch(const ProgressState& state, std::chrono::duration<double> training) {
  std::string text =
      fmt::format("epoch {}/{}: {} steps", state.epoch + 1, state.epochs, state.steps);
  if (epoch_losses_ > 0) {
    text += fmt::format(", mean loss {:.4f}", epoch_loss_sum_ / static_cast<double>(epoch_losses_));
  }
  text += fmt::format(", {:.0f} samples/s, {}", state.samples_per_second,
                      format_duration((training - epoch_start_).count()));
  if (options_.columns > 0) log::status("");
  log::info(text);
  epoch_loss_sum_ = 0.0;
  epoch_losses_ = 0;
  epoch_start_ = training;
}

}  // namespace lockstep::launch
