// Kernels under emulation: that they compute what they would on a device, and that wrong ones are
// noticed.
#include "emulation_test.h"

#include <algorithm>
#include <thread>

namespace lockstep::testing {
namespace {

// -- threads

__global__ void __launch_bounds__(1024) count_threads(int* counts) {
  const auto block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const auto thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  ++counts[block * blockDim.x * blockDim.y * blockDim.z + thread];
}

TEST(EmulatedLaunch, RunsEveryThreadOnce) {
  const Array<int> counts(std::vector<int>(2 * 3 * 4 * 5 * 6 * 7, 0));
  ASSERT_EQ(run({2, 3, 4}, {5, 6, 7}, count_threads, counts.data()), cudaSuccess);
  EXPECT_EQ(counts.values(), std::vector<int>(2 * 3 * 4 * 5 * 6 * 7, 1));
}

TEST(EmulatedLaunch, RefusesWhatADeviceRefuses) {
  int* const none = nullptr;
  const dim3 invalid[][2] = {{{0, 1, 1}, 32},  {{1, 0, 1}, 32},    {{1, 1, 0}, 32},
                             {1, {0, 1, 1}},   {1, {1, 0, 1}},     {1, {1, 1, 0}},
                             {1, 1025},        {1, {32, 33, 1}},   {1, {1, 1, 65}},
                             {0x80000000u, 1}, {{1, 65536, 1}, 1}, {{1, 1, 65536}, 1}};
  for (const auto& [grid, block] : invalid) {
    EXPECT_EQ(run(grid, block, count_threads, none), cudaErrorInvalidConfiguration)
        << grid.x << ' ' << grid.y << ' ' << grid.z << ", " << block.x << ' ' << block.y << ' '
        << block.z;
  }
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidConfiguration);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
}

TEST(EmulatedLaunch, OrderIsRandomAndNew) {
  const auto first = order_of_threads(1, 64), second = order_of_threads(1, 64);
  EXPECT_NE(first, second);
  for (auto order : {first, second}) {
    EXPECT_FALSE(std::is_sorted(order.begin(), order.end()));
    std::sort(order.begin(), order.end());
    for (unsigned i = 0; i < 64; ++i) {
      EXPECT_EQ(order[i], i);
    }
  }
  auto blocks = order_of_threads(60, 1);
  EXPECT_FALSE(std::is_sorted(blocks.begin(), blocks.end()));
  std::sort(blocks.begin(), blocks.end());
  EXPECT_EQ(std::unique(blocks.begin(), blocks.end()) - blocks.begin(), 60);
  EXPECT_EQ(blocks.back(), 59u);
}

__global__ void add(const __grid_constant__ float4 terms, double* sum) {
  *sum = terms.x + terms.y + terms.z + terms.w;
}

TEST(EmulatedLaunch, ConvertsArguments) {
  const Array<double> sum(1);
  ASSERT_EQ(run(1, 1, add, make_float4(1, 2, 3, 4), sum.data()), cudaSuccess);
  EXPECT_EQ(sum.values()[0], 10);
}

TEST(EmulatedLaunch, ThreadsOfTheHostTakeTurns) {
  const Array<int> counts(std::vector<int>(256, 0));
  std::vector<std::thread> hosts;
  for (int i = 0; i < 4; ++i) {
    hosts.emplace_back([&] {
      for (int n = 0; n < 5; ++n) {
        EXPECT_EQ(run(1, 256, count_threads, counts.data()), cudaSuccess);
      }
    });
  }
  for (auto& host : hosts) {
    host.join();
  }
  EXPECT_EQ(counts.values(), std::vector<int>(256, 20));
}

// -- barriers

// One sum per block, by halves. `kBarrier` false leaves out what it needs.
template <bool kBarrier>
__global__ void sum_blocks(const int* in, int* out) {
  __shared__ int sums[256];
  const unsigned i = threadIdx.x;
  sums[i] = in[blockIdx.x * blockDim.x + i];
  for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
    if (kBarrier) {
      __syncthreads();
    }
    if (i < half) {
      sums[i] += sums[i + half];
    }
  }
  if (i == 0) {
    out[blockIdx.x] = sums[0];
  }
}

