#include "nccl.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lockstep/engine/tensor/dtype.h"

#include "runtime_state.h"

namespace {

using lockstep::BFloat16;
using lockstep::Float16;
using lockstep::emulation::current_device;
using lockstep::emulation::stop;
using lockstep::emulation::stream_device;

constexpr int kMostRanks = 16;
constexpr size_t kRegion = size_t{1} << 20;  // bytes of each rank that pass at a time
constexpr size_t kMostTransfers = 512;

struct Transfer {
  int peer;
  size_t bytes;
};

// What a rank shows of its call. Zeroed first, so that calls can be compared as bytes.
struct Shown {
  enum Kind : int64_t { kAllReduce, kBroadcast, kReduceScatter, kAllGather, kWindow, kGroup };
  int64_t kind, count, type, op, root;
};

// Shared by the ranks.
struct Segment {
  std::atomic<int> joined;
  std::atomic<unsigned> arrived, generation;
  struct Rank {
    Shown shown;
    size_t sends;
    Transfer send[kMostTransfers];
  } ranks[kMostRanks];
  alignas(4096) std::byte data[kMostRanks][kRegion];
};

struct Id {
  int pid, fd;
};

size_t size_of(ncclDataType_t type) {
  switch (type) {
    case ncclUint8:
      return 1;
    case ncclFloat16:
    case ncclBfloat16:
      return 2;
    case ncclInt32:
    case ncclFloat32:
      return 4;
    default:
      return 8;
  }
}

template <class T>
void reduce_as(std::byte* into, const std::vector<const std::byte*>& terms, size_t count,
               ncclRedOp_t op) {
  constexpr bool half = std::is_same_v<T, BFloat16> || std::is_same_v<T, Float16>;
  using Wide = std::conditional_t<half, float, T>;
  // Sums of integers wrap.
  using Sum = std::conditional_t<std::is_integral_v<Wide>, uint64_t, Wide>;
  for (size_t i = 0; i < count; ++i) {
    Wide result{};
    for (size_t r = 0; r < terms.size(); ++r) {
      T value;
      std::memcpy(&value, terms[r] + i * sizeof(T), sizeof(T));
      const auto wide = static_cast<Wide>(value);
      if (r == 0) {
        result = wide;
      } else if (op == ncclSum) {
        result = static_cast<Wide>(static_cast<Sum>(result) + static_cast<Sum>(wide));
      } else if (wide == wide && (!(result == result) || (op == ncclMin) == (wide < result))) {
        result = wide;
      }
    }
    const auto rounded = static_cast<T>(result);
    std::memcpy(into + i * sizeof(T), &rounded, sizeof(T));
  }
}

void reduce(std::byte* into, const std::vector<const std::byte*>& terms, size_t count,
            ncclDataType_t type, ncclRedOp_t op) {
  switch (type) {
    case ncclUint8:
      return reduce_as<uint8_t>(into, terms, count, op);
    case ncclInt32:
      return reduce_as<int32_t>(into, terms, count, op);
    case ncclInt64:
      return reduce_as<int64_t>(into, terms, count, op);
    case ncclFloat16:
      return reduce_as<Float16>(into, terms, count, op);
    case ncclBfloat16:
      return reduce_as<BFloat16>(into, terms, count, op);
    case ncclFloat32:
      return reduce_as<float>(into, terms, count, op);
    case ncclFloat64:
      return reduce_as<double>(into, terms, count, op);
  }
}

// Ends the wait of a communicator's thread.
struct Aborted {};

std::mutex& registry_mutex() {
  static auto* const mutex = new std::mutex;
  return *mutex;
}
// Memory from ncclMemAlloc and its registrations, under the mutex.
struct Block {
  size_t bytes;
  int registrations = 0;
};
std::map<std::byte*, Block>& blocks() {
  static auto* const all = new std::map<std::byte*, Block>;
  return *all;
}
Block* block_of(const void* data, size_t bytes) {
  const auto* at = static_cast<const std::byte*>(data);
  for (auto& [begin, block] : blocks()) {
    if (at >= begin && at + bytes <= begin + block.bytes) {
      return &block;
    }
  }
  return nullptr;
}

}  // namespace

struct ncclWindow_vidmem {
  std::byte* data;
};

