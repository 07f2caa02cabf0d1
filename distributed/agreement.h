#pragma once

#include <string>
#include <vector>

#include "lockstep/distributed/process_group.h"
#include "lockstep/engine/tensor/tensor.h"

// Collective checks whose outcome is the same on every rank.
namespace lockstep::distributed {

// Every rank's text, by rank; longer ones are cut to about 1,000 bytes.
std::vector<std::string> exchange_texts(ProcessGroup& group, const std::string& text);

// Throws DistributedError on every rank if any rank's `problem` is not empty; the text names the
// ranks and quotes what they said.
void throw_together(ProcessGroup& group, const std::string& what, const std::string& problem);

// Throws DistributedError on every rank unless names, shapes and dtypes are the same everywhere.
void verify_same_model(ProcessGroup& group, const NamedTensors& parameters,
                       const NamedTensors& buffers);

}  // namespace lockstep::distributed
