// DataParallel under mpirun.
#include <gtest/gtest.h>

#include "lockstep/distributed/mpi_group.h"
#include "lockstep/distributed/mpi_runtime.h"

#include "data_parallel_cases.h"
#include "more_cases.h"

namespace lockstep::distributed::testing {
namespace {

std::vector<Case> cases() {
  std::vector<Case> all = data_parallel_cases();
  all.insert(all.end(), hook_cases().begin(), hook_cases().end());
  all.insert(all.end(), several_ranks_cases().begin(), several_ranks_cases().end());
  const std::vector<Case> more = more_cases();
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

class MpiRanks : public ::testing::TestWithParam<Case> {};

TEST_P(MpiRanks, DataParallel) {
  mpi_runtime::initialize();
  const auto group = make_mpi_group();
  for (const Case& test : several_ranks_cases()) {
    if (test.run == GetParam().run && group->size() == 1) return;  // nothing to see with one rank
  }
  GetParam().run(*group);
}

INSTANTIATE_TEST_SUITE_P(All, MpiRanks, ::testing::ValuesIn(cases()),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace lockstep::distributed::testing
