#pragma once

#include <memory>

#include "lockstep/distributed/process_group.h"

namespace lockstep::distributed {

// A group for tensors on GPUs over one that knows host memory only: every collective copies what it
// sends to the host, where `inner` does the work, and what it receives back. Host buffers pass
// straight through. Several ranks may share a GPU; where each has its own, NCCL is faster.
//
// Issuing a collective waits until the device has finished what it was given before and the data
// has been copied; the collective itself runs beside what follows. Work::wait() copies the result
// back, so it is not there before. Memory from allocate() has a twin in `inner`'s memory; other
// buffers are staged in memory of the call's own.
std::shared_ptr<ProcessGroup> make_staged_group(std::shared_ptr<ProcessGroup> inner);

}  // namespace lockstep::distributed