struct ncclComm {
  int rank = 0, size = 0, device = 0, calls = 0;
  Segment* segment = nullptr;
  int own_fd = -1;
  std::string faults;
  std::string last_error;
  std::shared_ptr<lockstep::emulation::Stall> stall;
  std::vector<std::unique_ptr<ncclWindow_vidmem>> registrations;
  bool finalized = false;

  std::mutex mutex;
  std::condition_variable changed;
  std::function<void()> task;  // what is under way
  bool busy = false, ending = false;
  ncclResult_t state = ncclSuccess;
  std::atomic<bool> aborted = false;
  std::thread worker;

  // -- faults
  bool has_fault(const char* name, int call = -1) const {
    const std::string own = std::string(name) + "@" + std::to_string(rank) +
                            (call < 0 ? "" : ":" + std::to_string(call));
    return ("," + faults + ",").find("," + own + ",") != std::string::npos;
  }

  // -- the thread that does what the calls ask for
  void run() {
    cudaSetDevice(device);
    std::unique_lock lock(mutex);
    for (;;) {
      changed.wait(lock, [this] { return ending || task; });
      if (!task) {
        return;
      }
      const std::function<void()> now = std::move(task);
      task = nullptr;
      lock.unlock();
      try {
        now();
      } catch (const Aborted&) {
      }
      lock.lock();
      busy = false;
    }
  }
  ncclResult_t start(std::function<void()> what) {
    const std::lock_guard lock(mutex);
    if (busy) {
      stop("a NCCL call while another one is under way");
    }
    busy = true;
    task = std::move(what);
    changed.notify_all();
    return ncclInProgress;
  }
  void end() {
    {
      const std::lock_guard lock(mutex);
      ending = true;
    }
    changed.notify_all();
    worker.join();
    const std::lock_guard lock(registry_mutex());
    for (const auto& registration : registrations) {
      if (Block* block = block_of(registration->data, 1)) {
        --block->registrations;
      }
    }
    munmap(segment, sizeof(Segment));
    if (own_fd >= 0) {
      close(own_fd);
    }
  }

  template <class Condition>
  void wait_until(Condition condition) {
    for (int round = 0; !condition(); ++round) {
      if (aborted) {
        throw Aborted{};
      }
      if (round < 100) {
        sched_yield();
      } else {
        std::this_thread::sleep_for(std::chrono::microseconds(50));
      }
    }
  }
  void barrier() {
    const unsigned generation = segment->generation;
    if (++segment->arrived == static_cast<unsigned>(size)) {
      segment->arrived = 0;
      ++segment->generation;
      return;
    }
    wait_until([&] { return segment->generation != generation; });
  }
  // Shows the call to the others and looks at theirs.
  void meet(const Shown& shown) {
    segment->ranks[rank].shown = shown;
    barrier();
    for (int r = 0; r < size; ++r) {
      if (std::memcmp(&segment->ranks[r].shown, &shown, sizeof shown) != 0) {
        stop("NCCL calls of ranks %d and %d differ: %ld and %ld elements", rank, r,
             static_cast<long>(shown.count), static_cast<long>(segment->ranks[r].shown.count));
      }
    }
  }
  std::byte* region(int of) const { return segment->data[of]; }
  void copy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
    if (cudaMemcpyAsync(to, from, bytes, kind, nullptr) != cudaSuccess) {
      stop("NCCL was given %zu bytes at %p that are not all the device's memory", bytes,
           kind == cudaMemcpyHostToDevice ? to : from);
    }
  }
  void take(const void* from, size_t bytes, size_t at = 0) {
    if (bytes > 0) {
      copy(region(rank) + at, from, bytes, cudaMemcpyDeviceToHost);
    }
  }
  void give(void* to, const std::byte* from, size_t bytes) {
    if (bytes > 0) {
      copy(to, from, bytes, cudaMemcpyHostToDevice);
    }
  }

  // A call that moves data: counted, and where the faults happen.
  ncclResult_t transfer(cudaStream_t stream, const std::function<void()>& move) {
    if (current_device() != device || stream_device(stream) != device) {
      stop("a NCCL call in the context of device %d with a stream of device %d, on device %d",
           current_device(), stream_device(stream), device);
    }
    const int call = calls++;
    return start([this, stream, move, call] {
      if (has_fault("stuck", call)) {
        wait_until([] { return false; });
      }
      move();
      if (has_fault("stall", call)) {
        stall = std::make_shared<lockstep::emulation::Stall>();
        lockstep::emulation::stall(stream, stall);
      }
      if (has_fault("error", call)) {
        const std::lock_guard lock(mutex);
        state = ncclRemoteError;
        last_error = "emulated: the network is down";
      }
    });
  }
};

