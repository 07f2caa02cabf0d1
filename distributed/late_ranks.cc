#include "lockstep/distributed/late_ranks.h"

#include "lockstep/engine/tensor/check.h"

namespace lockstep::distributed {
namespace {

std::string describe(const Sighting& seen, const Call& call, const FlightRecorder& recorder) {
  std::string text = fmt::format("rank {} ", seen.rank);
  const bool here = !seen.silent && seen.call >= call.signature.sequence;
  text += here          ? "has come to it, but does not go on"
          : seen.silent ? "has not arrived and does not answer"
                        : "has not arrived";
  if (!here) {
    // A silent one took part in what this rank has finished.
    const uint64_t last = seen.silent ? call.signature.sequence - 1 : seen.call;
    const auto record = recorder.record(last);
    if (record && record->finished != 0) {
      text += fmt::format("; its last call was {}, {}, {:.1f} s ago", last, record->call.str(),
                          static_cast<double>(steady_nanoseconds() - record->finished) * 1e-9);
    } else if (last == 0) {
      text += "; it has made no call yet";
    } else {
      text += fmt::format("; its last call was {}", last);
    }
  }
  const std::string doing = seen.str();
  return doing.empty() ? text : text + "; " + doing;
}

}  // namespace

void fail_late(int my_rank, const Call& call, double seconds, std::span<const Sighting> missing,
               const FlightRecorder& recorder) {
  std::string text;
  for (const Sighting& seen : missing) {
    text += (text.empty() ? "" : ". Also ") + describe(seen, call, recorder);
  }
  if (text.empty()) text = "all ranks have come to it, but the transfer stands still";
  fail<DistributedError>("[rank {}] call {}, {}, has waited for {:.1f} s: {}", my_rank,
                         call.signature.sequence, call.str(), seconds, text);
}

}  // namespace lockstep::distributed
