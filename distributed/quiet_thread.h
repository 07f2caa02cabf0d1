#pragma once

#include <thread>
#include <utility>

#include <pthread.h>
#include <signal.h>

namespace lockstep::distributed {

// A thread that takes no signals: they are for the threads that know what to do with them.
template <typename Body>
std::thread start_quiet_thread(Body&& body) {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    std::thread thread(std::forward<Body>(body));
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return thread;
  } catch (...) {
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    throw;
  }
}

}  // namespace lockstep::distributed