namespace {

// What is open on this thread between ncclGroupStart and ncclGroupEnd.
struct Group {
  struct Item {
    std::byte* data;
    size_t bytes;
    int peer;
  };
  int depth = 0;
  ncclComm_t comm = nullptr;
  cudaStream_t stream = nullptr;
  std::vector<Item> sends, receives;
};
thread_local Group group;
thread_local std::string error_of_thread;

std::set<ncclComm_t>& living() {
  static auto* const all = new std::set<ncclComm_t>;
  return *all;
}
void check_comm(ncclComm_t comm, const char* call) {
  const std::lock_guard lock(registry_mutex());
  if (!living().contains(comm)) {
    stop("%s on a communicator that has ended, been aborted or never was", call);
  }
  if (comm->finalized) {
    stop("%s on a communicator that has been finalized", call);
  }
}
void check_no_group(const char* call) {
  if (group.depth > 0) {
    stop("%s within a group is not emulated", call);
  }
}
void forget(ncclComm_t comm, const char* call) {
  const std::lock_guard lock(registry_mutex());
  if (living().erase(comm) == 0) {
    stop("%s on a communicator that has ended, been aborted or never was", call);
  }
}

// Rounds of a collective over vectors of `bytes`: each rank's piece is in its region between `in`
// and `out`.
template <class In, class Out>
void in_rounds(ncclComm_t comm, size_t bytes, In in, Out out) {
  for (size_t begin = 0; begin < bytes; begin += kRegion) {
    const size_t count = std::min(kRegion, bytes - begin);
    in(begin, count);
    comm->barrier();
    out(begin, count);
    comm->barrier();
  }
}

std::vector<const std::byte*> regions(ncclComm_t comm) {
  std::vector<const std::byte*> all;
  for (int r = 0; r < comm->size; ++r) {
    all.push_back(comm->region(r));
  }
  return all;
}

// The sends of a rank, one behind the other, are a stream that passes through its region in rounds.
void exchange(ncclComm_t comm, const std::vector<Group::Item>& sends,
              const std::vector<Group::Item>& receives) {
  Segment::Rank& mine = comm->segment->ranks[comm->rank];
  mine.sends = sends.size();
  for (size_t i = 0; i < sends.size(); ++i) {
    mine.send[i] = {sends[i].peer, sends[i].bytes};
  }
  Shown shown{};
  shown.kind = Shown::kGroup;
  comm->meet(shown);
  size_t longest = 0;
  struct Piece {
    int sender;
    size_t begin;
    Group::Item to;
  };
  std::vector<Piece> pieces;
  std::vector<bool> used(receives.size());
  for (int s = 0; s < comm->size; ++s) {
    const Segment::Rank& theirs = comm->segment->ranks[s];
    size_t offset = 0;
    size_t at = 0;
    for (size_t i = 0; i < theirs.sends; offset += theirs.send[i].bytes, ++i) {
      if (theirs.send[i].peer != comm->rank) {
        continue;
      }
      while (at < receives.size() && receives[at].peer != s) {
        ++at;
      }
      if (at == receives.size() || receives[at].bytes != theirs.send[i].bytes) {
        stop("rank %d sends %zu bytes to rank %d, which receives %zu", s, theirs.send[i].bytes,
             comm->rank, at == receives.size() ? 0 : receives[at].bytes);
      }
      pieces.push_back({s, offset, receives[at]});
      used[at++] = true;
    }
    longest = std::max(longest, offset);
  }
  if (std::find(used.begin(), used.end(), false) != used.end()) {
    stop("rank %d receives what nobody sends", comm->rank);
  }
  in_rounds(
      comm, longest,
      [&](size_t begin, size_t count) {
        size_t offset = 0;
        for (const Group::Item& send : sends) {
          const size_t from = std::max(begin, offset);
          const size_t to = std::min(begin + count, offset + send.bytes);
          if (from < to) {
            comm->take(send.data + (from - offset), to - from, from - begin);
          }
          offset += send.bytes;
        }
      },
      [&](size_t begin, size_t count) {
        for (const Piece& piece : pieces) {
          const size_t from = std::max(begin, piece.begin);
          const size_t to = std::min(begin + count, piece.begin + piece.to.bytes);
          if (from < to) {
            comm->give(piece.to.data + (from - piece.begin),
                       comm->region(piece.sender) + (from - begin), to - from);
          }
        }
      });
}

ncclResult_t run_group() {
  Group now = std::move(group);
  group = {};
  if (now.comm == nullptr) {
    return ncclSuccess;
  }
  if (now.sends.size() > kMostTransfers) {
    stop("%zu sends in one group", now.sends.size());
  }
  return now.comm->transfer(now.stream,
                            [comm = now.comm, sends = now.sends, receives = now.receives] {
                              exchange(comm, sends, receives);
                            });
}

ncclResult_t add_transfer(std::vector<Group::Item> Group::*list, const void* data, size_t bytes,
                          int peer, ncclComm_t comm, cudaStream_t stream) {
  if (peer < 0 || peer >= comm->size || peer == comm->rank) {
    stop("a NCCL transfer of rank %d with rank %d of %d", comm->rank, peer, comm->size);
  }
  if (group.comm != nullptr && (group.comm != comm || group.stream != stream)) {
    stop("a NCCL group of several communicators or streams is not emulated");
  }
  group.comm = comm;
  group.stream = stream;
  (group.*list)
      .push_back({const_cast<std::byte*>(static_cast<const std::byte*>(data)), bytes, peer});
  return group.depth > 0 ? ncclSuccess : run_group();
}

ncclResult_t fail_with(ncclResult_t result, const char* text) {
  error_of_thread = text;
  return result;
}

}  // namespace

