#include "lockstep/engine/cpu/caching_allocator.h"

#include <atomic>
#include <cstdint>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/engine/tensor/error.h"

namespace lockstep::cpu {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kCaches = false;
#else
constexpr bool kCaches = true;
#endif

TEST(CachingAllocator, BlocksAreAlignedAndDisjoint) {
  struct Block {
    unsigned char* data;
    size_t bytes;
  };
  std::vector<Block> blocks;
  for (size_t bytes = 0; bytes < 5'000'000; bytes += bytes / 5 + 1) {
    auto* data = static_cast<unsigned char*>(allocate(bytes));
    ASSERT_EQ(reinterpret_cast<uintptr_t>(data) % kAlignment, 0u) << bytes;
    std::memset(data, static_cast<int>(blocks.size() % 251), bytes);
    blocks.push_back({data, bytes});
  }
  for (size_t i = 0; i < blocks.size(); ++i) {
    for (size_t at = 0; at < blocks[i].bytes; at += blocks[i].bytes / 64 + 1) {
      ASSERT_EQ(blocks[i].data[at], i % 251) << blocks[i].bytes;
    }
    deallocate(blocks[i].data, blocks[i].bytes);
  }
}

TEST(CachingAllocator, ReusesWhatWasFreed) {
  if (!kCaches) {
    GTEST_SKIP() << "AddressSanitizer: nothing is kept";
  }
  for (const size_t bytes : {1, 64, 512, 600, 4096, 1 << 20, 10'000'000}) {
    void* first = allocate(bytes);
    deallocate(first, bytes);
    void* second = allocate(bytes - bytes / 50);  // of the same class
    EXPECT_EQ(first, second) << bytes;
    deallocate(second, bytes - bytes / 50);
  }
}

TEST(CachingAllocator, CountsBytes) {
  empty_cache();
  const AllocatorStats before = allocator_stats();
  reset_peak_bytes();
  void* a = allocate(3 << 20);
  void* b = allocate(1 << 20);
  AllocatorStats now = allocator_stats();
  const size_t grown = now.bytes_in_use - before.bytes_in_use;
  EXPECT_GE(grown, size_t{4} << 20);
  EXPECT_LE(grown, (size_t{4} << 20) * 9 / 8);
  deallocate(a, 3 << 20);
  deallocate(b, 1 << 20);
  now = allocator_stats();
  EXPECT_EQ(now.bytes_in_use, before.bytes_in_use);
  EXPECT_EQ(now.peak_bytes - before.bytes_in_use, grown);
  EXPECT_EQ(now.bytes_cached - before.bytes_cached, kCaches ? grown : 0);
  empty_cache();
  EXPECT_EQ(allocator_stats().bytes_cached, before.bytes_cached);
}

TEST(CachingAllocator, SaysWhatWasAskedFor) {
  for (const size_t bytes : {size_t{1} << 46, ~size_t{0}}) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    if (bytes == size_t{1} << 46) {
      continue;  // sanitizers end the process at such a request
    }
#endif
    try {
      allocate(bytes);
      FAIL() << "allocated " << bytes;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(std::to_string(bytes) + " bytes asked for"),
                std::string::npos)
          << error.what();
    }
  }
}

TEST(CachingAllocator, BlocksMayDieOnOtherThreads) {
  const size_t before = allocator_stats().bytes_in_use;
  for (int round = 0; round < 20; ++round) {
    std::vector<std::vector<int*>> made(3);
    std::vector<std::thread> threads;
    for (int t = 0; t < 3; ++t) {
      threads.emplace_back([&, t] {
        for (int i = 0; i < 700; ++i) {
          auto* value = static_cast<int*>(allocate(i % 600 + 4));
          *value = t * 1000 + i;
          made[t].push_back(value);
        }
      });
    }
    for (auto& thread : threads) {
      thread.join();
    }
    threads.clear();
    std::atomic<int> wrong{0};
    for (int t = 0; t < 3; ++t) {
      threads.emplace_back([&, from = (t + 1) % 3] {
        for (int i = 0; i < 700; ++i) {
          wrong += *made[from][i] != from * 1000 + i;
          deallocate(made[from][i], i % 600 + 4);
        }
      });
    }
    for (auto& thread : threads) {
      thread.join();
    }
    ASSERT_EQ(wrong, 0);
  }
  EXPECT_EQ(allocator_stats().bytes_in_use, before);
}

// Statics and thread-locals that were made before the allocator's own outlive them.
struct Late {
  void* block = nullptr;
  ~Late() {
    deallocate(block, 48);
    void* more = allocate(48);
    std::memset(more, 1, 48);
    deallocate(more, 48);
  }
};
Late late_static;

TEST(CachingAllocator, WorksWhileThreadsAndTheProcessEnd) {
  const size_t before = allocator_stats().bytes_in_use;
  std::thread([] {
    static thread_local Late late;
    late.block = nullptr;
    late.block = allocate(48);
  }).join();
  EXPECT_EQ(allocator_stats().bytes_in_use, before);
  late_static.block = allocate(48);
}

}  // namespace
}  // namespace lockstep::cpu