TEST(EmulatedBarrier, SumsBlocksAndMissesNoMissingBarrier) {
  const Array<int> in(iota(8 * 256)), out(8);
  ASSERT_EQ(run(8, 256, sum_blocks<true>, in.data(), out.data()), cudaSuccess);
  std::vector<int> expected(8);
  for (int block = 0; block < 8; ++block) {
    expected[static_cast<size_t>(block)] = 256 * 256 * block + 255 * 256 / 2;
  }
  EXPECT_EQ(out.values(), expected);
  ASSERT_EQ(run(8, 256, sum_blocks<false>, in.data(), out.data()), cudaSuccess);
  EXPECT_NE(out.values(), expected);
}

// Threads from `stay` on return first; the others meet twice without them.
__global__ void meet_without(unsigned stay, int* seen) {
  __shared__ int last;
  if (threadIdx.x >= stay) {
    return;
  }
  if (threadIdx.x == 0) {
    last = 7;
  }
  __syncthreads();
  seen[threadIdx.x] = last;
  __syncthreads();
  if (threadIdx.x == 0) {
    last = 0;
  }
}

TEST(EmulatedBarrier, WhoHasReturnedCountsAsArrived) {
  for (int i = 0; i < 3; ++i) {
    const Array<int> seen(std::vector<int>(5, 0));
    ASSERT_EQ(run(1, 70, meet_without, 5, seen.data()), cudaSuccess);
    EXPECT_EQ(seen.values(), std::vector<int>(5, 7));
  }
}

__global__ void predicates(int* out) {
  const unsigned i = threadIdx.x;
  const int thirds = __syncthreads_count(i % 3 == 0);
  const int some = __syncthreads_or(i == 5), none = __syncthreads_or(0);
  const int all = __syncthreads_and(1), not_all = __syncthreads_and(i != 5);
  out[i] = thirds * 16 + some * 8 + none * 4 + all * 2 + not_all;
}

TEST(EmulatedBarrier, CountsPredicates) {
  const Array<int> out(90);
  ASSERT_EQ(run(1, 90, predicates, out.data()), cudaSuccess);
  EXPECT_EQ(out.values(), std::vector<int>(90, 30 * 16 + 8 + 2));
}

__global__ void barrier_for_half() {
  if (threadIdx.x < 16) {
    __syncthreads();
  } else {
    __syncwarp();
  }
}

__global__ void barriers_at_two_lines() {
  if (threadIdx.x % 2 == 0) {  // NOLINT(bugprone-branch-clone): they differ in their line
    __syncthreads();
  } else {
    __syncthreads();
  }
}

TEST(EmulatedBarrierDeathTest, DivergenceIsReported) {
  EXPECT_DEATH(
      run(1, 32, barrier_for_half),
      "deadlock in block \\(0, 0, 0\\) of kernel .*: of 32 threads 16 wait at __syncthreads, "
      "line .*barrier_for_half.*; 16 wait at __syncwarp with mask 0xffffffff, line ");
  EXPECT_DEATH(
      run(1, 64, barriers_at_two_lines),
      "different barriers in block .*: of 64 threads 32 wait at __syncthreads, line .*; 32 "
      "wait at __syncthreads, line ");
}

// -- warps

// Rows of 32 results each, of values 100 + lane.
template <class T>
__global__ void shuffles(T* out) {
  const unsigned lane = threadIdx.x % 32;
  const T value = static_cast<T>(lane) + T(100);
  const T results[] = {__shfl_sync(kAll, value, 5),         __shfl_sync(kAll, value, 5, 8),
                       __shfl_up_sync(kAll, value, 3),      __shfl_up_sync(kAll, value, 3, 16),
                       __shfl_down_sync(kAll, value, 3),    __shfl_down_sync(kAll, value, 3, 4),
                       __shfl_xor_sync(kAll, value, 16),    __shfl_xor_sync(kAll, value, 9, 8),
                       __shfl_sync(kAll, value, lane + 40u)};
  for (unsigned row = 0; row < 9; ++row) {
    out[row * blockDim.x + threadIdx.x] = results[row];
  }
}