extern "C" {

ncclResult_t ncclGetVersion(int* version) {
  const char* const wanted = std::getenv("LOCKSTEP_EMULATED_NCCL_VERSION");
  *version = wanted != nullptr && *wanted != '\0' ? std::atoi(wanted) : NCCL_VERSION_CODE;
  return ncclSuccess;
}

const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSuccess:
      return "no error";
    case ncclSystemError:
      return "unhandled system error";
    case ncclInvalidArgument:
      return "invalid argument";
    case ncclInvalidUsage:
      return "invalid usage";
    case ncclRemoteError:
      return "remote process exited or there was a network error";
    case ncclInProgress:
      return "NCCL operation in progress";
    default:
      return "unknown result code";
  }
}

const char* ncclGetLastError(ncclComm_t comm) {
  return comm != nullptr && !comm->last_error.empty() ? comm->last_error.c_str()
                                                      : error_of_thread.c_str();
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  *id = {};
  const Id own = {getpid(), memfd_create("lockstep-nccl", MFD_CLOEXEC)};
  if (own.fd < 0 || ftruncate(own.fd, sizeof(Segment)) != 0) {
    return fail_with(ncclSystemError, "emulated: no memory to share");
  }
  std::memcpy(id->internal, &own, sizeof own);
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  check_no_group("ncclCommInitRankConfig");
  if (ranks > kMostRanks || rank < 0 || rank >= ranks || config->blocking != 0) {
    stop("ncclCommInitRankConfig for rank %d of %d, blocking: %d", rank, ranks, config->blocking);
  }
  auto made = std::make_unique<ncclComm>();
  made->rank = rank;
  made->size = ranks;
  made->device = current_device();
  const char* const faults = std::getenv("LOCKSTEP_EMULATED_NCCL");
  made->faults = faults != nullptr ? faults : "";
  if (made->has_fault("refuse")) {
    return fail_with(ncclSystemError, "emulated: no sockets left");
  }
  Id of;
  std::memcpy(&of, id.internal, sizeof of);
  char path[64];
  std::snprintf(path, sizeof path, "/proc/%d/fd/%d", of.pid, of.fd);
  const int fd = open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) {
    return fail_with(ncclSystemError, "emulated: the shared memory cannot be opened");
  }
  void* const mapped = mmap(nullptr, sizeof(Segment), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (mapped == MAP_FAILED) {
    return fail_with(ncclSystemError, "emulated: the shared memory cannot be mapped");
  }
  made->segment = static_cast<Segment*>(mapped);
  if (rank == 0 && of.pid == getpid()) {
    made->own_fd = of.fd;
  }
  ncclComm_t const it = *comm = made.release();
  {
    const std::lock_guard lock(registry_mutex());
    living().insert(it);
  }
  it->worker = std::thread([it] { it->run(); });
  return it->start([it] {
    if (it->has_fault("join")) {
      it->wait_until([] { return false; });
    }
    ++it->segment->joined;
    it->wait_until([it] { return it->segment->joined == it->size; });
  });
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* state) {
  {
    const std::lock_guard lock(registry_mutex());
    if (!living().contains(comm)) {
      stop("ncclCommGetAsyncError on a communicator that has ended or been aborted");
    }
  }
  const std::lock_guard lock(comm->mutex);
  *state = comm->state != ncclSuccess ? comm->state : comm->busy ? ncclInProgress : ncclSuccess;
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  check_comm(comm, "ncclCommFinalize");
  const ncclResult_t result = comm->start([] {});  // each for itself
  comm->finalized = true;
  return result;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  {
    const std::lock_guard lock(comm->mutex);
    if (!comm->finalized || comm->busy || !comm->registrations.empty()) {
      stop("ncclCommDestroy: finalized %d, under way %d, %zu registrations", comm->finalized,
           comm->busy, comm->registrations.size());
    }
  }
  forget(comm, "ncclCommDestroy");
  comm->end();
  delete comm;
  return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
  forget(comm, "ncclCommAbort");
  comm->aborted = true;
  if (comm->stall) {
    comm->stall->over = true;
  }
  comm->end();
  delete comm;
  return ncclSuccess;
}

