#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "lockstep/distributed/process_group.h"
#include "lockstep/distributed/reduction_mode.h"

namespace lockstep::distributed {

struct NcclOptions {
  // Repeatable and bitwise hold NCCL to one algorithm, by NCCL_ALGO=Ring, NCCL_PROTO=Simple and
  // NCCL_NVLS_ENABLE=0, unless the environment sets these. NCCL reads them once in a process.
  ReductionMode mode = ReductionMode::kRepeatable;
  std::chrono::milliseconds timeout = ProcessGroup::kDefaultTimeout;
  // Told what is worth knowing and no error: one line at a time, on any thread.
  std::function<void(const std::string&)> log = nullptr;
};

// Why there can be no NCCL group of these ranks, each with its `device`, and what to do about it;
// empty if there can be one. Collective over `host`, and the same text on every rank.
std::string why_no_nccl(ProcessGroup& host, Device device);

// A group of `host`'s ranks whose device memory travels by NCCL: each rank has a GPU of its own,
// `device`. Collective. Host buffers go through `host` (mpi or threads), which the new group takes
// over.
//
// The ranks' hosts meet for every collective in `host`, ahead of the devices and off the calling
// thread: there calls are compared, late ranks missed, aborts heard. Then NCCL gets it, on a stream
// of its own behind the work that was issued when the collective was called. Work::wait() waits
// until that has happened on this rank and orders the device's later work behind the collective; it
// never waits for the device, and a transfer that fails later is reported by the next call.
// is_completed() and times() ask the device. A barrier is one of the hosts.
//
// Sums are added in NCCL's order, 16-bit floats rounded by each rank that they pass, and their
// minimum and maximum drop NaN; the bits are the same on all ranks. Canonical sums, and minimum and
// maximum of other floats, are as ProcessGroup says. Memory from allocate() is registered with
// NCCL.
//
// Throws DistributedError on every rank with what why_no_nccl() says, or if NCCL does not start.
std::shared_ptr<ProcessGroup> make_nccl_group(std::shared_ptr<ProcessGroup> host, Device device,
                                              const NcclOptions& options = {});

}  // namespace lockstep::distributed
