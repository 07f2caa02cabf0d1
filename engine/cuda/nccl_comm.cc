#include "lockstep/engine/cuda/nccl_comm.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <thread>

#include <cuda_runtime.h>

#include "lockstep/engine/cuda/elementwise.h"
#include "lockstep/engine/cuda/event.h"
#include "lockstep/engine/cuda/nccl_library.h"
#include "lockstep/engine/cuda/status.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::cuda {
namespace {

// Multiprocessors that a collective may take from what computes beside it. NCCL_MAX_CTAS overrides.
constexpr int kMostBlocks = 16;
constexpr auto kSettlePatience = std::chrono::seconds(1);

const NcclLibrary& nccl() {
  std::string why;
  const NcclLibrary* const library = find_nccl(&why);
  check<Error>(library, "[nccl] {}", why);
  return *library;
}

// Kernels know no void*: a count of bytes for what is only moved.
ncclDataType_t type_of(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return ncclFloat32;
    case DType::kFloat64:
      return ncclFloat64;
    case DType::kBFloat16:
      return ncclBfloat16;
    case DType::kFloat16:
      return ncclFloat16;
    case DType::kInt64:
      return ncclInt64;
    case DType::kInt32:
      return ncclInt32;
    case DType::kUInt8:
    case DType::kBool:  // of which there are only min and max
      return ncclUint8;
  }
  no_kernel("nccl", dtype);
}

ncclRedOp_t operation_of(CommReduction op) {
  return op == CommReduction::kSum ? ncclSum : op == CommReduction::kMin ? ncclMin : ncclMax;
}

