#pragma once

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

}  // namespace lockstep::distributed
