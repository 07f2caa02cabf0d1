#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

namespace lockstep::launch {

// Where a job stands, as shown to its user.
struct ProgressState {
  int64_t epoch = 0;           // from 0
  int64_t epochs = 1;          // in the whole job, a partial last one included
  int64_t step = 0;            // done in this epoch
  int64_t steps = 1;           // of this epoch
  std::optional<double> loss;  // of the last step
  double samples_per_second = 0.0;
  double seconds_left = 0.0;  // of the job
};

// "epoch 1/4 [=====>    ] 123/468  loss 0.4321  12345 samples/s  0:42 left" in at most `width`
// columns: the bar shrinks first, then goes, then the end of the text.
std::string format_bar(const ProgressState& state, int width);
// The same as a plain line for logs.
std::string format_line(const ProgressState& state);
std::string format_duration(double seconds);  // "0:07", "12:34", "1:02:03"

// How wide the terminal is that shows standard error, or 0 if it is not a terminal. Open MPI's
// mpirun hands its ranks a pipe and copies it to its own standard error, so there the launcher's is
// looked at.
int terminal_columns();

// Shows the progress of a job: one redrawn line on a terminal, else a line every ten seconds; on
// both a line at the end of each epoch. Only rank 0 should have one.
class Progress {
 public:
  using Clock = std::chrono::steady_clock;
  struct Options {
    int64_t steps_per_epoch = 1;
    int64_t total_steps = 1;
    int columns = 0;  // of the terminal; 0: plain lines
  };

  explicit Progress(Options options) : options_(options) {}
  ~Progress();  // takes the bar away
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // After each step. `training` is the time spent training so far, from which the rate is computed
  // (evaluations in between do not count); `now` decides when to draw.
  void update(int64_t steps_done, std::optional<double> loss, int64_t samples_done,
              std::chrono::duration<double> training, Clock::time_point now = Clock::now());

 private:
  void end_epoch(const ProgressState& state, std::chrono::duration<double> training);

  Options options_;
  std::optional<Clock::time_point> drawn_;
  double epoch_loss_sum_ = 0.0;
  int64_t epoch_losses_ = 0;
  std::chrono::duration<double> epoch_start_{0};
};

}  // namespace lockstep::launch
