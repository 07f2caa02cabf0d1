#include "lockstep/distributed/process_group.h"

#include <utility>

#include "lockstep/distributed/collective.h"

// The public calls check their arguments once, for every implementation.
namespace lockstep::distributed {

Work ProcessGroup::all_reduce(Buffer buffer, ReduceOp op, Launch launch) {
  const Collective c{CollectiveKind::kAllReduce, buffer, buffer, op};
  check_arguments(c, rank_, size_);
  return issue(c, launch);
}

Work ProcessGroup::broadcast(Buffer buffer, int root, Launch launch) {
  const Collective c{CollectiveKind::kBroadcast, buffer, buffer, ReduceOp::kSum, root};
  check_arguments(c, rank_, size_);
  return issue(c, launch);
}

Work ProcessGroup::reduce_scatter(Buffer out, Buffer in, ReduceOp op, Launch launch) {
  const Collective c{CollectiveKind::kReduceScatter, in, out, op};
  check_arguments(c, rank_, size_);
  return issue(c, launch);
}

Work ProcessGroup::all_gather(Buffer out, Buffer in, Launch launch) {
  const Collective c{CollectiveKind::kAllGather, in, out};
  check_arguments(c, rank_, size_);
  return issue(c, launch);
}

Work ProcessGroup::all_to_all(Buffer out, Buffer in, Launch launch) {
  const Collective c{CollectiveKind::kAllToAll, in, out};
  check_arguments(c, rank_, size_);
  return issue(c, launch);
}

Work ProcessGroup::canonical_sum(Buffer slots, std::shared_ptr<const CanonicalPlan> plan,
                                 Launch launch) {
  Collective c{CollectiveKind::kCanonicalSum, slots, slots};
  c.plan = std::move(plan);
  check_arguments(c, rank_, size_);
  return issue(c, launch);
}

Work ProcessGroup::barrier(Launch launch) {
  return issue(Collective{CollectiveKind::kBarrier, {}, {}}, launch);
}

}  // namespace lockstep::distributed
