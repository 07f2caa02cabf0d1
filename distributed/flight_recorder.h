#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "lockstep/distributed/collective.h"

namespace lockstep::distributed {

// A group's last collectives on this rank, kept in a ring that is made once. launch() is called by
// the issuing thread, the slots' times are set by whichever thread runs the collective, and any
// thread may look.
class FlightRecorder {
 public:
  static constexpr size_t kCapacity = 2000;

  class Slot {
   public:
    void launched(int64_t time) { launched_.store(time, std::memory_order_relaxed); }
    void started(int64_t time) { started_.store(time, std::memory_order_relaxed); }
    void finished(int64_t time, bool well) {
      failed_.store(!well, std::memory_order_relaxed);
      finished_.store(time, std::memory_order_release);
    }

   private:
    friend class FlightRecorder;
    Call call_;                                                       // under the recorder's mutex
    std::atomic<int64_t> launched_ = 0, started_ = 0, finished_ = 0;  // 0: not yet
    std::atomic<bool> failed_ = false;
  };

  struct Record {
    Call call;
    int64_t launched = 0, started = 0, finished = 0;  // steady clock, nanoseconds
    bool failed = false;
  };

  FlightRecorder() : slots_(kCapacity) {}

  // Gives the collective its sequence number, from 1. The slot is good until kCapacity later ones.
  Slot& launch(Collective& collective);

  std::vector<Record> records() const;                    // the oldest first
  std::optional<Record> record(uint64_t sequence) const;  // unless it is gone

  // As JSON, by rename; docs/diagnosis.md describes it. Throws DataError.
  void write(const std::filesystem::path& file, int rank, int size, std::string_view group,
             const std::string& reason) const;

 private:
  Record read(const Slot& slot) const;

  mutable std::mutex mutex_;
  std::vector<Slot> slots_;
  uint64_t launched_ = 0;
};

}  // namespace lockstep::distributed
