#pragma once

#include <cstddef>

#include "cuda_runtime.h"

// A stand-in for NCCL's header of this name, in the manner of cuda_runtime.h: what the CUDA plugin
// uses, with NCCL 2.28's names, signatures and meaning. nccl.cc implements it over POSIX shared
// memory, between the threads and processes of one machine.
//
// What is emulated. Communicators that start without blocking; collectives and transfers on
// emulated streams, whose work is done when the call returns (it waits for the other ranks, which
// therefore have to come without waiting for this one). Sums are added in rank order, 16-bit floats
// in float32 and rounded once; minimum and maximum of floats drop NaN. The order of floating sums
// is not NCCL's.
//
// What ends the process with a line on stderr, since NCCL would hang, crash or corrupt memory:
// ranks whose calls, counts or types differ; calls on a communicator that has not started, ended or
// been aborted, or while another call is under way; calls in the context of another device, or on
// another device's stream; groups that are not closed; memory that is not the device's, or is
// released or deregistered wrongly.
//
// Environment, read by every communicator when it starts. LOCKSTEP_EMULATED_NCCL is a list of
// faults,
// "<fault>@<rank>" or "<fault>@<rank>:<n>", the n-th call of this rank's communicator (from 0),
// with commas between them:
//   refuse    ncclCommInitRankConfig returns an error
//   join      the start never ends
//   stuck     the call stays in progress on the host for ever
//   stall     its transfer, and all later work in the stream, stands still on the device
//   error     after the call ncclCommGetAsyncError reports an error
//   windows   there are no symmetric windows; buffers     no registration at all
// LOCKSTEP_EMULATED_NCCL_VERSION is what ncclGetVersion says (22809).
#define NCCL_MAJOR 2
#define NCCL_MINOR 28
#define NCCL_PATCH 9
#define NCCL_VERSION(x, y, z) ((x)*10000 + (y)*100 + (z))
#define NCCL_VERSION_CODE NCCL_VERSION(NCCL_MAJOR, NCCL_MINOR, NCCL_PATCH)

enum ncclResult_t {
  ncclSuccess,
  ncclUnhandledCudaError,
  ncclSystemError,
  ncclInternalError,
  ncclInvalidArgument,
  ncclInvalidUsage,
  ncclRemoteError,
  ncclInProgress
};
enum ncclRedOp_t { ncclSum = 0, ncclMax = 2, ncclMin = 3 };
enum ncclDataType_t {
  ncclUint8 = 1,
  ncclInt32 = 2,
  ncclInt64 = 4,
  ncclFloat16 = 6,
  ncclFloat32 = 7,
  ncclFloat64 = 8,
  ncclBfloat16 = 9
};

struct ncclComm;
using ncclComm_t = ncclComm*;
struct ncclWindow_vidmem;
using ncclWindow_t = ncclWindow_vidmem*;
struct ncclUniqueId {
  char internal[128];
};
struct ncclConfig_t {
  size_t size;
  int blocking, maxCTAs;
};
inline constexpr int kNcclUndefined = -0x7fffffff - 1;
#define NCCL_CONFIG_INITIALIZER \
  { sizeof(ncclConfig_t), kNcclUndefined, kNcclUndefined }
#define NCCL_WIN_COLL_SYMMETRIC 1

extern "C" {
ncclResult_t ncclGetVersion(int* version);
const char* ncclGetErrorString(ncclResult_t result);
const char* ncclGetLastError(ncclComm_t comm);
ncclResult_t ncclGetUniqueId(ncclUniqueId* id);
ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t* config);
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* state);
ncclResult_t ncclCommFinalize(ncclComm_t comm);
ncclResult_t ncclCommDestroy(ncclComm_t comm);
ncclResult_t ncclCommAbort(ncclComm_t comm);
ncclResult_t ncclMemAlloc(void** data, size_t bytes);
ncclResult_t ncclMemFree(void* data);
ncclResult_t ncclCommRegister(ncclComm_t comm, void* data, size_t bytes, void** handle);
ncclResult_t ncclCommDeregister(ncclComm_t comm, void* handle);
ncclResult_t ncclCommWindowRegister(ncclComm_t comm, void* data, size_t bytes, ncclWindow_t* window,
                                    int flags);
ncclResult_t ncclCommWindowDeregister(ncclComm_t comm, ncclWindow_t window);
ncclResult_t ncclAllReduce(const void* in, void* out, size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream);
ncclResult_t ncclBroadcast(const void* in, void* out, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream);
ncclResult_t ncclReduceScatter(const void* in, void* out, size_t count, ncclDataType_t type,
                               ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream);
ncclResult_t ncclAllGather(const void* in, void* out, size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream);
ncclResult_t ncclSend(const void* data, size_t count, ncclDataType_t type, int peer,
                      ncclComm_t comm, cudaStream_t stream);
ncclResult_t ncclRecv(void* data, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream);
ncclResult_t ncclGroupStart();
ncclResult_t ncclGroupEnd();
}
