// The emulated runtime around the kernels: memory, streams, devices, and what it notices.
#include <algorithm>
#include <cstdlib>
#include <string>
#include <thread>

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "emulation_test.h"

namespace lockstep::testing {
namespace {

// -- memory

__global__ void write_at(char* at) { *at = 1; }

TEST(EmulatedMemoryDeathTest, IsOutOfReachWhereItShouldBe) {
  const Array<int> values(4);
  EXPECT_DEATH(*values.data() = 1, "host code touched device memory at 0x");
  // As far behind as no block is near.
  EXPECT_DEATH(run(1, 1, write_at, reinterpret_cast<char*>(values.data()) + (1 << 26)),
               "a kernel touched memory outside of its device's allocations at 0x");
  EXPECT_DEATH(cudaMemcpy(values.data(), values.data() + 1, 8, cudaMemcpyDeviceToDevice),
               "overlaps itself");
}

#if defined(__SANITIZE_ADDRESS__)
__global__ void shared_beyond(unsigned size, int* out) {
  __shared__ int values[32];
  int* volatile base = values;
  out[0] = base[size];
}

TEST(EmulatedMemoryDeathTest, SanitizerSeesNeighboursAndReleasedBlocks) {
  const Array<char> block(100), neighbour(100), shared(4);
  EXPECT_DEATH(run(1, 1, write_at, block.data() + 100), "AddressSanitizer: use-after-poison");
  EXPECT_DEATH(run(1, 1, write_at, block.data() - 1), "AddressSanitizer: use-after-poison");
  char* released = nullptr;
  ASSERT_EQ(cudaMalloc(&released, 64), cudaSuccess);
  ASSERT_EQ(cudaFree(released), cudaSuccess);
  EXPECT_DEATH(run(1, 1, write_at, released), "AddressSanitizer: use-after-poison");
  EXPECT_DEATH(run(1, 1, shared_beyond, 32, reinterpret_cast<int*>(shared.data())),
               "AddressSanitizer: global-buffer-overflow");
}
#endif

TEST(EmulatedMemory, FreshMemoryIsNaN) {
  float* first = nullptr;
  ASSERT_EQ(cudaMalloc(&first, 64), cudaSuccess);
  ASSERT_EQ(cudaMemset(first, 0, 64), cudaSuccess);
  ASSERT_EQ(cudaFree(first), cudaSuccess);
  const Array<unsigned> again(16);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(again.data()) % 256, 0u);
  EXPECT_EQ(again.values(), std::vector<unsigned>(16, kAll));
}

TEST(EmulatedMemory, IsLimitedAndCounted) {
  size_t free = 0, total = 0, now = 0;
  ASSERT_EQ(cudaMemGetInfo(&free, &total), cudaSuccess);
  EXPECT_EQ(total, size_t{1} << 30);
  char* pointer = nullptr;
  EXPECT_EQ(cudaMalloc(&pointer, free + 1), cudaErrorMemoryAllocation);
  EXPECT_EQ(pointer, nullptr);
  EXPECT_EQ(cudaMalloc(&pointer, ~size_t{0}), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaMalloc(&pointer, 1000), cudaSuccess);
  ASSERT_EQ(cudaMemGetInfo(&now, &total), cudaSuccess);
  EXPECT_EQ(free - now, 1024u);
  EXPECT_EQ(cudaFree(pointer + 1), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFree(&total), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFree(pointer), cudaSuccess);
  EXPECT_EQ(cudaFree(pointer), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFree(nullptr), cudaSuccess);
  ASSERT_EQ(cudaMemGetInfo(&now, &total), cudaSuccess);
  EXPECT_EQ(now, free);
  EXPECT_EQ(cudaMalloc(&pointer, 0), cudaSuccess);
  EXPECT_EQ(pointer, nullptr);
  cudaGetLastError();
}

// Blocks of many sizes, released in another order, never overlap and leave nothing behind.
TEST(EmulatedMemory, BlocksAreReused) {
  std::vector<unsigned char*> blocks(64, nullptr);
  unsigned char* lowest = nullptr;
  for (int round = 0; round < 4; ++round) {
    for (size_t i = 0; i < blocks.size(); ++i) {
      const size_t bytes = 1 + i * 97;
      ASSERT_EQ(cudaMalloc(&blocks[i], bytes), cudaSuccess);
      ASSERT_EQ(cudaMemset(blocks[i], static_cast<int>(i), bytes), cudaSuccess);
    }
    for (size_t n = 0; n < blocks.size(); ++n) {
      const size_t i = n * 27 % 64;
      std::vector<unsigned char> values(1 + i * 97);
      ASSERT_EQ(cudaMemcpy(values.data(), blocks[i], values.size(), cudaMemcpyDeviceToHost),
                cudaSuccess);
      EXPECT_EQ(values, std::vector<unsigned char>(1 + i * 97, static_cast<unsigned char>(i)));
      ASSERT_EQ(cudaFree(blocks[i]), cudaSuccess);
    }
    lowest = round == 0 ? blocks[0] : lowest;
  }
#if !defined(__SANITIZE_ADDRESS__)  // which delays reuse
  EXPECT_EQ(blocks[0], lowest);
#endif
}

TEST(EmulatedMemory, CopiesAreChecked) {
  const Array<int> a(iota(8)), b(8);
  std::vector<int> host(8), other(8);
  const size_t bytes = 8 * sizeof(int);
  EXPECT_EQ(cudaMemcpy(b.data(), a.data(), bytes, cudaMemcpyDeviceToDevice), cudaSuccess);
  EXPECT_EQ(cudaMemcpyAsync(host.data(), b.data() + 2, bytes - 8, cudaMemcpyDefault), cudaSuccess);
  EXPECT_EQ(host, (std::vector<int>{2, 3, 4, 5, 6, 7, 0, 0}));
  EXPECT_EQ(cudaMemcpy(other.data(), host.data(), bytes, cudaMemcpyHostToHost), cudaSuccess);
  EXPECT_EQ(other, host);

  for (const auto kind : {cudaMemcpyHostToHost, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice}) {
    EXPECT_EQ(cudaMemcpy(b.data(), host.data(), bytes, kind), cudaErrorInvalidValue) << kind;
  }
  EXPECT_EQ(cudaMemcpy(host.data(), a.data(), bytes, cudaMemcpyHostToDevice),
            cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(b.data(), host.data(), bytes, static_cast<cudaMemcpyKind>(9)),
            cudaErrorInvalidMemcpyDirection);
  EXPECT_EQ(cudaMemcpy(b.data() + 1, host.data(), bytes, cudaMemcpyHostToDevice),
            cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(nullptr, a.data(), bytes, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemset(b.data(), 0, bytes + 1), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemset(host.data(), 0, bytes), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemsetAsync(b.data(), 1, 4), cudaSuccess);
  EXPECT_EQ(b.values(), (std::vector<int>{0x01010101, 1, 2, 3, 4, 5, 6, 7}));
  cudaGetLastError();
}

TEST(EmulatedMemory, PointersKnowWhereTheyLie) {
  const Array<int> device(2);
  int* pinned = nullptr;
  ASSERT_EQ(cudaMallocHost(&pinned, 100), cudaSuccess);
  pinned[0] = 1;
  cudaPointerAttributes found = {};
  ASSERT_EQ(cudaPointerGetAttributes(&found, device.data() + 1), cudaSuccess);
  EXPECT_EQ(found.type, cudaMemoryTypeDevice);
  EXPECT_EQ(found.device, 0);
  EXPECT_EQ(found.devicePointer, device.data() + 1);
  ASSERT_EQ(cudaPointerGetAttributes(&found, pinned + 5), cudaSuccess);
  EXPECT_EQ(found.type, cudaMemoryTypeHost);
  EXPECT_EQ(found.hostPointer, pinned + 5);
  ASSERT_EQ(cudaPointerGetAttributes(&found, &found), cudaSuccess);
  EXPECT_EQ(found.type, cudaMemoryTypeUnregistered);
  EXPECT_EQ(cudaFreeHost(&found), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFreeHost(pinned), cudaSuccess);
  EXPECT_EQ(cudaFree(&found), cudaErrorInvalidValue);
  cudaGetLastError();
}

uint64_t pool_value(cudaMemPool_t pool, cudaMemPoolAttr attribute) {
  uint64_t value = 0;
  EXPECT_EQ(cudaMemPoolGetAttribute(pool, attribute, &value), cudaSuccess);
  return value;
}

TEST(EmulatedPool, KeepsWhatItsThresholdSays) {
  cudaMemPoolProps properties = {};
  properties.allocType = cudaMemAllocationTypePinned;
  properties.location = {cudaMemLocationTypeDevice, 0};
  cudaMemPool_t pool = nullptr;
  ASSERT_EQ(cudaMemPoolCreate(&pool, &properties), cudaSuccess);
  uint64_t threshold = 4096;
  ASSERT_EQ(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold),
            cudaSuccess);
  size_t free = 0, now = 0, total = 0;
  ASSERT_EQ(cudaMemGetInfo(&free, &total), cudaSuccess);
  char *large = nullptr, *small = nullptr;
  ASSERT_EQ(cudaMallocFromPoolAsync(&large, 8192, pool, nullptr), cudaSuccess);
  ASSERT_EQ(cudaMallocFromPoolAsync(&small, 256, pool, nullptr), cudaSuccess);
  EXPECT_EQ(pool_value(pool, cudaMemPoolAttrUsedMemCurrent), 8448u);
  ASSERT_EQ(cudaFreeAsync(large, nullptr), cudaSuccess);
  EXPECT_EQ(pool_value(pool, cudaMemPoolAttrUsedMemCurrent), 256u);
  EXPECT_EQ(pool_value(pool, cudaMemPoolAttrUsedMemHigh), 8448u);
  EXPECT_EQ(pool_value(pool, cudaMemPoolAttrReservedMemCurrent), 4096u);
  ASSERT_EQ(cudaMemGetInfo(&now, &total), cudaSuccess);
  EXPECT_EQ(free - now, 4096u);
  EXPECT_EQ(cudaMemPoolTrimTo(pool, 0), cudaSuccess);
  EXPECT_EQ(pool_value(pool, cudaMemPoolAttrReservedMemCurrent), 256u);
  uint64_t zero = 0;
  EXPECT_EQ(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrUsedMemHigh, &zero), cudaSuccess);
  EXPECT_EQ(pool_value(pool, cudaMemPoolAttrUsedMemHigh), 256u);
  EXPECT_EQ(cudaMemPoolDestroy(pool), cudaSuccess);  // waits for the small block
  EXPECT_EQ(cudaMallocFromPoolAsync(&large, 1, pool, nullptr), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFreeAsync(small, nullptr), cudaSuccess);
  ASSERT_EQ(cudaMemGetInfo(&now, &total), cudaSuccess);
  EXPECT_EQ(now, free);

