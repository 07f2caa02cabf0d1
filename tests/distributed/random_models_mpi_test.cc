// DataParallel on random models, under mpirun.
#include <gtest/gtest.h>

#include "lockstep/distributed/mpi_group.h"
#include "lockstep/distributed/mpi_runtime.h"

#include "random_models.h"

namespace lockstep::distributed::testing {
namespace {

TEST(RandomModels, HaveTheGradientsOfOneProcess) {
  mpi_runtime::initialize();
  const auto group = make_mpi_group();
  train_random_models(*group);
}

}  // namespace
}  // namespace lockstep::distributed::testing
