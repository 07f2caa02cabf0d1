#pragma once

#include <array>
#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include <mpi.h>

#include "lockstep/distributed/canonical_sum.h"
#include "lockstep/distributed/collective.h"
#include "lockstep/distributed/node_layout.h"

namespace lockstep::distributed {

// The part of a collective that travels between nodes, by non-blocking MPI calls that are tested
// between short sleeps. Replaceable: nothing else knows how bytes cross the network.
class AcrossNodes {
 public:
  // What an all-reduce sends in one message, at most. Open MPI sends up to 64 KiB over TCP at once,
  // header included; above, it asks the receiver first, and question and answer wait behind the
  // data that fills the link in both directions: that cost a third of the bandwidth.
  static constexpr size_t kPieceBytes = size_t{32} << 10;

  // `check_abort` is called while waiting and throws to end the wait. `leaders` consists of the
  // first rank of each node (null elsewhere). The communicators stay the caller's. After an
  // exception messages may be under way still: then never destroy it.
  AcrossNodes(MPI_Comm comm, MPI_Comm leaders, NodeLayout layout,
              std::function<void()> check_abort);
  ~AcrossNodes();
  AcrossNodes(const AcrossNodes&) = delete;
  AcrossNodes& operator=(const AcrossNodes&) = delete;

  // Compares the ranks' calls over all nodes; the first rank of each node does the talking, with
  // whether those of its node are the same, and if need be what they are. Throws DistributedError
  // on all of these, naming every rank's call, if they differ.
  void compare(const Call& call, bool same, const std::function<std::vector<Call>()>& calls);

  // regions[i] is the contribution of this node's i-th rank; all end with the reduction over all
  // ranks in reduction_order(), once all ranks of the node have returned. The data travels in
  // blocks of `block` elements: a node may pass them one per call, where another passes all at
  // once.
  void all_reduce(DType dtype, ReduceOp op, std::span<std::byte* const> regions, int64_t count,
                  int64_t block);

  // The canonical sum over all ranks: regions[i] is the slots of this node's i-th rank, `count`
  // elements each, and slot 0 of each ends with the sum, once all ranks of the node have returned.
  // The data travels in blocks of `block` elements of a slot.
  void canonical_sum(const CanonicalPlan& plan, DType dtype, std::span<std::byte* const> regions,
                     int64_t count, int64_t block);

  // Any other collective, among all ranks.
  void run(const Collective& collective);

 private:
  class Chain;
  class Tree;
  struct Message {
    std::byte* data;
    size_t bytes;
    int peer;
  };

  int rank() const { return layout_.rank(); }
  void exchange(std::span<const Message> sends, std::span<const Message> receives);
  void finish(std::span<MPI_Request> requests);

  MPI_Comm comm_;
  MPI_Comm leaders_;
  const NodeLayout layout_;
  std::function<void()> check_abort_;

  // What messages are received into. Never the stack: after an abort they may still arrive.
  std::vector<std::byte> buffers_;   // of the chain
  std::vector<std::byte> parts_;     // of a reduce_scatter
  std::vector<std::byte> subtrees_;  // of a canonical sum
  std::array<uint64_t, 2> hashes_{};
  std::vector<Call> calls_, all_calls_;
};

}  // namespace lockstep::distributed
