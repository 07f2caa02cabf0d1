// The op-case table on the CUDA device: the CPU's results, and derivatives that are right by
// themselves.
#include <cstdlib>

#include <gtest/gtest.h>

#include "lockstep/engine/autograd/gradcheck.h"
#include "lockstep/engine/ops/ops.h"

#include "engine/op_cases.h"
#include "engine/op_checks.h"

namespace lockstep::testing {
namespace {

const Device kCuda{DeviceType::kCuda, 0};

class CudaOpTest : public ::testing::TestWithParam<OpCase> {};

void expect_same(const Tensor& got, const Tensor& expected, Tolerance tolerance,
                 const std::string& what) {
  EXPECT_EQ(got.sizes(), expected.sizes()) << what;
  EXPECT_EQ(got.dtype(), expected.dtype()) << what;
  expect_near(got.to_vector(), expected.to_vector(), tolerance, what);
}

TEST_P(CudaOpTest, Forward) {
  const OpCase& c = GetParam();
  for (const auto& [dtype, tolerance] :
       {std::pair(DType::kFloat64, kFloat64), std::pair(DType::kFloat32, kFloat32)}) {
    const Tensor y = c.function(make_inputs(c, dtype, kCuda));
    EXPECT_EQ(y.device(), c.id() == "to_device" ? Device{} : kCuda);
    expect_same(y, c.function(make_inputs(c, dtype)), tolerance, c.id());
  }
}

TEST_P(CudaOpTest, Backward) {
  const OpCase& c = GetParam();
  if (!c.has_gradient) return;
  for (const auto& [dtype, tolerance] :
       {std::pair(DType::kFloat64, kFloat64), std::pair(DType::kFloat32, kFloat32)}) {
    const auto got = gradients(c, dtype, kCuda), expected = gradients(c, dtype);
    ASSERT_EQ(got.size(), expected.size());
    for (size_t i = 0; i < got.size(); ++i) {
      EXPECT_EQ(got[i].device(), kCuda);
      expect_same(got[i], expected[i], tolerance, c.id());
    }
  }
}

// Numerical derivatives call the op twice per element, second ones as often for every output. On an
// emulated device (a plugin of one's own) only a few elements end soon.
bool has_gradient_of(const OpCase& c, int64_t largest, int64_t largest_emulated) {
  int64_t elements = 0;
  for (const Input& input : c.inputs) elements += input.sizes.product();
  const bool emulated = std::getenv("LOCKSTEP_CUDA_PLUGIN") != nullptr;
  return c.has_gradient && elements <= (emulated ? largest_emulated : largest);
}

TEST_P(CudaOpTest, Gradcheck) {
  const OpCase& c = GetParam();
  if (!has_gradient_of(c, 100, 40)) return;
  EXPECT_NO_THROW(autograd::gradcheck(c.function, make_inputs(c, DType::kFloat64, kCuda)));
}

TEST_P(CudaOpTest, Gradgradcheck) {
  const OpCase& c = GetParam();
  if (!has_gradient_of(c, 40, 6)) return;
  EXPECT_NO_THROW(autograd::gradgradcheck(c.function, make_inputs(c, DType::kFloat64, kCuda)));
}

INSTANTIATE_TEST_SUITE_P(Table, CudaOpTest, ::testing::ValuesIn(all_op_cases()),
                         [](const auto& info) { return info.param.id(); });

}  // namespace
}  // namespace lockstep::testing