  cudaMemPool_t common = nullptr;
  ASSERT_EQ(cudaDeviceGetDefaultMemPool(&common, 0), cudaSuccess);
  ASSERT_EQ(cudaMallocAsync(&small, 1, nullptr), cudaSuccess);
  EXPECT_EQ(pool_value(common, cudaMemPoolAttrUsedMemCurrent), 256u);
  EXPECT_EQ(cudaFree(small), cudaSuccess);
  EXPECT_EQ(cudaMemPoolDestroy(common), cudaErrorInvalidValue);
  cudaGetLastError();
}

// -- streams, events, devices

TEST(EmulatedStreams, HandlesAreChecked) {
  cudaStream_t stream = nullptr;
  cudaEvent_t start = nullptr, end = nullptr, untimed = nullptr;
  ASSERT_EQ(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, -99), cudaSuccess);
  ASSERT_EQ(cudaEventCreate(&start), cudaSuccess);
  ASSERT_EQ(cudaEventCreate(&end), cudaSuccess);
  ASSERT_EQ(cudaEventCreateWithFlags(&untimed, cudaEventDisableTiming), cudaSuccess);
  int priority = 0, least = 0, greatest = 0;
  EXPECT_EQ(cudaStreamGetPriority(stream, &priority), cudaSuccess);
  EXPECT_EQ(cudaDeviceGetStreamPriorityRange(&least, &greatest), cudaSuccess);
  EXPECT_EQ(priority, greatest);
  float milliseconds = -1;
  EXPECT_EQ(cudaEventQuery(start), cudaSuccess);
  EXPECT_EQ(cudaEventElapsedTime(&milliseconds, start, end), cudaErrorInvalidResourceHandle);
  EXPECT_EQ(cudaEventRecord(start, stream), cudaSuccess);
  EXPECT_EQ(cudaEventRecord(end, stream), cudaSuccess);
  EXPECT_EQ(cudaEventRecord(untimed, stream), cudaSuccess);
  EXPECT_EQ(cudaEventElapsedTime(&milliseconds, start, end), cudaSuccess);
  EXPECT_GE(milliseconds, 0);
  EXPECT_EQ(cudaEventElapsedTime(&milliseconds, start, untimed), cudaErrorInvalidResourceHandle);
  EXPECT_EQ(cudaStreamWaitEvent(nullptr, end), cudaSuccess);
  int called = 0;
  EXPECT_EQ(cudaLaunchHostFunc(
                stream, [](void* n) { ++*static_cast<int*>(n); }, &called),
            cudaSuccess);
  EXPECT_EQ(called, 1);
  EXPECT_EQ(cudaStreamQuery(stream), cudaSuccess);
  for (const cudaEvent_t event : {start, end, untimed}) {
    EXPECT_EQ(cudaEventDestroy(event), cudaSuccess);
    EXPECT_EQ(cudaStreamWaitEvent(stream, event), cudaErrorInvalidResourceHandle);
  }
  EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaErrorInvalidResourceHandle);
  EXPECT_EQ(cudaPeekAtLastError(), cudaErrorInvalidResourceHandle);
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidResourceHandle);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  EXPECT_STREQ(cudaGetErrorName(cudaErrorMemoryAllocation), "cudaErrorMemoryAllocation");
  EXPECT_STREQ(cudaGetErrorString(cudaErrorMemoryAllocation), "out of memory");
}

