#pragma once

#include <span>

#include "lockstep/distributed/activity.h"
#include "lockstep/distributed/collective.h"
#include "lockstep/distributed/flight_recorder.h"

namespace lockstep::distributed {

// For a rank that has waited in `call` for longer than it should: throws DistributedError, which
// names the ranks that it misses, what they took part in last (by this rank's own records, for
// those calls were the same), and what they were last seen doing. Without any the call stands still
// although all have come to it.
[[noreturn]] void fail_late(int my_rank, const Call& call, double seconds,
                            std::span<const Sighting> missing, const FlightRecorder& recorder);

}  // namespace lockstep::distributed
