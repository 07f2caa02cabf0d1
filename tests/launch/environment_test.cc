#include "lockstep/launch/environment.h"

#include <map>
#include <ostream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/engine/tensor/error.h"

namespace lockstep::launch {
namespace {

using Values = std::map<std::string, std::string>;

Environment read(const Values& values) {
  return read_environment([&](const char* name) -> const char* {
    const auto found = values.find(name);
    return found == values.end() ? nullptr : found->second.c_str();
  });
}

struct GoodCase {
  const char* what;
  Values values;
  std::string launcher;
  int rank, size, local_rank, local_size;
};

class EnvironmentGood : public testing::TestWithParam<GoodCase> {};

TEST_P(EnvironmentGood, IsRead) {
  const auto& c = GetParam();
  const auto e = read(c.values);
  EXPECT_EQ(e.launcher, c.launcher);
  EXPECT_EQ(e.launched(), !c.launcher.empty());
  EXPECT_EQ(e.rank, c.rank);
  EXPECT_EQ(e.size, c.size);
  EXPECT_EQ(e.local_rank, c.local_rank);
  EXPECT_EQ(e.local_size, c.local_size);
}

const std::vector<GoodCase> kGood = {
    {"Nothing", {}, "", 0, 1, -1, -1},
    {"EmptyValuesAreUnset",
     {{"OMPI_COMM_WORLD_RANK", ""}, {"PMI_RANK", ""}, {"SLURM_PROCID", ""}},
     "",
     0,
     1,
     -1,
     -1},
    {"OpenMpi",
     {{"OMPI_COMM_WORLD_RANK", "5"},
      {"OMPI_COMM_WORLD_SIZE", "8"},
      {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
      {"OMPI_COMM_WORLD_LOCAL_SIZE", "4"},
      {"PMIX_RANK", "5"}},
     "Open MPI",
     5,
     8,
     1,
     4},
    {"OpenMpiOfOne",
     {{"OMPI_COMM_WORLD_RANK", "0"},
      {"OMPI_COMM_WORLD_SIZE", "1"},
      {"OMPI_COMM_WORLD_LOCAL_RANK", "0"},
      {"OMPI_COMM_WORLD_LOCAL_SIZE", "1"}},
     "Open MPI",
     0,
     1,
     0,
     1},
    {"Hydra",
     {{"PMI_RANK", "2"}, {"PMI_SIZE", "3"}, {"MPI_LOCALRANKID", "0"}, {"MPI_LOCALNRANKS", "1"}},
     "PMI",
     2,
     3,
     0,
     1},
    {"PmiWithoutLocalRank", {{"PMI_RANK", "2"}, {"PMI_SIZE", "3"}}, "PMI", 2, 3, -1, -1},
    {"SlurmWithPmi2",
     {{"PMI_RANK", "1"},
      {"PMI_SIZE", "4"},
      {"SLURM_STEP_ID", "0"},
      {"SLURM_PROCID", "1"},
      {"SLURM_NTASKS", "4"}},
     "PMI",
     1,
     4,
     -1,
     -1},
    {"BarePmix", {{"PMIX_RANK", "3"}}, "PMIx", 3, 0, -1, -1},
    {"SlurmStep",
     {{"SLURM_STEP_ID", "0"},
      {"SLURM_PROCID", "4"},
      {"SLURM_NTASKS", "7"},
      {"SLURM_LOCALID", "0"},
      {"SLURM_NODEID", "2"},
      {"SLURM_STEP_TASKS_PER_NODE", "2(x3),1"}},
     "Slurm",
     4,
     7,
     0,
     2},
    {"SlurmLastNodeIsSmaller",
     {{"SLURM_STEPID", "3"},
      {"SLURM_PROCID", "6"},
      {"SLURM_NTASKS", "7"},
      {"SLURM_LOCALID", "0"},
      {"SLURM_NODEID", "3"},
      {"SLURM_TASKS_PER_NODE", "2(x3),1"}},
     "Slurm",
     6,
     7,
     0,
     1},
    {"SlurmStepSmallerThanTheJob",
     {{"SLURM_STEP_ID", "1"},
      {"SLURM_PROCID", "1"},
      {"SLURM_NTASKS", "8"},
      {"SLURM_STEP_NUM_TASKS", "2"}},
     "Slurm",
     1,
     2,
     -1,
     -1},
    {"SlurmWithPmix",
     {{"SLURM_STEP_ID", "1"}, {"SLURM_PROCID", "1"}, {"SLURM_NTASKS", "2"}, {"PMIX_RANK", "1"}},
     "Slurm",
     1,
     2,
     -1,
     -1},
    {"BatchScriptIsNoStep",
     {{"SLURM_JOB_ID", "17"}, {"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "8"}, {"SLURM_LOCALID", "0"}},
     "",
     0,
     1,
     -1,
     -1},
    {"InteractiveShellIsNoStep",
     {{"SLURM_STEP_ID", "4294967290"}, {"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "8"}},
     "",
     0,
     1,
     -1,
     -1},
    {"MpirunWhoseDaemonsCameThroughSrun",
     {{"OMPI_COMM_WORLD_RANK", "3"},
      {"OMPI_COMM_WORLD_SIZE", "4"},
      {"SLURM_STEP_ID", "0"},
      {"SLURM_PROCID", "1"},
      {"SLURM_NTASKS", "2"}},
     "Open MPI",
     3,
     4,
     -1,
     -1},
};

INSTANTIATE_TEST_SUITE_P(Table, EnvironmentGood, testing::ValuesIn(kGood),
                         [](const auto& info) { return std::string(info.param.what); });

struct BadCase {
  const char* what;
  Values values;
  std::vector<std::string> mentions;
};

class EnvironmentBad : public testing::TestWithParam<BadCase> {};

TEST_P(EnvironmentBad, IsAnError) {
  try {
    read(GetParam().values);
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    for (const auto& text : GetParam().mentions) {
      EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
    }
  }
}

const std::vector<BadCase> kBad = {
    {"RankWithoutSize",
     {{"OMPI_COMM_WORLD_RANK", "1"}},
     {"OMPI_COMM_WORLD_RANK is set", "OMPI_COMM_WORLD_SIZE is not"}},
    {"SizeWithoutRank", {{"PMI_SIZE", "2"}}, {"PMI_SIZE is set", "PMI_RANK is not"}},
    {"RankBeyondSize",
     {{"OMPI_COMM_WORLD_RANK", "4"}, {"OMPI_COMM_WORLD_SIZE", "4"}},
     {"OMPI_COMM_WORLD_RANK=4", "OMPI_COMM_WORLD_SIZE=4"}},
    {"LocalRankBeyondLocalSize",
     {{"PMI_RANK", "1"}, {"PMI_SIZE", "4"}, {"MPI_LOCALRANKID", "2"}, {"MPI_LOCALNRANKS", "2"}},
     {"MPI_LOCALRANKID=2", "MPI_LOCALNRANKS=2"}},
    {"LocalSizeBeyondSize",
     {{"PMI_RANK", "1"}, {"PMI_SIZE", "2"}, {"MPI_LOCALRANKID", "2"}, {"MPI_LOCALNRANKS", "3"}},
     {"MPI_LOCALNRANKS=3", "PMI_SIZE=2"}},
    {"NotANumber", {{"PMI_RANK", "one"}, {"PMI_SIZE", "2"}}, {"PMI_RANK=one"}},
    {"Negative", {{"PMI_RANK", "-1"}, {"PMI_SIZE", "2"}}, {"PMI_RANK=-1"}},
    {"TrailingText", {{"PMI_RANK", "0"}, {"PMI_SIZE", "2x"}}, {"PMI_SIZE=2x"}},
    {"TooLarge", {{"PMI_RANK", "0"}, {"PMI_SIZE", "3000000000"}}, {"3000000000"}},
    {"TwoLaunchers",
     {{"OMPI_COMM_WORLD_RANK", "0"},
      {"OMPI_COMM_WORLD_SIZE", "1"},
      {"PMI_RANK", "3"},
      {"PMI_SIZE", "4"}},
     {"contradicts", "PMI_RANK=3"}},
    {"PmixDisagrees",
     {{"OMPI_COMM_WORLD_RANK", "0"}, {"OMPI_COMM_WORLD_SIZE", "2"}, {"PMIX_RANK", "1"}},
     {"PMIX_RANK=1", "contradicts"}},
    {"SlurmRankBeyondTasks",
     {{"SLURM_STEP_ID", "0"}, {"SLURM_PROCID", "2"}, {"SLURM_NTASKS", "2"}},
     {"SLURM_PROCID=2", "2 tasks"}},
    {"SlurmStepWithoutTasks", {{"SLURM_STEP_ID", "0"}, {"SLURM_PROCID", "0"}}, {"SLURM_NTASKS"}},
    {"SlurmLocalRankBeyondNode",
     {{"SLURM_STEP_ID", "0"},
      {"SLURM_PROCID", "1"},
      {"SLURM_NTASKS", "2"},
      {"SLURM_LOCALID", "1"},
      {"SLURM_NODEID", "0"},
      {"SLURM_TASKS_PER_NODE", "1(x2)"}},
     {"SLURM_LOCALID=1", "node 0"}},
};

INSTANTIATE_TEST_SUITE_P(Table, EnvironmentBad, testing::ValuesIn(kBad),
                         [](const auto& info) { return std::string(info.param.what); });

}  // namespace
}  // namespace lockstep::launch