TEST(EmulatedDevices, AreDescribed) {
  cudaDeviceProp properties = {};
  ASSERT_EQ(cudaGetDeviceProperties(&properties, 0), cudaSuccess);
  EXPECT_STREQ(properties.name, "emulated");
  EXPECT_EQ(properties.major * 10 + properties.minor, 90);
  int processors = 0;
  ASSERT_EQ(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, 0), cudaSuccess);
  EXPECT_EQ(processors, properties.multiProcessorCount);
  EXPECT_EQ(cudaSetDevice(1), cudaErrorInvalidDevice);
  cudaGetLastError();
}

// In processes of their own, because the environment is read once.
class EmulatedEnvironmentDeathTest : public ::testing::Test {
 protected:
  void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
  void TearDown() override { GTEST_FLAG_SET(death_test_style, "fast"); }
};

// Ends the process: 0 if all of `conditions` hold, else the number of the first that does not.
[[noreturn]] void leave(std::initializer_list<bool> conditions) {
  const auto* const wrong = std::find(conditions.begin(), conditions.end(), false);
  std::_Exit(wrong == conditions.end() ? 0 : static_cast<int>(wrong - conditions.begin()) + 1);
}

void without_devices() {
  setenv("LOCKSTEP_EMULATED_GPUS", "0", 1);
  int count = -1;
  void* pointer = nullptr;
  cudaStream_t stream = nullptr;
  leave({cudaGetDeviceCount(&count) == cudaErrorNoDevice, count == 0,
         cudaGetLastError() == cudaErrorNoDevice, cudaSetDevice(0) == cudaErrorNoDevice,
         cudaMalloc(&pointer, 1) == cudaErrorNoDevice,
         cudaStreamCreate(&stream) == cudaErrorNoDevice,
         run(1, 1, write_at, nullptr) == cudaErrorNoDevice,
         cudaDeviceSynchronize() == cudaErrorNoDevice});
}

