// What a program with `using namespace lockstep` beside the standard library writes.
#include <cmath>
#include <cstdlib>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/engine/ops/ops.h"

using namespace lockstep;  // NOLINT(google-build-using-namespace): the point of the test

namespace {

TEST(Names, StandardDeviationBesideTheStandardLibrary) {
  const Tensor x = tensor({1.0, 3.0, 5.0});
  EXPECT_EQ(x.std().item(), 2);
  EXPECT_EQ(lockstep::std(x).item(), 2);
  EXPECT_EQ(x.var().item(), 4);
  EXPECT_EQ(var(x).item(), 4);
}

// Functions of <cmath> and <cstdlib> have the same names in the global namespace.
TEST(Names, MathematicsBesideTheCLibrary) {
  const Tensor x = tensor({-4.0, 0.25});
  const std::vector<double> sizes = abs(x).to_vector();
  EXPECT_EQ(sizes, (std::vector<double>{4, 0.25}));
  EXPECT_EQ(sqrt(abs(x)).to_vector(), (std::vector<double>{2, 0.5}));
  EXPECT_EQ(pow(x, 2).to_vector(), (std::vector<double>{16, 0.0625}));
  EXPECT_EQ(max(x).item(), 0.25);
  EXPECT_EQ(abs(-3), 3);
  EXPECT_EQ(sqrt(4.0), 2);
}

}  // namespace