ncclResult_t ncclMemAlloc(void** data, size_t bytes) {
  if (cudaMalloc(data, bytes) != cudaSuccess) {
    return fail_with(ncclUnhandledCudaError, "emulated: out of memory");
  }
  const std::lock_guard lock(registry_mutex());
  blocks()[static_cast<std::byte*>(*data)] = {.bytes = bytes};
  return ncclSuccess;
}

ncclResult_t ncclMemFree(void* data) {
  {
    const std::lock_guard lock(registry_mutex());
    const auto found = blocks().find(static_cast<std::byte*>(data));
    if (found == blocks().end() || found->second.registrations > 0) {
      stop("ncclMemFree of memory that is not its own, or is still registered");
    }
    blocks().erase(found);
  }
  return cudaFree(data) == cudaSuccess ? ncclSuccess : ncclUnhandledCudaError;
}

namespace {

ncclWindow_t add_registration(ncclComm_t comm, void* data, size_t bytes) {
  const std::lock_guard lock(registry_mutex());
  Block* const block = block_of(data, bytes);
  if (block == nullptr) {
    stop("a registration of memory that is not ncclMemAlloc's");
  }
  ++block->registrations;
  comm->registrations.push_back(std::make_unique<ncclWindow_vidmem>(static_cast<std::byte*>(data)));
  return comm->registrations.back().get();
}

void remove_registration(ncclComm_t comm, void* handle) {
  const std::lock_guard lock(registry_mutex());
  const auto found = std::find_if(comm->registrations.begin(), comm->registrations.end(),
                                  [handle](const auto& one) { return one.get() == handle; });
  if (found == comm->registrations.end()) {
    stop("a registration was removed that is not there");
  }
  --block_of((*found)->data, 1)->registrations;
  comm->registrations.erase(found);
}

}  // namespace

ncclResult_t ncclCommRegister(ncclComm_t comm, void* data, size_t bytes, void** handle) {
  check_comm(comm, "ncclCommRegister");
  if (comm->has_fault("buffers")) {
    return fail_with(ncclInvalidUsage, "emulated: memory cannot be registered");
  }
  *handle = add_registration(comm, data, bytes);
  return ncclSuccess;
}

ncclResult_t ncclCommDeregister(ncclComm_t comm, void* handle) {
  check_comm(comm, "ncclCommDeregister");
  remove_registration(comm, handle);
  return ncclSuccess;
}

ncclResult_t ncclCommWindowRegister(ncclComm_t comm, void* data, size_t bytes, ncclWindow_t* window,
                                    int flags) {
  check_comm(comm, "ncclCommWindowRegister");
  if (flags != NCCL_WIN_COLL_SYMMETRIC) {
    stop("ncclCommWindowRegister with flags %d", flags);
  }
  if (comm->has_fault("windows") || comm->has_fault("buffers")) {
    return fail_with(ncclInvalidUsage, "emulated: there are no windows");
  }
  Shown shown{};
  shown.kind = Shown::kWindow;
  shown.count = static_cast<int64_t>(bytes);
  return comm->start([=] {
    comm->meet(shown);
    *window = add_registration(comm, data, bytes);
    comm->barrier();
  });
}

ncclResult_t ncclCommWindowDeregister(ncclComm_t comm, ncclWindow_t window) {
  check_comm(comm, "ncclCommWindowDeregister");
  remove_registration(comm, window);
  return ncclSuccess;
}