void with_small_devices() {
  setenv("LOCKSTEP_EMULATED_GPUS", "2", 1);
  setenv("LOCKSTEP_EMULATED_GPU_BYTES", "65536", 1);
  int count = -1, device = -1;
  char *first = nullptr, *second = nullptr, *third = nullptr;
  cudaStream_t stream = nullptr;
  cudaEvent_t event = nullptr;
  cudaLaunchConfig_t config = {};
  std::vector<char> host(65536, 'x');
  bool reused = true;  // more often than there are addresses for
  for (int i = 0; i < 1200; ++i) {
    reused &= cudaMalloc(&first, 60000) == cudaSuccess && cudaFree(first) == cudaSuccess;
  }
  leave({reused, cudaGetDeviceCount(&count) == cudaSuccess, count == 2,
         cudaStreamCreate(&stream) == cudaSuccess, cudaMalloc(&first, 65536) == cudaSuccess,
         cudaMalloc(&third, 1) == cudaErrorMemoryAllocation, cudaSetDevice(1) == cudaSuccess,
         cudaMalloc(&second, 65536) == cudaSuccess, cudaEventCreate(&event) == cudaSuccess,
         cudaEventRecord(event, stream) == cudaErrorInvalidResourceHandle,
         cudaEventRecord(event) == cudaSuccess,
         (config.stream = stream) != nullptr,  // of device 0
         cudaLaunchKernelEx(&config, write_at, second) == cudaErrorInvalidResourceHandle,
         (std::thread([&] { cudaGetDevice(&device); }).join(), device == 0),
         cudaMemcpy(first, host.data(), 65536, cudaMemcpyHostToDevice) == cudaSuccess,
         cudaMemcpy(second, first, 65536, cudaMemcpyDeviceToDevice) == cudaSuccess,
         run(1, 1, write_at, second) == cudaSuccess,
         cudaMemcpy(host.data(), second, 65536, cudaMemcpyDeviceToHost) == cudaSuccess,
         host[0] == 1 && host[1] == 'x' && host[65535] == 'x'});
}