template <class T>
void expect_shuffles() {
  const int threads = 64;
  const Array<T> out(9 * threads);
  ASSERT_EQ(run(1, threads, shuffles<T>, out.data()), cudaSuccess);
  std::vector<T> expected;
  const auto row = [&](auto lane_read_by) {
    for (int i = 0; i < threads; ++i) {
      expected.push_back(static_cast<T>(100 + lane_read_by(i % 32)));
    }
  };
  row([](int) { return 5; });
  row([](int lane) { return lane / 8 * 8 + 5; });
  row([](int lane) { return lane < 3 ? lane : lane - 3; });
  row([](int lane) { return lane % 16 < 3 ? lane : lane - 3; });
  row([](int lane) { return lane > 28 ? lane : lane + 3; });
  row([](int lane) { return lane % 4 > 0 ? lane : lane + 3; });
  row([](int lane) { return lane ^ 16; });
  // Out of the own segment: upwards is refused, downwards is not (PTX, shfl.bfly).
  row([](int lane) { return (lane ^ 9) > (lane | 7) ? lane : lane ^ 9; });
  row([](int lane) { return (lane + 8) % 32; });
  EXPECT_EQ(out.values(), expected);
}

TEST(EmulatedWarp, Shuffles) {
  expect_shuffles<int>();
  expect_shuffles<float>();
  expect_shuffles<double>();
  expect_shuffles<unsigned long long>();
}

// Half warps that never meet, each with its own number of steps; then votes of the whole warp.
__global__ void halves(unsigned* out) {
  const unsigned lane = threadIdx.x % 32;
  const unsigned mask = lane < 16 ? 0xffffu : 0xffff0000u;
  unsigned sum = 1;
  for (unsigned step = lane < 16 ? 8 : 4; step > 0; step /= 2) {
    sum += __shfl_xor_sync(mask, sum, static_cast<int>(step));
  }
  const unsigned odd = __ballot_sync(kAll, lane % 2 == 1);
  const int any = __any_sync(kAll, lane == 3), all = __all_sync(kAll, lane == 3);
  const unsigned third = __any_sync(mask, lane == 3) ? 1u : 0u;
  out[threadIdx.x] =
      sum | (odd == 0xaaaaaaaau ? 32u : 0u) | (any ? 64u : 0u) | (all ? 128u : 0u) | third << 8;
}

TEST(EmulatedWarp, PartsOfAWarpGoTheirOwnWay) {
  const Array<unsigned> out(96);
  ASSERT_EQ(run(1, 96, halves, out.data()), cudaSuccess);
  const auto values = out.values();
  for (size_t i = 0; i < 96; ++i) {
    EXPECT_EQ(values[i], i % 32 < 16 ? (16 | 32 | 64 | 256) : (8 | 32 | 64)) << i;
  }
}

// Neighbours exchange through shared memory.
template <bool kSync>
__global__ void rotate(int* out) {
  __shared__ int values[32];
  values[threadIdx.x] = static_cast<int>(threadIdx.x + 1);
  if (kSync) {
    __syncwarp();
  }
  out[threadIdx.x] = values[(threadIdx.x + 1) % 32];
}

TEST(EmulatedWarp, MissesNoMissingSyncwarp) {
  auto expected = iota(32);
  for (int& value : expected) {
    value = (value + 1) % 32 + 1;
  }
  const Array<int> out(32);
  ASSERT_EQ(run(1, 32, rotate<false>, out.data()), cudaSuccess);
  EXPECT_NE(out.values(), expected);
  ASSERT_EQ(run(1, 32, rotate<true>, out.data()), cudaSuccess);
  EXPECT_EQ(out.values(), expected);
}

__global__ void shuffle_among(unsigned mask, int source, unsigned* out) {
  if ((mask >> threadIdx.x & 1) != 0) {
    out[threadIdx.x] = __shfl_sync(mask, threadIdx.x, source);
  }
}

TEST(EmulatedWarp, LaneOutsideOfTheMaskIsUndefined) {
  const Array<unsigned> out(4);
  ASSERT_EQ(run(1, 32, shuffle_among, 0xfu, 9, out.data()), cudaSuccess);
  EXPECT_EQ(out.values(), std::vector<unsigned>(4, kAll));
}

__global__ void shuffle_after_return(unsigned leaves, unsigned mask, int width) {
  if (threadIdx.x != leaves) {
    __shfl_sync(mask, 1, 0, width);
  }
}

