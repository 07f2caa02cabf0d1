#include "lockstep/distributed/process_group.h"

#include <utility>

#include "lockstep/distributed/collective.h"
#include "lockstep/distributed/flight_recorder.h"
#include "lockstep/engine/tensor/check.h"

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
  for (const auto& copy : duplicates()) copy->set_activity(phase, step);
}

void ProcessGroup::set_timeout(std::chrono::milliseconds timeout) {
  for (const auto& copy : duplicates()) copy->set_timeout(timeout);
}

void ProcessGroup::on_failure(const FailureHandler&) {}

// The barrier finds the rank that does not come to it; whatever follows has no clock.
std::shared_ptr<ProcessGroup> ProcessGroup::duplicate() {
  {
    const LabelScope label(*this, Label("a duplicate of the group"));
    barrier(Launch::kBlocking).wait();
  }
  auto copy = make_duplicate();
  copy->set_activity(phase_, step_);
  const std::lock_guard lock(mutex_);
  duplicates_.push_back(copy);
  return copy;
}

std::shared_ptr<ProcessGroup> ProcessGroup::make_duplicate() {
  fail<Error>("[process group] there are no duplicates of a {} group", name());
}

std::vector<std::shared_ptr<ProcessGroup>> ProcessGroup::duplicates() {
  const std::lock_guard lock(mutex_);
  std::erase_if(duplicates_, [](const auto& copy) { return copy.expired(); });
  std::vector<std::shared_ptr<ProcessGroup>> living;
  for (const auto& copy : duplicates_) {
    if (auto one = copy.lock()) living.push_back(std::move(one));
  }
  return living;
}

void ProcessGroup::abort_duplicates(const std::string& reason) noexcept {
  try {
    for (const auto& copy : duplicates()) copy->abort(reason);
  } catch (...) {  // no memory: they will find out by themselves
  }
}

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
