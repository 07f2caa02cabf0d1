#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>

namespace lockstep::distributed {

// What a rank is doing, as a peer that misses it will want to be told.
enum class Phase : uint8_t {
  kUnknown,     // nobody has said
  kStarting,    // before the first step
  kData,        // waiting for the data of a step
  kStep,        // in a step's body
  kBackward,    // in a step's backward
  kGradients,   // waiting for the gradients of all ranks
  kEvaluation,  // evaluating
  kEnding,      // after the last step
};

// A rank's own account, where its peers can read it: only that rank writes, one word at a time.
// Zero bytes are its initial state. Times are those of the steady clock, in nanoseconds.
struct ActivityRecord {
  std::atomic<uint64_t> what;  // phase and step
  std::atomic<int64_t> since;  // when it began; 0: never said
  std::atomic<uint64_t> call;  // the last collective that the rank has come to

  void begin(Phase phase, int64_t step);
  int64_t step() const;
};

// What was read from a record; trivially copyable, so that it can travel.
struct Sighting {
  int32_t rank = 0;
  Phase phase = Phase::kUnknown;
  char process_state = 0;  // as in /proc/<pid>/stat; 0: not known
  bool silent = false;     // nothing is known: it was asked and did not answer
  int64_t step = -1;
  uint64_t call = 0;
  double seconds = -1.0;  // since it began what it does; negative: never said

  // "it has been in backward of step 12 for 2.3 s, and its process is stopped", or empty
  std::string str() const;
};
Sighting look_at(const ActivityRecord& record, int rank, int pid = 0);  // pid 0: not known

// 'T' (stopped), 'R', 'S', ...; 0 if it cannot be told.
char state_of_process(int pid);

inline int64_t steady_nanoseconds() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace lockstep::distributed
