// Every check over every row of the op-case table.
#include "engine/op_cases.h"

#include <algorithm>
#include <map>
#include <set>

#include <gtest/gtest.h>

#include "lockstep/engine/autograd/backward.h"
#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/autograd/gradcheck.h"
#include "lockstep/engine/ops/ops.h"

#include "engine/declared_ops.h"
#include "engine/op_checks.h"
#include "golden/golden.h"

namespace lockstep::testing {

namespace {

// A numerical derivative calls the op twice per element, the second one as often for every output.
constexpr int64_t kLargestGradcheck = 100, kLargestGradgradcheck = 40;

bool has_gradient_of(const OpCase& c, int64_t largest) {
  int64_t elements = 0;
  for (const Input& input : c.inputs) elements += input.sizes.product();
  return c.has_gradient && elements <= largest;
}

class OpTest : public ::testing::TestWithParam<OpCase> {};

TEST_P(OpTest, Float64IsTheReference) {
  const OpCase& c = GetParam();
  if (!c.reference) return;
  const auto inputs = make_inputs(c, DType::kFloat64);
  std::vector<Array> arrays;
  for (const Tensor& x : inputs) arrays.emplace_back(x);
  const Tensor y = c.function(inputs);
  const Array expected = c.reference(arrays);
  // A reference may keep dimensions that the op drops, or the other way round.
  ASSERT_EQ(y.numel(), expected.numel());
  expect_near(y.to_vector(), expected.values, kFloat64, c.id());
}

TEST_P(OpTest, Float32IsFloat64Rounded) {
  const OpCase& c = GetParam();
  const Tensor wide = c.function(make_inputs(c, DType::kFloat64));
  const Tensor narrow = c.function(make_inputs(c, DType::kFloat32));
  ASSERT_EQ(narrow.sizes(), wide.sizes());
  EXPECT_EQ(narrow.dtype(), wide.dtype() == DType::kFloat64 ? DType::kFloat32 : wide.dtype());
  expect_near(narrow.to_vector(), wide.to_vector(), kFloat32, c.id());
}

TEST_P(OpTest, Float32GradientIsFloat64Rounded) {
  const OpCase& c = GetParam();
  if (!c.has_gradient) return;
  const auto wide = gradients(c, DType::kFloat64), narrow = gradients(c, DType::kFloat32);
  const auto inputs = make_inputs(c, DType::kFloat32);
  ASSERT_FALSE(narrow.empty());
  for (size_t i = 0, k = 0; i < inputs.size(); ++i) {
    if (!inputs[i].requires_grad()) continue;
    ASSERT_EQ(narrow[k].sizes(), inputs[i].sizes());
    EXPECT_EQ(narrow[k].dtype(), DType::kFloat32);
    expect_near(narrow[k].to_vector(), wide[k].to_vector(), kFloat32, c.id());
    ++k;
  }
}

TEST_P(OpTest, ResultIsOutsideTheGraphWithoutGradMode) {
  const OpCase& c = GetParam();
  const auto inputs = make_inputs(c, DType::kFloat32);
  EXPECT_EQ(c.function(inputs).requires_grad(), c.has_gradient);
  const autograd::NoGrad no_grad;
  const Tensor y = c.function(inputs);
  for (const Tensor& x : inputs) {
    if (x.is_same(y)) return;  // an identity such as contiguous() of a dense tensor
  }
  EXPECT_FALSE(y.requires_grad());
}

TEST_P(OpTest, Gradcheck) {
  const OpCase& c = GetParam();
  if (!has_gradient_of(c, kLargestGradcheck)) return;
  EXPECT_NO_THROW(autograd::gradcheck(c.function, make_inputs(c, DType::kFloat64)));
}

TEST_P(OpTest, Gradgradcheck) {
  const OpCase& c = GetParam();
  if (!has_gradient_of(c, kLargestGradgradcheck)) return;
  EXPECT_NO_THROW(autograd::gradgradcheck(c.function, make_inputs(c, DType::kFloat64)));
}

INSTANTIATE_TEST_SUITE_P(Table, OpTest, ::testing::ValuesIn(all_op_cases()),
                         [](const auto& info) { return info.param.id(); });

// What needs a row: every declared op.
std::set<std::string> wanted_rows() {
  std::set<std::string> declared = declared_functions(LOCKSTEP_SOURCE_DIR "/engine");
  // Members without values to check, or whose values are random; members that are functions of
  // another name; and the in-place forms that inplace_forms_test.cc has.
  for (const char* name :
       {"grad",     "data_tensor", "requires_grad_", "detach", "detach_",    "uniform_",
        "normal_",  "expand_as",   "view_as",        "neg_",   "abs_",       "exp_",
        "log_",     "sqrt_",       "rsqrt_",         "sin_",   "cos_",       "tanh_",
        "sigmoid_", "relu_",       "clamp_",         "pow_",   "reciprocal_"}) {
    EXPECT_EQ(declared.erase(name), 1u) << name << " is not declared any more";
  }
  declared.erase("pow_");
  return declared;
}

std::set<std::string> without(const std::set<std::string>& a, const std::set<std::string>& b) {
  std::set<std::string> difference;
  std::set_difference(a.begin(), a.end(), b.begin(), b.end(),
                      std::inserter(difference, difference.end()));
  return difference;
}

// The ops whose values are compared with something else: with a reference in the table, or with
// PyTorch's.
std::set<std::string> compared_ops() {
  std::set<std::string> compared;
  for (const OpCase& c : all_op_cases()) {
    if (c.reference) compared.insert(c.op);
  }
  // Where the golden files have other names.
  const std::map<std::string, std::string> names = {
      {"attention", "scaled_dot_product_attention"},
      {"bce_with_logits", "binary_cross_entropy_with_logits"}};
  for (const char* name : {"op_golden.safetensors", "op_set_golden.safetensors"}) {
    const golden::File golden(name);
    for (const auto& c : golden.cases()) {
      const std::string op = c["op"];
      compared.insert(names.count(op) ? names.at(op) : op);
    }
  }
  return compared;
}

TEST(OpTable, CoversEveryOp) {
  std::set<std::string> covered;
  for (const OpCase& c : all_op_cases()) covered.insert(c.op);
  const std::set<std::string> wanted = wanted_rows();
  EXPECT_GT(wanted.size(), 120u);
  EXPECT_EQ(without(wanted, covered), std::set<std::string>{}) << "ops without a row";
  const std::set<std::string> compared = compared_ops();
  EXPECT_EQ(without(wanted, compared), std::set<std::string>{})
      << "ops whose values nothing is compared with";
  // A reference without a name in the golden files counts, and the other way round.
  for (const char* op : {"sum_to_size", "scaled_dot_product_attention"}) {
    std::set<std::string> others = compared;
    EXPECT_EQ(others.erase(op), 1u);
    EXPECT_EQ(without(wanted, others), std::set<std::string>{op});
  }
  // Ops of every form of declaration would be missed.
  for (const char* op : {"split", "sort", "conv_transpose2d", "binary_cross_entropy_with_logits",
                         "select", "add_", "topk", "unbind", "smooth_l1_loss", "softplus"}) {
    std::set<std::string> others = covered;
    others.erase(op);
    EXPECT_EQ(without(wanted, others), std::set<std::string>{op});
  }
}

// A row that is too large for the numerical derivatives has a small one beside it.
TEST(OpTable, ChecksTheDerivativesOfEveryOpThatHasOne) {
  std::set<std::string> differentiable, first, second;
  for (const OpCase& c : all_op_cases()) {
    if (c.has_gradient) differentiable.insert(c.op);
    if (has_gradient_of(c, kLargestGradcheck)) first.insert(c.op);
    if (has_gradient_of(c, kLargestGradgradcheck)) second.insert(c.op);
  }
  EXPECT_GT(differentiable.size(), 100u);
  EXPECT_EQ(without(differentiable, first), std::set<std::string>{}) << "without gradcheck";
  EXPECT_EQ(without(differentiable, second), std::set<std::string>{}) << "without gradgradcheck";
}

}  // namespace
}  // namespace lockstep::testing