void on_the_wrong_device() {
  setenv("LOCKSTEP_EMULATED_GPUS", "2", 1);
  char* pointer = nullptr;
  cudaMalloc(&pointer, 1);
  cudaSetDevice(1);
  run(1, 1, write_at, pointer);
}

// The order that a process with this seed sees in its first launch.
std::vector<unsigned> order_with_seed(const char* seed) {
  int ends[2];
  std::vector<unsigned> order(16, 0);
  const size_t bytes = order.size() * sizeof(unsigned);
  if (pipe(ends) != 0) {
    return {};
  }
  const pid_t child = fork();
  if (child == 0) {
    setenv("LOCKSTEP_EMULATION_SEED", seed, 1);
    order = order_of_threads(1, 16);
    std::_Exit(write(ends[1], order.data(), bytes) < 0);
  }
  close(ends[1]);
  const bool whole = read(ends[0], order.data(), bytes) == static_cast<ssize_t>(bytes);
  waitpid(child, nullptr, 0);
  close(ends[0]);
  return whole ? order : std::vector<unsigned>{};
}

void with_seeds() {
  const auto one = order_with_seed("1");
  leave({one.size() == 16, order_with_seed("1") == one, order_with_seed("2") != one});
}

// The host, a copy back and a second stream that were not told to wait see what is not there yet.
void with_deferred_work() {
  setenv("LOCKSTEP_EMULATION_DEFER", "1", 1);
  cudaStream_t one = nullptr, other = nullptr;
  cudaEvent_t event = nullptr;
  unsigned char *device = nullptr, *pinned = nullptr, *unordered = nullptr;
  unsigned char pageable[4] = {1, 2, 3, 4};
  static int called = 0;
  const auto call = [](void*) { ++called; };
  leave({cudaStreamCreateWithFlags(&one, cudaStreamNonBlocking) == cudaSuccess,
         cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking) == cudaSuccess,
         cudaEventCreate(&event) == cudaSuccess, cudaMallocAsync(&device, 4, one) == cudaSuccess,
         cudaMallocHost(&pinned, 4) == cudaSuccess, cudaMallocHost(&unordered, 4) == cudaSuccess,
         cudaMemcpyAsync(device, pageable, 4, cudaMemcpyHostToDevice, one) == cudaSuccess,
         (pageable[0] = 9, true),  // has been read
         cudaLaunchHostFunc(one, call, nullptr) == cudaSuccess,
         cudaEventRecord(event, one) == cudaSuccess, cudaEventQuery(event) == cudaErrorNotReady,
         cudaMemcpyAsync(unordered, device, 4, cudaMemcpyDeviceToHost, other) == cudaSuccess,
         cudaStreamWaitEvent(other, event) == cudaSuccess,
         cudaMemcpyAsync(pinned, device, 4, cudaMemcpyDeviceToHost, other) == cudaSuccess,
         pinned[0] == 0xff, called == 0, cudaStreamSynchronize(other) == cudaSuccess, called == 1,
         unordered[0] == 0xff, pinned[0] == 1 && pinned[3] == 4,
         cudaEventQuery(event) == cudaSuccess,
         // What is pinned is read late, what is not is there when the call returns.
         cudaMemcpyAsync(device, pinned, 4, cudaMemcpyHostToDevice, one) == cudaSuccess,
         (pinned[0] = 7, true),
         cudaMemcpyAsync(pageable, device, 4, cudaMemcpyDeviceToHost, one) == cudaSuccess,
         pageable[0] == 7 && pageable[1] == 2, cudaFreeAsync(device, one) == cudaSuccess,
         cudaHostRegister(pageable, 4, cudaHostRegisterDefault) == cudaSuccess,
         cudaHostRegister(pageable + 2, 4, 0) == cudaErrorHostMemoryAlreadyRegistered,
         cudaHostUnregister(pageable + 1) == cudaErrorHostMemoryNotRegistered});
}

