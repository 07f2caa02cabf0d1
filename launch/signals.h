#pragma once

#include <memory>

namespace lockstep::launch {

// While it lives, SIGTERM and SIGINT end this process with one line in the log that says so and
// with exit code 128 + signal: a launcher sends them to the ranks that are left when one has died.
// They are taken by a thread of its own with everything else blocked, so the line may be written by
// ordinary means; an alarm ends the process should even that hang.
//
// Create it before any other thread, for threads inherit which signals are blocked.
class SignalWatch {
 public:
  SignalWatch();
  ~SignalWatch();
  SignalWatch(const SignalWatch&) = delete;
  SignalWatch& operator=(const SignalWatch&) = delete;

  // This rank has told its own error: the signals that follow end it with code 1 and no more words.
  void error_was_reported() noexcept;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace lockstep::launch
