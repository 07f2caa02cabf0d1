#pragma once

#include <string>
#include <vector>

#include "lockstep/distributed/process_group.h"

namespace lockstep::launch {

// Collective: gives each rank its part of the cores that it may run on. Ranks of one machine with
// the same affinity mask (an mpirun that binds to nothing) divide it; a mask that a launcher cut to
// size is used whole. OMP_NUM_THREADS, where set, is left alone; if it holds no number, the first
// rank that has it so says in the log what is used instead.
void share_cores(distributed::ProcessGroup& group);

// The arithmetic: `places` is every rank's machine and mask, `cores` how many this rank's mask has.
int threads_of(const std::vector<std::string>& places, int rank, int cores);

}  // namespace lockstep::launch
