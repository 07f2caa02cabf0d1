// Reduction mode bitwise under mpirun, on one node and on imagined ones of one or two ranks.
#include <cstdlib>

#include <gtest/gtest.h>

#include "lockstep/distributed/mpi_group.h"
#include "lockstep/distributed/mpi_runtime.h"

#include "bitwise_cases.h"

namespace lockstep::distributed::testing {
namespace {

struct Layout {
  const char* name;
  const char* ranks_per_node;
};
using Parameters = std::tuple<Layout, Case>;

class BitwiseMpiRanks : public ::testing::TestWithParam<Parameters> {};

TEST_P(BitwiseMpiRanks, IsOneProcess) {
  const auto& [layout, test] = GetParam();
  mpi_runtime::initialize();
  setenv("LOCKSTEP_RANKS_PER_NODE", layout.ranks_per_node, 1);
  const auto group = make_mpi_group();
  test.run(*group);
}

INSTANTIATE_TEST_SUITE_P(All, BitwiseMpiRanks,
                         ::testing::Combine(::testing::Values(Layout{"one_node", ""},
                                                              Layout{"nodes_of_one", "1"},
                                                              Layout{"nodes_of_two", "2"}),
                                            ::testing::ValuesIn(bitwise_cases())),
                         [](const ::testing::TestParamInfo<Parameters>& info) {
                           return std::string(std::get<1>(info.param).name) + "_" +
                                  std::get<0>(info.param).name;
                         });

}  // namespace
}  // namespace lockstep::distributed::testing
