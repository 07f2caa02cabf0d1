#pragma once

#include <memory>

#include "lockstep/distributed/process_group.h"

namespace lockstep::distributed {

// A group for tensors on GPUs over one that knows host memory only: every collective copies what it
// sends to the host, where `inner` does the work, and what it receives back. Host buffers pass
// straight through. Several ranks may share a GPU; where each has its own, NCCL is faster.
//
// Issuing a collective does not wait for the device. A thread of the group does, runs the
// collective, and has the result copied back, all of it beside what the device computes.
// Work::wait() waits for the host's part and orders the device's later work behind the copy. Memory
// from allocate() has a twin in `inner`'s memory, which is pinned where it can be; other buffers
// are staged in pinned memory of the call's own, and copied back by Work::wait().
std::shared_ptr<ProcessGroup> make_staged_group(std::shared_ptr<ProcessGroup> inner);

}  // namespace lockstep::distributed
