#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <tuple>

#include <gtest/gtest.h>

#include "lockstep/distributed/threads_group.h"

#include "case.h"

// Cases with ranks as threads.
namespace lockstep::distributed::testing {

using ThreadRanksParameters = std::tuple<int, Case>;  // how many ranks, and what they do

inline std::string case_name(const ::testing::TestParamInfo<ThreadRanksParameters>& info) {
  return std::string(std::get<1>(info.param).name) + "_" + std::to_string(std::get<0>(info.param));
}

// Every rank must come to the end of it.
inline void run_on_thread_ranks(int size, const std::function<void(ProcessGroup&)>& run) {
  std::atomic<int> ended = 0;
  run_thread_ranks(size, [&](ProcessGroup& group) {
    run(group);
    ++ended;
  });
  EXPECT_EQ(ended, size);
}

inline void run_on_thread_ranks(const ThreadRanksParameters& parameters) {
  const auto& [size, test] = parameters;
  SCOPED_TRACE(test.name);
  run_on_thread_ranks(size, test.run);
}

}  // namespace lockstep::distributed::testing
