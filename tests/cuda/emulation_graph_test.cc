// Streams captured into graphs, on the emulated device.
#include <vector>

#include "emulation_test.h"

namespace lockstep::testing {
namespace {

class Stream {
 public:
  Stream() { EXPECT_EQ(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), cudaSuccess); }
  ~Stream() { EXPECT_EQ(cudaStreamDestroy(stream_), cudaSuccess); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

class Event {
 public:
  Event() { EXPECT_EQ(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), cudaSuccess); }
  ~Event() { EXPECT_EQ(cudaEventDestroy(event_), cudaSuccess); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  cudaEvent_t get() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

__global__ void add_to(int* value, int number) { *value += number; }
__global__ void add_product(int* sum, const int* a, const int* b) { *sum += *a * *b; }

template <class... Parameters, class... Arguments>
cudaError_t issue(const Stream& stream, void (*kernel)(Parameters...), Arguments... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = config.blockDim = dim3(1);
  config.stream = stream.get();
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

cudaError_t begin(const Stream& stream) {
  return cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal);
}
// What the capture ends with; its graph is forgotten.
cudaError_t end(const Stream& stream) {
  cudaGraph_t graph = nullptr;
  const cudaError_t error = cudaStreamEndCapture(stream.get(), &graph);
  EXPECT_EQ(graph != nullptr, error == cudaSuccess);
  if (graph != nullptr) {
    EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  }
  return error;
}

TEST(EmulatedGraph, RunsWhatWasCapturedWithTheNumbersOfThatTimeOnTheMemoryOfNow) {
  const Stream stream;
  const Array<int> value(std::vector<int>{0}), copy(std::vector<int>{0});
  int* pinned = nullptr;
  ASSERT_EQ(cudaMallocHost(&pinned, sizeof(int)), cudaSuccess);
  *pinned = 100;
  int number = 7;
  ASSERT_EQ(begin(stream), cudaSuccess);
  ASSERT_EQ(cudaMemcpyAsync(value.data(), pinned, 4, cudaMemcpyHostToDevice, stream.get()),
            cudaSuccess);
  ASSERT_EQ(issue(stream, add_to, value.data(), number), cudaSuccess);
  ASSERT_EQ(cudaMemcpyAsync(copy.data(), value.data(), 4, cudaMemcpyDeviceToDevice, stream.get()),
            cudaSuccess);
  ASSERT_EQ(cudaMemsetAsync(value.data(), 0, 4, stream.get()), cudaSuccess);
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  EXPECT_EQ(cudaStreamIsCapturing(stream.get(), &status), cudaSuccess);
  EXPECT_EQ(status, cudaStreamCaptureStatusActive);
  cudaGraph_t graph = nullptr;
  ASSERT_EQ(cudaStreamEndCapture(stream.get(), &graph), cudaSuccess);
  size_t nodes = 0;
  EXPECT_EQ(cudaGraphGetNodes(graph, nullptr, &nodes), cudaSuccess);
  EXPECT_EQ(nodes, 4u);
  cudaGraphExec_t executable = nullptr;
  ASSERT_EQ(cudaGraphInstantiate(&executable, graph), cudaSuccess);
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  EXPECT_EQ(copy.values()[0], 0) << "nothing has run";
  number = 8;
  for (const int in_memory : {100, 200}) {
    *pinned = in_memory;
    ASSERT_EQ(cudaGraphLaunch(executable, stream.get()), cudaSuccess);
    ASSERT_EQ(cudaStreamSynchronize(stream.get()), cudaSuccess);
    EXPECT_EQ(copy.values()[0], in_memory + 7);
    EXPECT_EQ(value.values()[0], 0);
  }
  EXPECT_EQ(cudaGraphExecDestroy(executable), cudaSuccess);
  EXPECT_EQ(cudaGraphLaunch(executable, stream.get()), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFreeHost(pinned), cudaSuccess);
}

// a and b are computed beside each other; their product needs both.
TEST(EmulatedGraph, KeepsTheOrderThatEventsGive) {
  const Stream first, second;
  const Event fork, join;
  const Array<int> a(std::vector<int>{0}), b(std::vector<int>{0}), sum(std::vector<int>{0});
  ASSERT_EQ(begin(first), cudaSuccess);
  ASSERT_EQ(cudaEventRecord(fork.get(), first.get()), cudaSuccess);
  ASSERT_EQ(cudaStreamWaitEvent(second.get(), fork.get()), cudaSuccess);
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(issue(first, add_to, a.data(), 1), cudaSuccess);
    ASSERT_EQ(issue(second, add_to, b.data(), 2), cudaSuccess);
  }
  ASSERT_EQ(cudaEventRecord(join.get(), second.get()), cudaSuccess);
  ASSERT_EQ(cudaStreamWaitEvent(first.get(), join.get()), cudaSuccess);
  ASSERT_EQ(issue(first, add_product, sum.data(), a.data(), b.data()), cudaSuccess);
  cudaGraph_t graph = nullptr;
  ASSERT_EQ(cudaStreamEndCapture(first.get(), &graph), cudaSuccess);
  cudaGraphExec_t executable = nullptr;
  ASSERT_EQ(cudaGraphInstantiate(&executable, graph), cudaSuccess);
  int expected = 0;
  for (int i = 1; i <= 10; ++i) {
    ASSERT_EQ(cudaGraphLaunch(executable, first.get()), cudaSuccess);
    expected += 3 * i * 6 * i;
  }
  ASSERT_EQ(cudaStreamSynchronize(first.get()), cudaSuccess);
  EXPECT_EQ(sum.values()[0], expected);
  EXPECT_EQ(cudaGraphExecDestroy(executable), cudaSuccess);
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
}

TEST(EmulatedGraph, AForkHasToComeBack) {
  const Stream first, second;
  const Event fork;
  const Array<int> value(std::vector<int>{0});
  ASSERT_EQ(begin(first), cudaSuccess);
  ASSERT_EQ(cudaEventRecord(fork.get(), first.get()), cudaSuccess);
  ASSERT_EQ(cudaStreamWaitEvent(second.get(), fork.get()), cudaSuccess);
  ASSERT_EQ(issue(second, add_to, value.data(), 1), cudaSuccess);
  EXPECT_EQ(end(first), cudaErrorStreamCaptureUnjoined);
  EXPECT_EQ(cudaEventQuery(fork.get()), cudaErrorCapturedEvent);
  EXPECT_EQ(issue(second, add_to, value.data(), 5), cudaSuccess) << "as before the capture";
  EXPECT_EQ(cudaStreamSynchronize(second.get()), cudaSuccess);
  EXPECT_EQ(value.values()[0], 5);
  cudaGetLastError();
}

TEST(EmulatedGraph, WhatCannotBeCapturedSpoilsTheCapture) {
  const Stream stream, other;
  const Event outside, inside;
  const Array<int> value(std::vector<int>{0});
  int on_host = 0;
  ASSERT_EQ(cudaEventRecord(outside.get(), other.get()), cudaSuccess);
  const auto refused = [&](auto&& call) {
    EXPECT_EQ(begin(stream), cudaSuccess);
    EXPECT_EQ(issue(stream, add_to, value.data(), 1), cudaSuccess);
    const cudaError_t error = call();
    EXPECT_EQ(issue(stream, add_to, value.data(), 1), cudaErrorStreamCaptureInvalidated);
    EXPECT_EQ(end(stream), cudaErrorStreamCaptureInvalidated);
    EXPECT_EQ(cudaStreamSynchronize(stream.get()), cudaSuccess);
    return error;
  };
  constexpr auto kUnsupported = cudaErrorStreamCaptureUnsupported;
  void* data = nullptr;
  EXPECT_EQ(refused([&] { return cudaStreamSynchronize(stream.get()); }), kUnsupported);
  EXPECT_EQ(refused([&] { return cudaStreamSynchronize(other.get()); }), kUnsupported);
  EXPECT_EQ(refused([&] { return cudaDeviceSynchronize(); }), kUnsupported);
  EXPECT_EQ(refused([&] { return cudaEventQuery(outside.get()); }), kUnsupported);
  EXPECT_EQ(refused([&] { return cudaMalloc(&data, 64); }), kUnsupported);
  EXPECT_EQ(refused([&] { return cudaHostAlloc(&data, 64, 0); }), kUnsupported);
  EXPECT_EQ(refused([&] { return cudaMallocAsync(&data, 64, stream.get()); }), kUnsupported);
  EXPECT_EQ(refused([&] { return cudaFreeAsync(value.data(), stream.get()); }), kUnsupported);
  EXPECT_EQ(refused([&] {
              return cudaMemcpyAsync(value.data(), &on_host, 4, cudaMemcpyHostToDevice,
                                     stream.get());
            }),
            kUnsupported)
      << "memory that is not pinned";
  EXPECT_EQ(refused([&] { return cudaStreamWaitEvent(stream.get(), outside.get()); }),
            cudaErrorStreamCaptureIsolation);
  EXPECT_EQ(refused([&] {
              EXPECT_EQ(cudaEventRecord(inside.get(), stream.get()), cudaSuccess);
              return cudaEventSynchronize(inside.get());
            }),
            cudaErrorCapturedEvent);
  EXPECT_EQ(refused([&] { return begin(stream); }), cudaErrorIllegalState);
  EXPECT_EQ(end(stream), cudaErrorIllegalState) << "nothing is captured";
  EXPECT_EQ(value.values()[0], 0);
  cudaGetLastError();
}

TEST(EmulatedGraph, ARelaxedThreadMayAllocate) {
  const Stream stream;
  void* data = nullptr;
  ASSERT_EQ(begin(stream), cudaSuccess);
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  ASSERT_EQ(cudaThreadExchangeStreamCaptureMode(&mode), cudaSuccess);
  EXPECT_EQ(cudaMalloc(&data, 64), cudaSuccess);
  ASSERT_EQ(cudaThreadExchangeStreamCaptureMode(&mode), cudaSuccess);
  EXPECT_EQ(mode, cudaStreamCaptureModeRelaxed);
  EXPECT_EQ(end(stream), cudaSuccess);
  EXPECT_EQ(cudaFree(data), cudaSuccess);
}

}  // namespace
}  // namespace lockstep::testing
