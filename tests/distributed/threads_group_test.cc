#include "lockstep/distributed/threads_group.h"

#include <atomic>
#include <chrono>
#include <cstring>
#include <stdexcept>
#include <thread>

#include <gtest/gtest.h>

#include "lockstep/engine/tensor/error.h"

#include "conformance.h"
#include "thread_ranks.h"

namespace lockstep::distributed::testing {
namespace {

// Runs in this thread, as a world of one does in a program.
class SingleGroup : public ::testing::TestWithParam<ThreadRanksParameters> {};
TEST_P(SingleGroup, Conforms) {
  const auto group = make_single_group();
  EXPECT_EQ(group->name(), "single");
  EXPECT_EQ(group->size(), 1);
  EXPECT_EQ(group->rank(), 0);
  std::get<1>(GetParam()).run(*group);
}
INSTANTIATE_TEST_SUITE_P(All, SingleGroup,
                         ::testing::Combine(::testing::Values(1),
                                            ::testing::ValuesIn(conformance_cases())),
                         case_name);

class ThreadsGroup : public ::testing::TestWithParam<ThreadRanksParameters> {};
TEST_P(ThreadsGroup, Conforms) {
  const int size = std::get<0>(GetParam());
  run_on_thread_ranks(size, [&](ProcessGroup& group) {
    EXPECT_EQ(group.name(), "threads");
    EXPECT_EQ(group.size(), size);
    std::get<1>(GetParam()).run(group);
  });
}
INSTANTIATE_TEST_SUITE_P(All, ThreadsGroup,
                         ::testing::Combine(::testing::Values(1, 2, 3, 4, 5, 6, 7, 8),
                                            ::testing::ValuesIn(conformance_cases())),
                         case_name);

class BrokenThreadsGroup : public ThreadsGroup {};
TEST_P(BrokenThreadsGroup, EndsEverywhere) {
  run_thread_ranks(std::get<0>(GetParam()), std::get<1>(GetParam()).run);
}
INSTANTIATE_TEST_SUITE_P(All, BrokenThreadsGroup,
                         ::testing::Combine(::testing::Values(2, 3, 5),
                                            ::testing::ValuesIn(breaking_cases())),
                         case_name);

TEST(RunThreadRanks, RethrowsWhatCameFirst) {
  std::atomic<int> told = 0;
  const auto train = [&](ProcessGroup& group) {
    group.barrier().wait();
    if (group.rank() == 1) throw std::runtime_error("boom");
    const std::string text = error_of([&] { group.barrier().wait(); });
    EXPECT_EQ(text, "[rank 1] aborted: boom");
    ++told;
    throw DistributedError(text);
  };
  try {
    run_thread_ranks(4, train);
    FAIL() << "nothing was thrown";
  } catch (const std::runtime_error& error) {
    EXPECT_STREQ(error.what(), "boom");
  }
  EXPECT_EQ(told, 3);
}

TEST(RunThreadRanks, MissesARankThatReturnsEarly) {
  try {
    run_thread_ranks(3, [](ProcessGroup& group) {
      group.barrier().wait();
      if (group.rank() != 2) group.barrier().wait();
    });
    FAIL() << "nothing was thrown";
  } catch (const DistributedError& error) {
    EXPECT_NE(std::string(error.what()).find("rank 2 destroyed its process group"),
              std::string::npos)
        << error.what();
  }
}

TEST(ThreadsGroups, NeedARank) { EXPECT_THROW(make_threads_groups(0), ValueError); }

TEST(ThreadsGroups, MemoryOutlivesTheGroup) {
  std::shared_ptr<Memory> memory;
  {
    auto groups = make_threads_groups(1);
    memory = groups[0]->allocate(1 << 20, Device{});
  }
  std::memset(memory->data(), 1, memory->bytes());
}

TEST(ThreadsGroups, DroppedWorkIsCompletedByTheDestructor) {
  std::vector<std::vector<float>> values(3, std::vector<float>(1000, 1.0f));
  run_thread_ranks(3, [&](ProcessGroup& group) {
    auto& mine = values[static_cast<size_t>(group.rank())];
    group.all_reduce({mine.data(), 1000, DType::kFloat32, Device{}});
  });
  for (const auto& rank : values) EXPECT_EQ(rank[999], 3.0f);
}

TEST(SingleGroups, AbortEndsTheGroup) {
  const auto group = make_single_group();
  group->abort("enough");
  EXPECT_EQ(error_of([&] { group->barrier(); }), "[rank 0] aborted: enough");
}

}  // namespace
}  // namespace lockstep::distributed::testing
