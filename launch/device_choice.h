#pragma once

#include <string>

#include "lockstep/engine/tensor/device.h"

namespace lockstep::launch {

// The device of a rank: `--device` as given ("cpu" or "cuda"), `local_rank` among the ranks of its
// machine (-1: the launcher does not say), `devices` how many GPUs it sees. One GPU per rank; ranks
// beyond the last GPU share them in turns. A launcher that shows each rank a GPU of its own
// (CUDA_VISIBLE_DEVICES) is right, too. Throws Error if there is no GPU, saying `why`.
Device choose_device(const std::string& flag, int local_rank, int devices, const std::string& why);

// The same for this process; looks for GPUs only if asked for one.
Device choose_device(const std::string& flag, int local_rank);

}  // namespace lockstep::launch