void with_late_copies() {
  setenv("LOCKSTEP_EMULATION_DEFER", "1", 1);
  cudaStream_t stream = nullptr;
  unsigned char *device = nullptr, *pinned = nullptr;
  cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  cudaMallocHost(&pinned, 4);
  cudaMallocAsync(&device, 4, stream);
  cudaFreeAsync(device, stream);
  cudaMemcpyAsync(device, pinned, 4, cudaMemcpyHostToDevice, stream);
  cudaStreamSynchronize(stream);
}

void without_protection_keys() {
  while (pkey_alloc(0, 0) >= 0) {
  }
  const Array<int> values(iota(4));
  if (values.values() == iota(4)) {
    *values.data() = 1;
  }
}

TEST_F(EmulatedEnvironmentDeathTest, IsReadOnce) {
  EXPECT_EXIT(without_devices(), ::testing::ExitedWithCode(0), "");
  EXPECT_EXIT(with_small_devices(), ::testing::ExitedWithCode(0), "");
  EXPECT_EXIT(with_seeds(), ::testing::ExitedWithCode(0), "");
  EXPECT_EXIT(with_deferred_work(), ::testing::ExitedWithCode(0), "");
  EXPECT_DEATH(with_late_copies(), "runs after the memory's release");
  EXPECT_DEATH(without_protection_keys(), "host code touched device memory at 0x");
  EXPECT_DEATH(on_the_wrong_device(), "a kernel touched memory outside of its device's");
}

}  // namespace
}  // namespace lockstep::testing
