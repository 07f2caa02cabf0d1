#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lockstep/distributed/label.h"
#include "lockstep/distributed/process_group.h"

namespace lockstep::distributed {

enum class CollectiveKind : uint8_t {
  kAllReduce,
  kBroadcast,
  kReduceScatter,
  kAllGather,
  kAllToAll,
  kCanonicalSum,
  kBarrier,
  kAllocate,  // in.count bytes
};

// One call. Calls in place have in == out; a barrier has neither.
struct Collective {
  CollectiveKind kind = CollectiveKind::kBarrier;
  Buffer in;
  Buffer out;
  ReduceOp op = ReduceOp::kSum;
  int root = 0;
  std::shared_ptr<const CanonicalPlan> plan = nullptr;  // of a canonical sum
  uint64_t sequence = 0;  // counts the group's calls; given by the flight recorder
  Label label{};
  // Where another group moves the data (ProcessGroup::start()): what each rank does once all have
  // come to the call. The buffers are then not looked at, and may be on any device.
  std::function<void(const Collective&)> then = nullptr;
};

// What has to be equal on all ranks; trivially copyable, so that it can lie in shared memory or
// travel in a message.
struct Signature {
  uint64_t sequence = 0;
  int64_t count = 0;
  int64_t leaves = 0;  // of a canonical sum
  uint64_t label_hash = 0;
  int32_t root = 0;
  CollectiveKind kind = CollectiveKind::kBarrier;
  ReduceOp op = ReduceOp::kSum;
  DType dtype = DType::kFloat32;

  uint64_t hash() const;
  friend bool operator==(const Signature&, const Signature&) = default;
};

// What a rank shows to its peers: the part that is compared, and the words for it.
struct Call {
  Signature signature;
  Label label;

  // "all_reduce(sum) of 100 float32 (step 3, bucket 0: fc.weight ... fc.bias)"
  std::string str() const;
};
Call call_of(const Collective& collective);
std::string_view name_of(CollectiveKind kind);
std::string_view name_of(ReduceOp op);
bool reduces(CollectiveKind kind);

// The ranks that issued one call; several ranks of a node, say.
struct Callers {
  std::vector<int> ranks;
  Call call;
};
// Throws DistributedError, which names every rank with its call. For calls that do not match.
[[noreturn]] void fail_mismatch(int my_rank, std::span<const Callers> all);

// "rank 1" or "ranks 0, 2, 3".
std::string name_ranks(std::vector<int> ranks);

// Throws ValueError if the arguments cannot be right on any rank of a group of `size`.
void check_arguments(const Collective& collective, int rank, int size);

// Copies in to out as a world of one does.
void copy_in_to_out(const Collective& collective);

}  // namespace lockstep::distributed
