// exp_(x), clamp_(x, low, high), ...: the same values, gradients and node names as the forms that
// do not write, on tensors and on views.
#include <gtest/gtest.h>

#include "lockstep/engine/autograd/backward.h"
#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/autograd/gradcheck.h"
#include "lockstep/engine/autograd/node.h"
#include "lockstep/engine/ops/ops.h"

#include "engine/throws.h"

namespace lockstep::testing {
namespace {

struct Form {
  const char* name;
  Tensor (*plain)(const Tensor&);
  const Tensor& (*in_place)(const Tensor&);
};

#define FORM_Unary(op) FORM(op, op(x), op##_(x))
#define FORM_Unary1(op) FORM(op, op(x, 0.7), op##_(x, 0.7))
#define FORM_Unary2(op) FORM(op, op(x, 0.3, 1.1), op##_(x, 0.3, 1.1))
#define FORM_Binary(op)
#define FORM_Binary1(op)
#define FORM_Binary2(op)
#define FORM_Compare(op)
#define FORM_Where(op)
#define FORM(op, plain, in_place)                  \
  Form{#op, [](const Tensor& x) { return plain; }, \
       [](const Tensor& x) -> const Tensor& { return in_place; }},
#define ROW(op, arity, ...) FORM_##arity(op)
const Form kForms[] = {LOCKSTEP_POINTWISE_OPS(ROW)};

void PrintTo(const Form& f, std::ostream* out) { *out << f.name; }

// Away from every kink of the ops above, and where all of them are defined.
Tensor leaf() {
  return tensor({0.45, 0.9, 1.35, 0.55, 1.25, 0.8},
                {.requires_grad = true, .dtype = DType::kFloat64});
}

class InPlaceForm : public ::testing::TestWithParam<Form> {};

TEST_P(InPlaceForm, IsThePlainForm) {
  const Tensor x = leaf(), other = leaf();
  const Tensor y = x * 1, expected = GetParam().plain(other * 1);
  const auto version = y.version();
  EXPECT_TRUE(GetParam().in_place(y).is_same(y));
  EXPECT_EQ(y.version(), version + 1);
  EXPECT_EQ(y.to_vector(), expected.to_vector());
  // node_names_test.cc has the two that PyTorch gives a name of their own.
  std::string name(expected.grad_fn()->name());
  if (name == "LeakyReluBackward0" || name == "EluBackward0") name.back() = '1';
  EXPECT_EQ(y.grad_fn()->name(), name);
  y.sum().backward();
  expected.sum().backward();
  EXPECT_EQ(x.grad().to_vector(), other.grad().to_vector());
  const autograd::NoGrad no_grad;
  const Tensor constant = leaf().detach();
  GetParam().in_place(constant);
  EXPECT_EQ(constant.to_vector(), expected.to_vector());
}

TEST_P(InPlaceForm, DifferentiatesTwiceThroughAView) {
  const auto function = [](const std::vector<Tensor>& in) {
    const Tensor y = in[0] * 1.0;
    GetParam().in_place(y.view({2, 3}).t()[1]);
    return y * y;
  };
  autograd::gradcheck(function, {leaf()});
  autograd::gradgradcheck(function, {leaf()});
}

TEST_P(InPlaceForm, RefusesALeaf) {
  EXPECT_ERROR(GetParam().in_place(leaf()),
               "a leaf Variable that requires grad is being used in an in-place operation.");
}

INSTANTIATE_TEST_SUITE_P(Forms, InPlaceForm, ::testing::ValuesIn(kForms),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(InPlaceForms, Members) {
  const auto same = [](const Tensor& a, const Tensor& b) {
    EXPECT_EQ(a.to_vector(), b.to_vector());
  };
  const Tensor x = leaf().detach();
#define SAME(op, ...) same(x.clone().op##_(__VA_ARGS__), op(x __VA_OPT__(, ) __VA_ARGS__))
  SAME(neg);
  SAME(abs);
  SAME(exp);
  SAME(log);
  SAME(sqrt);
  SAME(rsqrt);
  SAME(reciprocal);
  SAME(sin);
  SAME(cos);
  SAME(tanh);
  SAME(sigmoid);
  SAME(relu);
  SAME(clamp, 0.5, 1);
  SAME(pow, 2.5);
  SAME(pow, 2);
#undef SAME
}

TEST(InPlaceForms, KeepTheDtypeAndSayWhenTheyCannot) {
  const Tensor half = tensor({1.0, 2.0}, {.dtype = DType::kBFloat16});
  EXPECT_EQ(half.exp_().dtype(), DType::kBFloat16);
  EXPECT_EQ(half.to_vector(), tensor({1.0, 2.0}).exp().to(DType::kBFloat16).to_vector());
  const Tensor whole = tensor({1, 2});
  EXPECT_ERROR(whole.exp_(), "result type Float can't be cast to the desired output type Long");
  EXPECT_EQ(whole.clamp_(2, 5).to_vector(), (std::vector<double>{2, 2}));
  EXPECT_ERROR(whole.pow_(-1), "Integers to negative integer powers are not allowed.");
  EXPECT_ERROR(whole.pow_(0.5), "Found dtype Long but expected Float");
  EXPECT_ERROR(zeros({2}).masked_fill_(eq(zeros({3, 2}), 0), 1),
               "output with shape [2] doesn't match the broadcast shape [3, 2]");
}

// A saved result that is written again is noticed.
TEST(InPlaceForms, SavedResultsNoticeLaterWrites) {
  const Tensor y = leaf() * 1;
  y.exp_();
  y.add_(1);
  EXPECT_ERROR(
      (y.sum().backward(), 0),
      "one of the variables needed for gradient computation has been modified by an inplace "
      "operation: [float64 [6]], which is output 0 of ExpBackward0, is at version 2; expected "
      "version 1 instead. Hint: write the result to a new tensor, or clone() the tensor before it "
      "is changed.");
}

}  // namespace
}  // namespace lockstep::testing
