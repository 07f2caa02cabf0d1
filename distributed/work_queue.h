#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "lockstep/distributed/flight_recorder.h"
#include "lockstep/distributed/process_group.h"

namespace lockstep::distributed {

// Runs the collectives of one rank one after the other, in the order in which they were issued, on
// a communication thread that sleeps when there is nothing to do (and is only started by the first
// asynchronous call). A blocking call that finds the queue empty runs in the caller instead.
class WorkQueue {
 public:
  explicit WorkQueue(std::string thread_name) : thread_name_(std::move(thread_name)) {}
  ~WorkQueue() { drain_and_join(); }
  WorkQueue(const WorkQueue&) = delete;
  WorkQueue& operator=(const WorkQueue&) = delete;

  // If `run` throws, the work's wait() throws DistributedError with that text; so does a blocking
  // launch. `slot`, if any, is told the times.
  Work launch(std::function<void()> run, Launch how, FlightRecorder::Slot* slot = nullptr);

  bool is_idle();  // at this moment

  // True in the thread of any queue: there, waiting must leave the core to the thread that
  // computes.
  static bool on_communication_thread();

  // Completes everything that is queued and ends the thread.
  void drain_and_join();

 private:
  class Item;

  void run_thread();

  const std::string thread_name_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::shared_ptr<Item>> items_;
  bool running_ = false;  // an item is being executed, by whichever thread
  bool closed_ = false;
  std::thread thread_;
};

}  // namespace lockstep::distributed
