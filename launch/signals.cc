#include "lockstep/launch/signals.h"

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <thread>

#include <fmt/format.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "lockstep/engine/tensor/check.h"
#include "lockstep/launch/log.h"

namespace lockstep::launch {

struct SignalWatch::State {
  sigset_t previous{};
  int signals = -1;
  int stop = -1;
  std::atomic<bool> error_reported = false;
  std::thread thread;

  ~State() {
    if (signals >= 0) close(signals);
    if (stop >= 0) close(stop);
  }

  void run() {
    pollfd files[] = {{signals, POLLIN, 0}, {stop, POLLIN, 0}};
    while (poll(files, 2, -1) < 0 && errno == EINTR) {
    }
    if (files[1].revents != 0) return;
    signalfd_siginfo info{};
    if (read(signals, &info, sizeof(info)) == sizeof(info)) end(static_cast<int>(info.ssi_signo));
  }

  [[noreturn]] void end(int signal) {
    alarm(2);
    if (error_reported) std::_Exit(1);
    try {
      log::status("");
      log::error(fmt::format("terminated by signal {} ({}): a peer died or the job was cancelled",
                             signal, strsignal(signal)));
      log::flush();
    } catch (...) {  // the exit code still tells
    }
    std::_Exit(128 + signal);
  }
};

SignalWatch::SignalWatch() : state_(std::make_unique<State>()) {
  sigset_t watched;
  sigemptyset(&watched);
  sigaddset(&watched, SIGTERM);
  sigaddset(&watched, SIGINT);
  state_->signals = signalfd(-1, &watched, SFD_CLOEXEC);
  state_->stop = eventfd(0, EFD_CLOEXEC);
  check<Error>(state_->signals >= 0 && state_->stop >= 0, "[signals] cannot watch signals: {}",
               std::strerror(errno));
  pthread_sigmask(SIG_BLOCK, &watched, &state_->previous);
  try {
    state_->thread = std::thread([state = state_.get()] { state->run(); });
  } catch (...) {
    pthread_sigmask(SIG_SETMASK, &state_->previous, nullptr);
    throw;
  }
}

SignalWatch::~SignalWatch() {
  eventfd_write(state_->stop, 1);
  state_->thread.join();
  pthread_sigmask(SIG_SETMASK, &state_->previous, nullptr);
}

void SignalWatch::error_was_reported() noexcept { state_->error_reported = true; }

}  // namespace lockstep::launch
