#pragma once

#include <string>

#include <nccl.h>

// NCCL, which may be missing where the program runs, and costs a tenth of a second to load. So it
// is looked for when a group of several GPUs is made, and costs nothing before.
namespace lockstep::cuda {

static_assert(NCCL_VERSION_CODE >= NCCL_VERSION(2, 27, 0),
              "needs NCCL 2.27: install it, or configure with -DLOCKSTEP_CUDA_NCCL=OFF");

struct NcclLibrary {
  decltype(&ncclGetVersion) get_version;
  decltype(&ncclGetErrorString) error_string;
  decltype(&ncclGetLastError) last_error;
  decltype(&ncclGetUniqueId) get_unique_id;
  decltype(&ncclCommInitRankConfig) init_rank;
  decltype(&ncclCommGetAsyncError) async_error;
  decltype(&ncclCommFinalize) finalize;
  decltype(&ncclCommDestroy) destroy;
  decltype(&ncclCommAbort) abort;
  decltype(&ncclMemAlloc) mem_alloc;
  decltype(&ncclMemFree) mem_free;
  decltype(&ncclCommRegister) register_buffer;
  decltype(&ncclCommDeregister) deregister_buffer;
  decltype(&ncclCommWindowRegister) register_window;
  decltype(&ncclCommWindowDeregister) deregister_window;
  decltype(&ncclAllReduce) all_reduce;
  decltype(&ncclBroadcast) broadcast;
  decltype(&ncclReduceScatter) reduce_scatter;
  decltype(&ncclAllGather) all_gather;
  decltype(&ncclSend) send;
  decltype(&ncclRecv) recv;
  decltype(&ncclGroupStart) group_start;
  decltype(&ncclGroupEnd) group_end;
  int version = 0;  // 22809 is 2.28.9
};

// Loaded once, and never unloaded: $LOCKSTEP_NCCL_LIBRARY if set, else libnccl.so.2. Null where it
// cannot be used; `why`, if given, says the reason and what to do.
const NcclLibrary* find_nccl(std::string* why = nullptr);

}  // namespace lockstep::cuda
