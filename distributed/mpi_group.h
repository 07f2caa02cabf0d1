#pragma once

#include <chrono>
#include <memory>

#include "lockstep/distributed/process_group.h"

namespace lockstep::distributed {

// All ranks of the MPI job. Collective. Needs mpi_runtime::initialize() and must be destroyed
// before mpi_runtime::finalize(); memory from allocate() may outlive both. CPU buffers only.
//
// Ranks of one node reduce in place in shared memory if the buffer lies in memory from allocate();
// other buffers are copied through a staging area. Ranks on different nodes exchange slices.
// LOCKSTEP_RANKS_PER_NODE=k treats every k ranks of a machine as a node of their own, to try the
// path between nodes on one machine. Throws DistributedError.
std::shared_ptr<ProcessGroup> make_mpi_group();

// For a rank that has failed and reported it: waits until every peer has called this too or is
// gone, so that a launcher that ends the job with its first rank cuts nobody short. False if
// `timeout` came first. Other kinds of groups: returns true at once. See mpi_runtime.h.
bool wait_for_peers_to_fail(ProcessGroup& group, std::chrono::milliseconds timeout) noexcept;

}  // namespace lockstep::distributed
