#include "lockstep/distributed/activity.h"

#include <fstream>

#include "lockstep/engine/tensor/check.h"

namespace lockstep::distributed {
namespace {

constexpr int kStepBits = 56;

std::string words(Phase phase, int64_t step) {
  const std::string of = step >= 0 ? fmt::format(" of step {}", step) : "";
  switch (phase) {
    case Phase::kUnknown:
      break;
    case Phase::kStarting:
      return "before its first step";
    case Phase::kData:
      return "waiting for the data" + of;
    case Phase::kStep:
      return step >= 0 ? fmt::format("in step {}", step) : "in a step";
    case Phase::kBackward:
      return "in backward" + of;
    case Phase::kGradients:
      return "waiting for the gradients" + of;
    case Phase::kEvaluation:
      return step >= 0 ? fmt::format("evaluating after step {}", step) : "evaluating";
    case Phase::kEnding:
      return step >= 0 ? fmt::format("after step {}, its last", step) : "after its last step";
  }
  return "";
}

}  // namespace

void ActivityRecord::begin(Phase phase, int64_t step) {
  what.store(uint64_t{static_cast<uint8_t>(phase)} << kStepBits | static_cast<uint64_t>(step + 1),
             std::memory_order_relaxed);
  since.store(steady_nanoseconds(), std::memory_order_relaxed);
}

int64_t ActivityRecord::step() const {
  constexpr uint64_t kMask = (uint64_t{1} << kStepBits) - 1;
  return static_cast<int64_t>(what.load(std::memory_order_relaxed) & kMask) - 1;
}

Sighting look_at(const ActivityRecord& record, int rank, int pid) {
  Sighting seen;
  seen.rank = rank;
  seen.phase = static_cast<Phase>(record.what.load(std::memory_order_relaxed) >> kStepBits);
  seen.step = record.step();
  seen.call = record.call.load(std::memory_order_relaxed);
  const int64_t since = record.since.load(std::memory_order_relaxed);
  if (since != 0) seen.seconds = static_cast<double>(steady_nanoseconds() - since) * 1e-9;
  seen.process_state = state_of_process(pid);
  return seen;
}

std::string Sighting::str() const {
  std::string text;
  const std::string doing = words(phase, step);
  if (!doing.empty() && seconds >= 0.0) {
    text = fmt::format("it has been {} for {:.1f} s", doing, seconds);
  }
  if (process_state == 'T' || process_state == 't') {
    text += text.empty() ? "its process is stopped" : ", and its process is stopped";
  }
  return text;
}

char state_of_process(int pid) {
  if (pid <= 0) return 0;
  std::string line;
  std::getline(std::ifstream(fmt::format("/proc/{}/stat", pid)), line);
  const size_t name_ends = line.rfind(") ");  // the name may hold anything
  return name_ends == std::string::npos || name_ends + 2 >= line.size() ? char{0}
                                                                        : line[name_ends + 2];
}

}  // namespace lockstep::distributed