ncclResult_t ncclAllReduce(const void* in, void* out, size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
  check_comm(comm, "ncclAllReduce");
  check_no_group("ncclAllReduce");
  const Shown shown{Shown::kAllReduce, static_cast<int64_t>(count), type, op, 0};
  return comm->transfer(stream, [=] {
    comm->meet(shown);
    std::vector<std::byte> result(kRegion);
    in_rounds(
        comm, count * size_of(type),
        [&](size_t begin, size_t bytes) {
          comm->take(static_cast<const std::byte*>(in) + begin, bytes);
        },
        [&](size_t begin, size_t bytes) {
          reduce(result.data(), regions(comm), bytes / size_of(type), type, op);
          comm->give(static_cast<std::byte*>(out) + begin, result.data(), bytes);
        });
  });
}

ncclResult_t ncclReduceScatter(const void* in, void* out, size_t count, ncclDataType_t type,
                               ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
  check_comm(comm, "ncclReduceScatter");
  check_no_group("ncclReduceScatter");
  const Shown shown{Shown::kReduceScatter, static_cast<int64_t>(count), type, op, 0};
  return comm->transfer(stream, [=] {
    comm->meet(shown);
    const size_t part = count * size_of(type);
    std::vector<std::byte> result(part);  // `out` may be a part of `in`
    std::vector<std::byte> chunk(kRegion);
    in_rounds(
        comm, part * static_cast<size_t>(comm->size),
        [&](size_t begin, size_t bytes) {
          comm->take(static_cast<const std::byte*>(in) + begin, bytes);
        },
        [&](size_t begin, size_t bytes) {
          reduce(chunk.data(), regions(comm), bytes / size_of(type), type, op);
          const size_t own = part * static_cast<size_t>(comm->rank);
          const size_t from = std::max(begin, own), to = std::min(begin + bytes, own + part);
          if (from < to) {
            std::memcpy(result.data() + (from - own), chunk.data() + (from - begin), to - from);
          }
        });
    comm->give(out, result.data(), part);
  });
}

ncclResult_t ncclBroadcast(const void* in, void* out, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream) {
  check_comm(comm, "ncclBroadcast");
  check_no_group("ncclBroadcast");
  const Shown shown{Shown::kBroadcast, static_cast<int64_t>(count), type, 0, root};
  return comm->transfer(stream, [=] {
    comm->meet(shown);
    in_rounds(
        comm, count * size_of(type),
        [&](size_t begin, size_t bytes) {
          if (comm->rank == root) {
            comm->take(static_cast<const std::byte*>(in) + begin, bytes);
          }
        },
        [&](size_t begin, size_t bytes) {
          comm->give(static_cast<std::byte*>(out) + begin, comm->region(root), bytes);
        });
  });
}

ncclResult_t ncclAllGather(const void* in, void* out, size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream) {
  check_comm(comm, "ncclAllGather");
  check_no_group("ncclAllGather");
  const Shown shown{Shown::kAllGather, static_cast<int64_t>(count), type, 0, 0};
  return comm->transfer(stream, [=] {
    comm->meet(shown);
    const size_t part = count * size_of(type);
    in_rounds(
        comm, part,
        [&](size_t begin, size_t bytes) {
          comm->take(static_cast<const std::byte*>(in) + begin, bytes);
        },
        [&](size_t begin, size_t bytes) {
          for (int r = 0; r < comm->size; ++r) {
            comm->give(static_cast<std::byte*>(out) + part * static_cast<size_t>(r) + begin,
                       comm->region(r), bytes);
          }
        });
  });
}

ncclResult_t ncclSend(const void* data, size_t count, ncclDataType_t type, int peer,
                      ncclComm_t comm, cudaStream_t stream) {
  check_comm(comm, "ncclSend");
  return add_transfer(&Group::sends, data, count * size_of(type), peer, comm, stream);
}

ncclResult_t ncclRecv(void* data, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  check_comm(comm, "ncclRecv");
  return add_transfer(&Group::receives, data, count * size_of(type), peer, comm, stream);
}

ncclResult_t ncclGroupStart() {
  ++group.depth;
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
  if (group.depth == 0) {
    stop("ncclGroupEnd without ncclGroupStart");
  }
  return --group.depth > 0 ? ncclSuccess : run_group();
}

}  // extern "C"
