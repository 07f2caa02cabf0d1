#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

namespace lockstep::distributed {

// Calls a function every so often, in a thread of its own, until it is destroyed or the function
// returns false. What the function throws ends it too.
class Ticker {
 public:
  Ticker(const std::string& thread_name, std::chrono::milliseconds period,
         std::function<bool()> tick);
  ~Ticker();  // waits for a tick that is under way
  Ticker(const Ticker&) = delete;
  Ticker& operator=(const Ticker&) = delete;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace lockstep::distributed
