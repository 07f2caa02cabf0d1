#include "lockstep/distributed/process_group.h"

#include <utility>

#include "lockstep/distributed/collective.h"
#include "lockstep/distributed/flight_recorder.h"

// The public calls check their arguments once, for every implementation.
namespace lockstep::distributed {

ProcessGroup::ProcessGroup(int rank, int size) : rank_(rank), size_(size) {}

ProcessGroup::~ProcessGroup() = default;

Label ProcessGroup::current_label() const {
  Label label = label_;
  label.step = step_;
  return label;
}

void ProcessGroup::set_activity(Phase phase, int64_t step) {
  phase_ = phase;
  step_ = step;
  if (ActivityRecord* record = activity()) record->begin(phase, step);
}

void ProcessGroup::set_timeout(std::chrono::milliseconds) {}  // there is nobody to wait for

void ProcessGroup::on_failure(const FailureHandler&) {}

void ProcessGroup::write_flight_record(const std::filesystem::path& file,
                                       const std::string& reason) const {
  if (const FlightRecorder* kept = recorder()) kept->write(file, rank_, size_, name(), reason);
}

Work ProcessGroup::all_reduce(Buffer buffer, ReduceOp op, Launch launch) {
  Collective c{CollectiveKind::kAllReduce, buffer, buffer, op};
  check_arguments(c, rank_, size_);
  c.label = current_label();
  return issue(c, launch);
}

Work ProcessGroup::broadcast(Buffer buffer, int root, Launch launch) {
  Collective c{CollectiveKind::kBroadcast, buffer, buffer, ReduceOp::kSum, root};
  check_arguments(c, rank_, size_);
  c.label = current_label();
  return issue(c, launch);
}

Work ProcessGroup::reduce_scatter(Buffer out, Buffer in, ReduceOp op, Launch launch) {
  Collective c{CollectiveKind::kReduceScatter, in, out, op};
  check_arguments(c, rank_, size_);
  c.label = current_label();
  return issue(c, launch);
}

Work ProcessGroup::all_gather(Buffer out, Buffer in, Launch launch) {
  Collective c{CollectiveKind::kAllGather, in, out};
  check_arguments(c, rank_, size_);
  c.label = current_label();
  return issue(c, launch);
}

Work ProcessGroup::all_to_all(Buffer out, Buffer in, Launch launch) {
  Collective c{CollectiveKind::kAllToAll, in, out};
  check_arguments(c, rank_, size_);
  c.label = current_label();
  return issue(c, launch);
}

Work ProcessGroup::canonical_sum(Buffer slots, std::shared_ptr<const CanonicalPlan> plan,
                                 Launch launch) {
  Collective c{CollectiveKind::kCanonicalSum, slots, slots};
  c.plan = std::move(plan);
  check_arguments(c, rank_, size_);
  c.label = current_label();
  return issue(c, launch);
}

Work ProcessGroup::barrier(Launch launch) {
  Collective c{CollectiveKind::kBarrier, {}, {}};
  c.label = current_label();
  return issue(c, launch);
}

}  // namespace lockstep::distributed
