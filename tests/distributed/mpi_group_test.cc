#include "lockstep/distributed/mpi_group.h"

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <optional>

#include <gtest/gtest.h>

#include "lockstep/distributed/canonical_sum.h"
#include "lockstep/distributed/mpi_runtime.h"
#include "lockstep/engine/tensor/error.h"

#include "conformance.h"

namespace lockstep::distributed::testing {
namespace {

// How the ranks of this machine are laid out: all on one node, in either kind of shared memory, or
// on imagined nodes of one or two ranks (the last one may be smaller).
struct Layout {
  const char* name;
  const char* ranks_per_node;
  const char* memory;
};
const Layout kLayouts[] = {{"one_node", "", ""},
                           {"one_node_shm", "", "shm"},
                           {"nodes_of_one", "1", ""},
                           {"nodes_of_two", "2", ""}};

class MpiGroup : public ::testing::TestWithParam<std::tuple<Layout, Case>> {
 protected:
  static std::shared_ptr<ProcessGroup> make(const Layout& layout) {
    mpi_runtime::initialize();
    setenv("LOCKSTEP_RANKS_PER_NODE", layout.ranks_per_node, 1);
    setenv("LOCKSTEP_NODE_MEMORY", layout.memory, 1);
    return make_mpi_group();
  }
  static std::shared_ptr<ProcessGroup> make() { return make(std::get<0>(GetParam())); }
};

TEST_P(MpiGroup, Conforms) {
  const auto group = make();
  EXPECT_EQ(group->name(), "mpi");
  EXPECT_EQ(group->size(), mpi_runtime::world_size());
  EXPECT_EQ(group->rank(), mpi_runtime::world_rank());
  std::get<1>(GetParam()).run(*group);
}

class BrokenMpiGroup : public MpiGroup {};
TEST_P(BrokenMpiGroup, EndsEverywhere) {
  const auto group = make();
  ASSERT_GT(group->size(), 1) << "needs peers";
  std::get<1>(GetParam()).run(*group);
  EXPECT_TRUE(group->wait_for_peers_to_fail(std::chrono::seconds(3)));
}

std::string case_name(const ::testing::TestParamInfo<std::tuple<Layout, Case>>& info) {
  return std::string(std::get<1>(info.param).name) + "_" + std::get<0>(info.param).name;
}
INSTANTIATE_TEST_SUITE_P(All, MpiGroup,
                         ::testing::Combine(::testing::ValuesIn(kLayouts),
                                            ::testing::ValuesIn(conformance_cases())),
                         case_name);
INSTANTIATE_TEST_SUITE_P(All, BrokenMpiGroup,
                         ::testing::Combine(::testing::ValuesIn(kLayouts),
                                            ::testing::ValuesIn(breaking_cases())),
                         case_name);

class MpiGroups : public MpiGroup {};

TEST_F(MpiGroups, CanonicalSumNeedsTheGroupsMemory) {
  for (const Layout& layout : kLayouts) {
    const auto group = make(layout);
    const auto plan = std::make_shared<const CanonicalPlan>(32, group->size());
    std::vector<float> values(static_cast<size_t>(plan->slots()) * 5000);
    const std::string text = error_of([&] {
      group
          ->canonical_sum(
              {values.data(), static_cast<int64_t>(values.size()), DType::kFloat32, Device{}}, plan)
          .wait();
    });
    EXPECT_NE(text.find("must lie in memory of the group"), std::string::npos) << text;
    EXPECT_TRUE(group->wait_for_peers_to_fail(std::chrono::seconds(3)));
  }
}

TEST_F(MpiGroups, MemoryOutlivesTheGroup) {
  for (const Layout& layout : kLayouts) {
    std::shared_ptr<Memory> memory;
    {
      const auto group = make(layout);
      memory = group->allocate(1 << 20, Device{});
    }
    std::memset(memory->data(), 1, memory->bytes());
  }
}

TEST_F(MpiGroups, AreIndependentOfEachOther) {
  for (const Layout& layout : kLayouts) {
    const auto a = make(layout);
    const auto b = make(layout);
    std::vector<float> x(10000, 1.0f);
    std::vector<float> y(10000, 2.0f);
    const Buffer buffer_x{x.data(), 10000, DType::kFloat32, Device{}};
    const Buffer buffer_y{y.data(), 10000, DType::kFloat32, Device{}};
    const bool even = a->rank() % 2 == 0;  // the ranks disagree about the order of the groups
    Work first = even ? a->all_reduce(buffer_x) : b->all_reduce(buffer_y);
    Work second = even ? b->all_reduce(buffer_y) : a->all_reduce(buffer_x);
    first.wait();
    second.wait();
    EXPECT_EQ(x[9999], 1.0f * static_cast<float>(a->size()));
    EXPECT_EQ(y[9999], 2.0f * static_cast<float>(a->size()));
  }
}

TEST_F(MpiGroups, MissARankThatLeavesEarly) {
  mpi_runtime::initialize();
  ASSERT_GT(mpi_runtime::world_size(), 1) << "needs peers";
  for (const Layout& layout : kLayouts) {
    auto group = make(layout);
    const int last = group->size() - 1;
    if (group->rank() == last) {
      group->barrier().wait();
      group = nullptr;
    } else {
      const std::string part = "rank " + std::to_string(last) + " has destroyed its process group";
      // A peer may be through the first barrier, and report, before this rank has seen it end.
      const std::string text = error_of([&] {
        group->barrier().wait();
        group->barrier().wait();
      });
      EXPECT_NE(text.find(part), std::string::npos) << layout.name << ": " << text;
    }
  }
}

TEST_F(MpiGroups, LeaveNoNamesInSharedMemory) {
  const auto group = make(kLayouts[1]);
  const auto memory = group->allocate(1 << 20, Device{});
  for (const auto& entry : std::filesystem::directory_iterator("/dev/shm")) {
    EXPECT_NE(entry.path().filename().string().rfind("lockstep-" + std::to_string(getpid()), 0), 0u)
        << entry.path();
  }
  group->barrier(Launch::kBlocking);
}

TEST_F(MpiGroups, RefuseAWorldThatTheLauncherDoesNotKnow) {
  mpi_runtime::initialize({mpi_runtime::world_rank(), mpi_runtime::world_size()});
  EXPECT_THROW(mpi_runtime::initialize({0, mpi_runtime::world_size() + 1}), DistributedError);
}

}  // namespace
}  // namespace lockstep::distributed::testing
