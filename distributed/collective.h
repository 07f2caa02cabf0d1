#pragma once

#include <cstdint>
#include <memory>
#include <string>

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
};

// What has to be equal on all ranks; trivially copyable, so that it can lie in shared memory or
// travel in a message.
struct Signature {
  uint64_t sequence = 0;
  int64_t count = 0;
  int64_t leaves = 0;  // of a canonical sum
  int32_t root = 0;
  CollectiveKind kind = CollectiveKind::kBarrier;
  ReduceOp op = ReduceOp::kSum;
  DType dtype = DType::kFloat32;

  std::string str() const;  // "all_reduce(sum) of 100 float32, call 7"
  friend bool operator==(const Signature&, const Signature&) = default;
};

Signature signature_of(const Collective& collective, uint64_t sequence);

// Throws DistributedError naming both sides unless they are equal.
void check_same(const Signature& mine, int my_rank, const Signature& theirs, int their_rank);

// Throws ValueError if the arguments cannot be right on any rank of a group of `size`.
void check_arguments(const Collective& collective, int rank, int size);

// Copies in to out as a world of one does.
void copy_in_to_out(const Collective& collective);

}  // namespace lockstep::distributed