class NcclComm final : public DeviceComm {
 public:
  explicit NcclComm(const DeviceCommConfig& config)
      : nccl_(nccl()), device_(config.device), windows_(config.windows) {
    make_current();
    int least = 0, greatest = 0;
    check_cuda(cudaDeviceGetStreamPriorityRange(&least, &greatest), "stream priorities");
    check_cuda(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, greatest),
               "cudaStreamCreate");
    ncclUniqueId id;
    static_assert(sizeof id <= sizeof config.id);
    std::memcpy(&id, config.id.bytes.data(), sizeof id);
    ncclConfig_t settings = NCCL_CONFIG_INITIALIZER;
    settings.blocking = 0;
    settings.maxCTAs = kMostBlocks;
    const ncclResult_t result = nccl_.init_rank(&comm_, config.size, id, config.rank, &settings);
    if (result != ncclSuccess && result != ncclInProgress) {
      const std::string why = reason(result);
      if (comm_) nccl_.abort(comm_);
      cudaStreamDestroy(stream_);
      fail<Error>("[nccl] ncclCommInitRankConfig: {}", why);
    }
  }

  ~NcclComm() override {
    abort();
    cudaSetDevice(device_);
    if (scratch_) cudaFreeAsync(scratch_, stream_);
    cudaStreamDestroy(stream_);
  }

  bool poll() override {
    const std::lock_guard lock(mutex_);
    if (closed_) return true;
    throw_if_over();
    make_current();  // or the first call of a thread would start up another device
    ncclResult_t state = ncclSuccess;
    check(nccl_.async_error(comm_, &state), "ncclCommGetAsyncError");
    if (state == ncclInProgress) return false;
    check(state, "a call or transfer under way");
    if (!closing_) return true;
    closed_ = true;
    check(nccl_.destroy(std::exchange(comm_, nullptr)), "ncclCommDestroy");
    return true;
  }

  void abort() noexcept override {
    over_ = true;
    const std::lock_guard lock(mutex_);
    if (!comm_) return;
    try {
      make_current();
    } catch (const Error&) {  // the device is lost; NCCL still has threads to end
    }
    nccl_.abort(std::exchange(comm_, nullptr));
  }

  void close() override {
    const std::lock_guard lock(mutex_);
    throw_if_over();
    make_current();
    lockstep::check<Error>(drain(), "[nccl] a transfer under way stands still");
    for (auto& [data, registration] : registrations_) release(registration);
    registrations_.clear();
    closing_ = true;
    check(nccl_.finalize(comm_), "ncclCommFinalize");
  }

  // -- memory
  void* allocate(size_t bytes) override {
    if (bytes == 0) return nullptr;
    make_current();
    void* data = nullptr;
    check(nccl_.mem_alloc(&data, bytes), "ncclMemAlloc");
    return data;
  }
  void deallocate(void* data) noexcept override {
    if (!data) return;
    try {
      make_current();
    } catch (const Error&) {  // the device is lost, and the memory with it
      return;
    }
    nccl_.mem_free(data);
  }

  void enroll(void* data, size_t bytes) override {
    const std::lock_guard lock(mutex_);
    throw_if_over();
    make_current();
    Registration& mine = registrations_[data];
    const ncclResult_t result =
        windows_ ? nccl_.register_window(comm_, data, bytes, &mine.window, NCCL_WIN_COLL_SYMMETRIC)
                 : nccl_.register_buffer(comm_, data, bytes, &mine.buffer);
    if (result == ncclSuccess || result == ncclInProgress) return;
    ncclResult_t last = result;
    if (windows_) {  // not on this machine; the simpler kind may still do
      windows_ = false;
      mine = {};
      last = nccl_.register_buffer(comm_, data, bytes, &mine.buffer);
    }
    if (last != ncclSuccess && last != ncclInProgress) mine = {.why = reason(last)};
  }
  std::string registration(void* data) const override {
    const std::lock_guard lock(mutex_);
    const auto found = registrations_.find(data);
    if (found == registrations_.end()) return "it has not been registered";
    const Registration& mine = found->second;
    if (mine.why.empty() && !mine.window && !mine.buffer) return "NCCL has no use for it here";
    return mine.why;
  }
  void withdraw(void* data) noexcept override {
    const std::lock_guard lock(mutex_);
    const auto found = registrations_.find(data);
    if (found == registrations_.end()) return;
    try {
      make_current();
      drain();
      if (comm_ && !over_) release(found->second);
    } catch (const Error&) {  // the device is lost
    }
    registrations_.erase(found);
  }

  // -- the stream
  void wait_for(const std::shared_ptr<Event>& event) override {
    make_current();
    if (const auto* ours = dynamic_cast<const CudaEvent*>(event.get())) {
      check_cuda(cudaStreamWaitEvent(stream_, ours->get(), 0), "cudaStreamWaitEvent");
    }
  }
  std::shared_ptr<CommEvent> mark() override {
    make_current();
    return std::make_shared<CudaEvent>(stream_, cudaEventDefault);
  }
  std::byte* scratch(size_t bytes) override {
    if (bytes <= scratch_bytes_) return scratch_;
    make_current();
    if (scratch_) check_cuda(cudaFreeAsync(std::exchange(scratch_, nullptr), stream_), "free");
    scratch_bytes_ = 0;
    void* data = nullptr;
    check_cuda(cudaMallocAsync(&data, bytes, stream_), "memory for a collective");
    scratch_ = static_cast<std::byte*>(data);
    scratch_bytes_ = bytes;
    return scratch_;
  }

  // -- collectives
  void all_reduce(void* data, int64_t count, DType dtype, CommReduction op) override {
    start("ncclAllReduce", [&] {
      return nccl_.all_reduce(data, data, static_cast<size_t>(count), type_of(dtype),
                              operation_of(op), comm_, stream_);
    });
  }
  void broadcast(void* data, size_t bytes, int root) override {
    start("ncclBroadcast",
          [&] { return nccl_.broadcast(data, data, bytes, ncclUint8, root, comm_, stream_); });
  }
  void reduce_scatter(void* out, const void* in, int64_t count, DType dtype,
                      CommReduction op) override {
    start("ncclReduceScatter", [&] {
      return nccl_.reduce_scatter(in, out, static_cast<size_t>(count), type_of(dtype),
                                  operation_of(op), comm_, stream_);
    });
  }
  void all_gather(void* out, const void* in, size_t bytes) override {
    start("ncclAllGather",
          [&] { return nccl_.all_gather(in, out, bytes, ncclUint8, comm_, stream_); });
  }
  void exchange(std::span<const Transfer> sends, std::span<const Transfer> receives) override {
    start("ncclGroupEnd", [&] {
      ncclResult_t worst = nccl_.group_start();
      const auto note = [&worst](ncclResult_t result) {
        if (result != ncclSuccess && result != ncclInProgress) worst = result;
      };
      for (const Transfer& t : sends) {
        note(nccl_.send(t.data, t.bytes, ncclUint8, t.peer, comm_, stream_));
      }
      for (const Transfer& t : receives) {
        note(nccl_.recv(t.data, t.bytes, ncclUint8, t.peer, comm_, stream_));
      }
      const ncclResult_t end = nccl_.group_end();
      return worst == ncclSuccess ? end : worst;
    });
  }

  // -- computed here
  void combine(void* left, const void* right, int64_t count, DType dtype,
               CommReduction op) override {
    make_current();
    PointwiseCall call{};
    call.dtype = dtype;
    call.inputs = 2;
    call.dims = 1;
    call.sizes[0] = call.numel = count;
    call.out.data = call.in[0].data = left;
    call.in[1].data = const_cast<void*>(right);
    for (PointwiseCall::Operand* operand : {&call.out, &call.in[0], &call.in[1]}) {
      operand->strides[0] = 1;
    }
    run_pointwise(stream_,
                  op == CommReduction::kSum   ? PointwiseOp::k_add
                  : op == CommReduction::kMin ? PointwiseOp::k_minimum
                                              : PointwiseOp::k_maximum,
                  call);
  }
  void copy(void* to, const void* from, size_t bytes) override {
    make_current();
    check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_), "copy");
  }

 private:
  struct Registration {
    ncclWindow_t window = nullptr;
    void* buffer = nullptr;
    std::string why{};
  };

  void make_current() const { cuda::make_current(device_); }

  // Whether what was issued to the stream has ended, now or soon. Taking back registered memory
  // unmaps it, which waits for no kernel that still uses it.
  bool drain() const {
    const CudaEvent end(stream_);
    const auto deadline = std::chrono::steady_clock::now() + kSettlePatience;
    while (!end.is_done()) {
      if (std::chrono::steady_clock::now() > deadline) return false;
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
    return true;
  }

  void throw_if_over() const {
    lockstep::check<Error>(!over_ && comm_ && !closed_, "[nccl] the communicator has {}",
                           over_ ? "been aborted" : "come to its end");
  }

  std::string reason(ncclResult_t result) const {
    const char* const more = nccl_.last_error(comm_);
    return more && *more ? fmt::format("{} ({})", nccl_.error_string(result), more)
                         : nccl_.error_string(result);
  }
  void check(ncclResult_t result, const char* call) const {
    if (result == ncclSuccess || result == ncclInProgress) return;
    fail<Error>("[nccl] {}: {}", call, reason(result));
  }

  template <typename Call>
  void start(const char* name, Call call) {
    make_current();
    const std::lock_guard lock(mutex_);
    throw_if_over();
    check(call(), name);
  }

  // Under the lock. What fails here is forgotten with the communicator.
  void release(const Registration& registration) {
    if (registration.window) nccl_.deregister_window(comm_, registration.window);
    if (registration.buffer) nccl_.deregister_buffer(comm_, registration.buffer);
    const auto deadline = std::chrono::steady_clock::now() + kSettlePatience;
    ncclResult_t state = ncclSuccess;
    while (nccl_.async_error(comm_, &state) == ncclSuccess && state == ncclInProgress &&
           std::chrono::steady_clock::now() < deadline) {
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
  }

  const NcclLibrary& nccl_;
  const int device_;
  bool windows_;
  cudaStream_t stream_ = nullptr;
  std::byte* scratch_ = nullptr;
  size_t scratch_bytes_ = 0;
  std::atomic<bool> over_ = false;
  mutable std::mutex mutex_;  // of the library's calls, none of which waits
  ncclComm_t comm_ = nullptr;
  bool closing_ = false, closed_ = false;
  std::map<void*, Registration> registrations_;
};

class NcclComms final : public DeviceComms {
 public:
  std::string problem() override {
    std::string why;
    find_nccl(&why);
    return why;
  }
  std::string version() override {
    const int v = nccl().version;
    return fmt::format("{}.{}.{}", v / 10000, v / 100 % 100, v % 100);
  }
  // NCCL goes by host and bus; a host id of its own makes a process a host of its own.
  std::string identity(int device) override {
    cudaDeviceProp properties{};
    check_cuda(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
    std::string text;
    for (const char byte : properties.uuid.bytes) {
      text += fmt::format("{:02x}", static_cast<unsigned char>(byte));
    }
    const char* const host = std::getenv("NCCL_HOSTID");
    return host && *host ? fmt::format("{} for NCCL_HOSTID {}", text, host) : text;
  }
  DeviceCommId make_id() override {
    ncclUniqueId id{};
    const ncclResult_t result = nccl().get_unique_id(&id);
    check<Error>(result == ncclSuccess, "[nccl] ncclGetUniqueId: {} ({})",
                 nccl().error_string(result), nccl().last_error(nullptr));
    DeviceCommId bytes;
    std::memcpy(bytes.bytes.data(), &id, sizeof id);
    return bytes;
  }
  std::unique_ptr<DeviceComm> join(const DeviceCommConfig& config) override {
    return std::make_unique<NcclComm>(config);
  }
};

}  // namespace

DeviceComms& nccl_comms() {
  static auto* const comms = new NcclComms;
  return *comms;
}

}  // namespace lockstep::cuda
