#include "lockstep/engine/cpu/thread_pool.h"

#include <atomic>
#include <chrono>
#include <limits>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lockstep/engine/tensor/error.h"

namespace lockstep::cpu {
namespace {

class ThreadPool : public ::testing::Test {
 protected:
  void SetUp() override { set_num_threads(3); }
};

TEST_F(ThreadPool, RunsEveryTileOnce) {
  for (const int64_t tiles : {0, 1, 2, 3, 7, 1000}) {
    std::vector<std::atomic<int>> runs(tiles);
    parallel_for(tiles, [&](int64_t tile) { ++runs[tile]; });
    for (const auto& count : runs) {
      EXPECT_EQ(count, 1);
    }
  }
}

TEST_F(ThreadPool, UsesSeveralThreads) {
  // Every tile waits for another one: with a single thread this would never end.
  std::atomic<int> arrived{0};
  parallel_for(2, [&](int64_t) {
    ++arrived;
    while (arrived < 2) {
      std::this_thread::yield();
    }
  });
  EXPECT_EQ(arrived, 2);
}

TEST_F(ThreadPool, StaysWithinItsThreads) {
  set_num_threads(2);
  std::mutex mutex;
  std::set<std::thread::id> ids;
  for (int repeat = 0; repeat < 50; ++repeat) {
    parallel_for(8, [&](int64_t) {
      const std::lock_guard lock(mutex);
      ids.insert(std::this_thread::get_id());
    });
  }
  EXPECT_LE(ids.size(), 2u);
  set_num_threads(1);
  parallel_for(8, [caller = std::this_thread::get_id()](int64_t) {
    EXPECT_EQ(std::this_thread::get_id(), caller);
  });
}

TEST_F(ThreadPool, NestedCallsRunInline) {
  std::atomic<int64_t> sum{0};
  parallel_for(10, [&](int64_t outer) {
    const auto thread = std::this_thread::get_id();
    parallel_for(10, [&](int64_t inner) {
      EXPECT_EQ(std::this_thread::get_id(), thread);
      sum += outer * 10 + inner;
    });
  });
  EXPECT_EQ(sum, 99 * 100 / 2);
}

TEST_F(ThreadPool, ServesSeveralCallers) {
  std::vector<std::thread> callers;
  std::atomic<int> wrong{0};
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&] {
      for (int repeat = 0; repeat < 500; ++repeat) {
        std::vector<int> out(20, 0);  // plain ints: a tile lost or run late is a race or a zero
        parallel_for(20, [&](int64_t tile) { out[tile] = static_cast<int>(tile) + repeat; });
        for (int tile = 0; tile < 20; ++tile) {
          wrong += out[tile] != tile + repeat;
        }
      }
    });
  }
  for (auto& caller : callers) {
    caller.join();
  }
  EXPECT_EQ(wrong, 0);
}

TEST_F(ThreadPool, RethrowsInTheCaller) {
  for (int repeat = 0; repeat < 100; ++repeat) {
    try {
      parallel_for(50, [&](int64_t tile) {
        if (tile == repeat % 50) {
          throw std::runtime_error("tile " + std::to_string(tile));
        }
      });
      FAIL() << "nothing thrown";
    } catch (const std::runtime_error& error) {
      EXPECT_EQ(error.what(), "tile " + std::to_string(repeat % 50));
    }
    std::atomic<int> runs{0};  // and the pool works on
    parallel_for(10, [&](int64_t) { ++runs; });
    EXPECT_EQ(runs, 10);
  }
}

TEST_F(ThreadPool, FlushesDenormalsEverywhere) {
#if defined(__SSE2__)
  std::atomic<int> kept{0};
  std::atomic<int> arrived{0};
  parallel_for(3, [&](int64_t) {
    volatile float tiny = std::numeric_limits<float>::min();
    volatile float half = tiny * 0.5f;
    kept += half != 0.0f;
    volatile float denormal = std::numeric_limits<float>::denorm_min();
    volatile float scaled = denormal * 1e10f;
    kept += scaled != 0.0f;
    ++arrived;
    while (arrived < 3) {
      std::this_thread::yield();
    }
  });
  EXPECT_EQ(kept, 0);
#endif
}

TEST_F(ThreadPool, WorkersTakeNoSignals) {
  std::atomic<int> arrived{0};
  std::atomic<int> open{0};
  parallel_for(3, [&, caller = std::this_thread::get_id()](int64_t) {
    sigset_t mask;
    pthread_sigmask(SIG_SETMASK, nullptr, &mask);
    if (std::this_thread::get_id() == caller) {
      open += sigismember(&mask, SIGTERM) == 1;  // the caller's mask is as it was
    } else {
      open += sigismember(&mask, SIGTERM) == 0 || sigismember(&mask, SIGUSR1) == 0;
    }
    ++arrived;
    while (arrived < 3) {
      std::this_thread::yield();
    }
  });
  EXPECT_EQ(open, 0);
}

TEST_F(ThreadPool, RefusesImpossibleCounts) {
  EXPECT_THROW(set_num_threads(0), ValueError);
  EXPECT_THROW(set_num_threads(-1), ValueError);
  EXPECT_THROW(set_num_threads(100000), ValueError);
  EXPECT_EQ(num_threads(), 3);
}

#if !defined(__SANITIZE_THREAD__)  // which does not follow a fork of a threaded process
TEST_F(ThreadPool, WorksInAForkedChild) {
  parallel_for(8, [](int64_t) {});
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    alarm(20);
    std::atomic<int> runs{0};
    parallel_for(8, [&](int64_t) { ++runs; });
    _exit(runs == 8 ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}
#endif

}  // namespace
}  // namespace lockstep::cpu
