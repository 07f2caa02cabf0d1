#include "lockstep/distributed/ticker.h"

#include "lockstep/distributed/quiet_thread.h"

namespace lockstep::distributed {

Ticker::Ticker(const std::string& thread_name, std::chrono::milliseconds period,
               std::function<bool()> tick) {
  thread_ = start_quiet_thread([this, thread_name, period, tick = std::move(tick)] {
    pthread_setname_np(pthread_self(), thread_name.substr(0, 15).c_str());
    std::unique_lock lock(mutex_);
    while (!changed_.wait_for(lock, period, [this] { return stopping_; })) {
      lock.unlock();
      try {
        if (!tick()) return;
      } catch (...) {
        return;
      }
      lock.lock();
    }
  });
}

Ticker::~Ticker() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

}  // namespace lockstep::distributed
