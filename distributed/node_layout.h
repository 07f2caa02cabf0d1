#pragma once

#include <vector>

#include <mpi.h>

namespace lockstep::distributed {

// Which rank lives where. Nodes are ordered by their lowest rank, a node's ranks ascend.
struct NodeLayout {
  std::vector<std::vector<int>> nodes;  // the ranks of each node
  int node = 0;                         // of this rank
  int index = 0;                        // of this rank, within its node

  int rank() const;        // of this one
  int world_size() const;  // all ranks
  // Ranks of a node that talk to other nodes at the same time: as many as the smallest node has.
  int channels() const;
  // The order in which contributions are combined: node by node. Equal to rank order where the
  // launcher places ranks in blocks.
  std::vector<int> reduction_order() const;
};

// The ranks that share memory with this one, by rank; collective. LOCKSTEP_RANKS_PER_NODE cuts a
// machine into nodes of that many.
MPI_Comm node_of(MPI_Comm world);
NodeLayout layout_of(MPI_Comm world, MPI_Comm node);

}  // namespace lockstep::distributed
