#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "lockstep/distributed/process_group.h"
#include "lockstep/engine/tensor/tensor.h"
#include "lockstep/optim/optimizer.h"

namespace lockstep::distributed {

// A fast hash, good against accidents: any change within eight bytes changes it.
uint64_t fast_hash(const void* data, size_t bytes);

// Collective. Throws DistributedError on every rank unless all ranks have the same bits in all
// tensors; the text begins with `when`, names tensor and ranks, and says where they differ. The
// ranks pass the same names in the same order; an undefined tensor equals an undefined one. Costs
// one pass over the memory and, if all is well, an all-gather of two numbers.
void check_lockstep(ProcessGroup& group, const NamedTensors& tensors, const std::string& when);

// What an optimizer remembers, with names made from those of the parameters: "exp_avg of
// fc.weight".
NamedTensors optimizer_tensors(const optim::Optimizer& optimizer, const NamedTensors& parameters);

}  // namespace lockstep::distributed