// Lane 0 leaves before anybody else goes on.
__global__ void shuffle_much_later() {
  if (threadIdx.x > 0) {
    __syncthreads();
    __shfl_down_sync(kAll, 1, 1);
  }
}

__global__ void vote_without_lane_0(unsigned* out) {
  if (threadIdx.x > 0) {
    __syncwarp();
    out[threadIdx.x] = __ballot_sync(kAll, 1);
  }
}

TEST(EmulatedWarp, WhoHasReturnedNeedNotVote) {
  const Array<unsigned> out(32);
  ASSERT_EQ(run(1, 32, vote_without_lane_0, out.data()), cudaSuccess);
  std::vector<unsigned> expected(32, kAll - 1);
  expected[0] = kAll;  // not written
  EXPECT_EQ(out.values(), expected);
}

__global__ void two_operations() {
  if (threadIdx.x < 8) {
    __syncwarp();
  } else {
    __all_sync(kAll, 1);
  }
}

TEST(EmulatedWarpDeathTest, WrongMasksAreReported) {
  EXPECT_DEATH(run(1, 32, shuffle_after_return, 3, kAll, 32),
               "__shfl_sync with mask 0xffffffff names lanes 0x8 that have returned");
  EXPECT_DEATH(run(1, 24, shuffle_after_return, 99, kAll, 32), "names lanes 0xff000000");
  EXPECT_DEATH(run(1, 32, shuffle_after_return, 99, 0xfu, 32),
               "with mask 0xf called by lane [0-9]+ outside of it");
  EXPECT_DEATH(run(1, 32, shuffle_after_return, 99, kAll, 12), "of width 12, not a power of two");
  EXPECT_DEATH(run(1, 32, shuffle_much_later),
               "__shfl_down_sync with mask 0xffffffff names lanes 0x1 that have returned");
  EXPECT_DEATH(run(1, 32, two_operations),
               "deadlock in .*of 32 threads 8 wait at __syncwarp .*; 24 wait at a vote ");
}

// -- atomics and dynamic shared memory

__global__ void atomics(int* i, unsigned* u, unsigned long long* l) {
  atomicAdd(i, -1);
  atomicMax(u, threadIdx.x);
  atomicAdd(l, 1ull << 40);
  __threadfence();
}

TEST(EmulatedAtomics, Integers) {
  const Array<int> i(std::vector<int>{7});
  const Array<unsigned> u(std::vector<unsigned>{3});
  const Array<unsigned long long> l(std::vector<unsigned long long>{5});
  ASSERT_EQ(run(4, 100, atomics, i.data(), u.data(), l.data()), cudaSuccess);
  EXPECT_EQ(i.values()[0], 7 - 400);
  EXPECT_EQ(u.values()[0], 99u);
  EXPECT_EQ(l.values()[0], (400ull << 40) + 5);
}

__global__ void reverse_block(int* values) {
  auto* const copy = static_cast<int*>(emulation::dynamic_shared());
  if (copy[threadIdx.x] != -1) {  // fresh: all bits set
    return;
  }
  copy[threadIdx.x] = values[threadIdx.x];
  __syncthreads();
  values[threadIdx.x] = copy[blockDim.x - 1 - threadIdx.x];
}

TEST(EmulatedSharedMemory, Dynamic) {
  auto expected = iota(128);
  const Array<int> values(expected);
  cudaLaunchConfig_t config = {};
  config.blockDim = 128;
  config.dynamicSmemBytes = 128 * sizeof(int);
  ASSERT_EQ(cudaLaunchKernelEx(&config, reverse_block, values.data()), cudaSuccess);
  std::reverse(expected.begin(), expected.end());
  EXPECT_EQ(values.values(), expected);

  config.dynamicSmemBytes = 49 * 1024;
  const auto limit = cudaFuncAttributeMaxDynamicSharedMemorySize;
  EXPECT_EQ(cudaLaunchKernelEx(&config, reverse_block, values.data()), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFuncSetAttribute(reverse_block, limit, 228 * 1024), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFuncSetAttribute(reverse_block, limit, 49 * 1024), cudaSuccess);
  EXPECT_EQ(cudaLaunchKernelEx(&config, reverse_block, values.data()), cudaSuccess);
}

}  // namespace
}  // namespace lockstep::testing
