// Values and gradients at NaN, signed zeros, infinities and the ends of the integers, all of them
// PyTorch's.
#include <cmath>
#include <cstdint>

#include <gtest/gtest.h>

#include "lockstep/engine/autograd/backward.h"
#include "lockstep/engine/ops/ops.h"

#include "engine/throws.h"

namespace lockstep::testing {
namespace {

using Values = std::vector<double>;
constexpr double kNan = NAN, kInf = INFINITY;

Tensor leaf(std::initializer_list<double> values) {
  return tensor(values, {.requires_grad = true, .dtype = DType::kFloat64});
}

Values gradient(const Tensor& y, const Tensor& x) {
  return autograd::grad(y.sum(), {x}, {.retain_graph = true})[0].to_vector();
}

// As EXPECT_EQ, but NaN equals NaN and -0 is not 0.
void expect_same(const Values& got, const Values& expected) {
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i) {
    if (std::isnan(expected[i])) {
      EXPECT_TRUE(std::isnan(got[i])) << i << ": " << got[i];
    } else {
      EXPECT_EQ(got[i], expected[i]) << i;
      EXPECT_EQ(std::signbit(got[i]), std::signbit(expected[i])) << i;
    }
  }
}

TEST(EdgeValues, ReluPassesTheGradientAtNan) {
  const Tensor x = leaf({kNan, 0, -0.0, 1, -1});
  expect_same(gradient(relu(x), x), {1, 0, 0, 1, 0});
}

TEST(EdgeValues, MaximumAndMinimumPassTheGradientToBothAtNan) {
  const Tensor a = leaf({kNan, 1, kNan, 2, 2}), b = leaf({1, kNan, kNan, 2, 3});
  expect_same(maximum(a, b).to_vector(), {kNan, kNan, kNan, 2, 3});
  expect_same(gradient(maximum(a, b), a), {1, 1, 1, 0.5, 0});
  expect_same(gradient(maximum(a, b), b), {1, 1, 1, 0.5, 1});
  expect_same(minimum(a, b).to_vector(), {kNan, kNan, kNan, 2, 2});
  expect_same(gradient(minimum(a, b), a), {1, 1, 1, 0.5, 1});
  expect_same(gradient(minimum(a, b), b), {1, 1, 1, 0.5, 0});
}

TEST(EdgeValues, NansShareTheGradientOfTheExtremeOfAll) {
  const Tensor x = leaf({1, kNan, 2, kNan}), y = leaf({1, 2, 2});
  expect_same(gradient(max(x), x), {0, 0.5, 0, 0.5});
  expect_same(gradient(min(x), x), {0, 0.5, 0, 0.5});
  expect_same(gradient(max(y), y), {0, 0.5, 0.5});
}

TEST(EdgeValues, RootsAreThoseOfSqrt) {
  const Tensor x = leaf({-0.0, -kInf, 0, kInf, 4});
  expect_same(pow(x, 0.5).to_vector(), {-0.0, kNan, 0, kInf, 2});
  expect_same(gradient(pow(x, 0.5), x), {-kInf, kNan, kInf, 0, 0.25});
  expect_same(pow(x, -0.5).to_vector(), {-kInf, kNan, kInf, 0, 0.5});
  expect_same(gradient(pow(x, -0.5), x), {-kInf, -0.0, -kInf, -0.0, -0.0625});
}

TEST(EdgeValues, DerivativesOfEluAtTheOriginAndAtNan) {
  const Tensor x = leaf({0, -0.0, -1, 1, kNan});
  const Tensor g = autograd::grad(elu(x, 0.5).sum(), {x}, {.create_graph = true})[0];
  const double slope = 0.5 * std::exp(-1);
  expect_same(g.to_vector(), {0.5, 0.5, slope, 1, 1});
  expect_same(gradient(g, x), {0, 0, slope, 0, 0});
}

TEST(EdgeValues, SecondDerivativeOfSmoothL1AtItsKink) {
  for (const double beta : {0.5, 1.0, 2.0}) {
    const Tensor x = leaf({beta, -beta, beta / 2, 0, 3 * beta, -3 * beta});
    const Tensor y = smooth_l1_loss(x, zeros({6}), Reduction::kSum, beta);
    const Tensor g = autograd::grad(y, {x}, {.create_graph = true})[0];
    expect_same(g.to_vector(), {1, -1, 0.5, 0, 1, -1});
    expect_same(gradient(g, x), {0, 0, 1 / beta, 1 / beta, 0, 0});
  }
  const Tensor x = leaf({kNan, kInf, -kInf});
  expect_same(gradient(smooth_l1_loss(x, zeros({3}), Reduction::kNone), x), {kNan, 1, -1});
}

TEST(EdgeValues, VarianceOfNoMoreElementsThanTheCorrection) {
  const auto slopes = [](const Tensor& x, bool root, const Dims& dims, int64_t correction) {
    const Tensor y = root ? lockstep::std(x, dims, correction) : var(x, dims, correction);
    Values values = y.to_vector();
    for (double g : gradient(y, x)) values.push_back(g);
    return values;
  };
  for (const bool root : {false, true}) {
    expect_same(slopes(leaf({2}), root, {}, 1), {kNan, kNan});
    expect_same(slopes(leaf({2}), root, {0}, 1), {kNan, kNan});
    expect_same(slopes(tensor(2.0, {.requires_grad = true}), root, {}, 1), {kNan, kNan});
    expect_same(slopes(leaf({2}), root, {}, 0), {0, 0});
    expect_same(slopes(leaf({2}), root, {0}, 0), {0, 0});
  }
  expect_same(slopes(leaf({2, 3}), false, {}, 2), {kInf, kInf, kInf});
  expect_same(slopes(leaf({2, 3}), false, {0}, 2), {kInf, -kInf, kInf});
  expect_same(slopes(leaf({2, 3}), true, {0}, 2), {kInf, kNan, kNan});
  expect_same(slopes(leaf({2, 3}), false, {0}, 3), {kInf, 1, -1});
}

TEST(EdgeValues, SecondDerivativeOfThe3NormAtTheOrigin) {
  const Tensor x = leaf({0, 0, 0});
  const Tensor g = autograd::grad(norm(x, 3), {x}, {.create_graph = true})[0];
  EXPECT_EQ(g.to_vector(), (Values{0, 0, 0}));
  EXPECT_EQ(gradient(g, x), (Values{0, 0, 0}));
}

TEST(EdgeValues, ClampOfIntegers) {
  const Tensor x = tensor({0, 1, 2, 3});
  const auto expect = [](const Tensor& y, DType dtype, const Values& values) {
    EXPECT_EQ(y.dtype(), dtype);
    EXPECT_EQ(y.to_vector(), values);
  };
  expect(clamp(x, 0.5, 2.5), DType::kFloat32, {0.5, 1, 2, 2.5});
  expect(clamp_min(x, 0.5), DType::kFloat32, {0.5, 1, 2, 3});
  expect(clamp_max(x, 2.5), DType::kFloat32, {0, 1, 2, 2.5});
  expect(clamp(x, 1, 2), DType::kInt64, {1, 1, 2, 2});
  expect(clamp(x, -1e30, 1e30), DType::kInt64, {0, 1, 2, 3});
  EXPECT_ERROR(x.clone().clamp_(0.5, 2.5),
               "result type Float can't be cast to the desired output type Long");
  for (DType dtype : {DType::kUInt8, DType::kInt32, DType::kInt64}) {
    expect(clamp_max(x.to(dtype), 2), dtype, {0, 1, 2, 2});
    expect(clamp_min(x.to(dtype), 2), dtype, {2, 2, 2, 3});
  }
  expect(clamp(x.to(DType::kUInt8), -1, 2), DType::kUInt8, {0, 1, 2, 2});
  expect(clamp(x.to(DType::kUInt8), 0, 255), DType::kUInt8, {0, 1, 2, 3});
  // Beyond 2^53 too.
  const Tensor ends = tensor({INT64_MAX, INT64_MIN});
  EXPECT_EQ(clamp_max(ends, 1e30).data<int64_t>()[0], INT64_MAX);
  EXPECT_EQ(clamp_min(ends, -1e30).data<int64_t>()[1], INT64_MIN);
}

TEST(EdgeValues, BoundsThatAreNanOrCross) {
  const Values nans(4, kNan), none(4, 0);
  const Tensor x = leaf({-3, 1.5, 3, kNan});
  for (const Tensor& y :
       {clamp(x, kNan, 1), clamp(x, 0, kNan), clamp_min(x, kNan), clamp_max(x, kNan)}) {
    expect_same(y.to_vector(), nans);
    expect_same(gradient(y, x), none);
  }
  expect_same(hardtanh(x, kNan, 1).to_vector(), nans);
  expect_same(gradient(hardtanh(x, kNan, 1), x), {1, 0, 0, 1});
  expect_same(hardtanh(x, 0, kNan).to_vector(), nans);
  expect_same(gradient(hardtanh(x, 0, kNan), x), {0, 1, 1, 1});
  for (const Tensor& y : {clamp(x, 2, 1), hardtanh(x, 2, 1)}) {
    expect_same(y.to_vector(), {1, 1, 1, kNan});
  }
  expect_same(clamp(tensor({1, 2}), kNan, 1).to_vector(), {kNan, kNan});
  expect_same(hardtanh(tensor({1, 3}), 2, 1).to_vector(), {1, 1});
}

TEST(EdgeValues, AlphaOfIntegersIsAnInteger) {
  const char* text =
      "For integral input tensors, argument alpha must not be a floating point number.";
  const Tensor x = tensor({0, 1, 2, 3});
  EXPECT_ERROR(x.add(x, 0.5), text);
  EXPECT_ERROR(x.sub(x, 2.0), text);
  EXPECT_ERROR(x.clone().add_(x, 0.5), text);
  EXPECT_ERROR(x.clone().sub_(x, 0.5), text);
  EXPECT_EQ(x.add(x, 2).to_vector(), (Values{0, 3, 6, 9}));
  EXPECT_EQ((x * 1.0).add(x, 0.5).to_vector(), (Values{0, 1.5, 3, 4.5}));
}

TEST(EdgeValues, ArangeIsFloatingWhereANumberIs) {
  const Tensor x = arange(0, 1, 0.3);
  EXPECT_EQ(x.dtype(), DType::kFloat32);
  EXPECT_EQ(x.to_vector(), (Values{0, 0.3f, 0.6f, 0.9f}));
  EXPECT_EQ(arange(5.0).dtype(), DType::kFloat32);
  EXPECT_EQ(arange(5).dtype(), DType::kInt64);
  EXPECT_EQ(arange(0, -3, -2).to_vector(), (Values{0, -2}));
  EXPECT_EQ(arange(0.5, 4, 1, {DType::kInt64}).to_vector(), (Values{0, 1, 2, 3}));
  EXPECT_ERROR(arange(0, 1, 0.3, {DType::kInt64}), "step must be nonzero");
  const int64_t big = (int64_t{1} << 60) + 1;
  const Tensor exact = arange(big, big + 3);
  for (int64_t i = 0; i < 3; ++i) EXPECT_EQ(exact.data<int64_t>()[i], big + i);
}

TEST(EdgeValues, NarrowFromTheEnd) {
  const Tensor x = tensor({1.0, 2.0, 3.0});
  EXPECT_EQ(x.narrow(0, -2, 1).to_vector(), (Values{2}));
  EXPECT_ERROR(x.narrow(0, -4, 1),
               "Dimension out of range (expected to be in range of [-3, 2], but got -4)");
  EXPECT_ERROR(x.narrow(0, -2, 3), "start (1) + length (3) exceeds dimension size (3).");
}

TEST(EdgeValues, GroupsThatDoNotDivideTheChannels) {
  EXPECT_ERROR(conv2d(ones({1, 2, 3, 3}), ones({3, 1, 2, 2}), {}, Conv2dParams{.groups = 2}),
               "Given groups=2, expected weight to be divisible by 2 at dimension 0, but got "
               "weight of size [3, 1, 2, 2] instead");
}

}  // namespace

TEST(EdgeValues, SixteenBitNumbersMeetTheirBoundsAsRounded) {
  for (const DType dtype : {DType::kBFloat16, DType::kFloat16}) {
    const Tensor h = tensor({0.1}, {.dtype = dtype});
    const Tensor wide = tensor(0.1, {.dtype = DType::kFloat64});
    EXPECT_TRUE((h == 0.1).to(DType::kFloat32).item() == 1 &&
                (h <= 0.1).to(DType::kFloat32).item());
    EXPECT_EQ((h > 0.1).to(DType::kFloat32).item(), 0);
    EXPECT_EQ((h == wide).to(DType::kFloat32).item(), 1);
    const auto slope = [&](const std::function<Tensor(const Tensor&)>& f) {
      const Tensor x = tensor({0.1}, {.requires_grad = true, .dtype = dtype});
      f(x).sum().backward();
      return x.grad().to(DType::kFloat32).item();
    };
    EXPECT_EQ(slope([](const Tensor& x) { return clamp(x, 0.0, 0.1); }), 1);
    EXPECT_EQ(slope([](const Tensor& x) { return clamp_max(x, 0.1); }), 1);
    EXPECT_EQ(slope([](const Tensor& x) { return maximum(x, 0.1); }), 0.5);
    EXPECT_EQ(slope([&](const Tensor& x) { return minimum(x, wide); }), 0.5);
  }
}

TEST(EdgeValues, AnInfiniteGradientConcernsTheExtremesOnly) {
  const Tensor x = tensor({0.0, 1.0}, {.requires_grad = true});
  sqrt(min(x)).backward();
  EXPECT_EQ(x.grad().select(0, 0).item(), INFINITY);
  EXPECT_EQ(x.grad().select(0, 1).item(), 0);
}

TEST(EdgeValues, IntegersTakeNoHistoryFromWhatIsCopied) {
  const Tensor x = tensor({1.5, 2.0}, {.requires_grad = true});
  for (const DType dtype : {DType::kInt64, DType::kBool, DType::kUInt8}) {
    const Tensor into = zeros({2}, {.dtype = dtype});
    into.copy_(x);
    EXPECT_FALSE(into.requires_grad());
    into.select(0, 0).copy_(x.select(0, 0));
    EXPECT_FALSE(into.requires_grad());
  }
}

// A tensor without dimensions is as good as a vector of one element.
TEST(EdgeValues, RowsOfATensorWithoutDimensions) {
  const Tensor x = tensor(3.0, {.requires_grad = true}), y = tensor(2.0, {.requires_grad = true});
  const Tensor first = zeros({1}, {DType::kInt64});
  const Tensor same = index_select(x, 0, first), sum = index_add(x, 0, first, y);
  EXPECT_EQ(same.dim(), 0);
  EXPECT_EQ(same.item(), 3);
  EXPECT_EQ(sum.dim(), 0);
  EXPECT_EQ(sum.item(), 5);
  (same * 4 + sum).backward();
  EXPECT_EQ(x.grad().item(), 5);
  EXPECT_EQ(y.grad().item(), 1);
}

TEST(EdgeValues, PlacesInATensorWithoutDimensions) {
  const auto same = [](const Tensor& y, const Dims& sizes, const Values& values) {
    EXPECT_EQ(y.sizes(), sizes);
    EXPECT_EQ(y.to_vector(), values);
  };
  const Tensor x = tensor(2.0, {.requires_grad = true}), none = zeros({0}, {DType::kInt64});
  same(flip(x, {0}), {}, {2});
  same(gather(x, 0, tensor(0)), {}, {2});
  same(gather(x, 0, tensor({0, 0})), {2}, {2, 2});
  same(gather(x, 0, none), {0}, {});
  same(gather(ones({2}), 0, tensor(1)), {}, {1});
  same(gather(ones({2, 2}), 0, none), {0}, {});
  const Tensor source = tensor({1.0, 5.0}, {.requires_grad = true});
  same(scatter_add(x, 0, tensor({0, 0}), source), {}, {8});
  same(scatter_add(x, 0, tensor(0), source), {}, {3});
  same(scatter_add(x, 0, tensor({0}), x), {}, {4});
  same(scatter_add(source, -1, tensor(1), x), {2}, {1, 7});
  same(scatter_add(ones({2, 2}), 0, none, ones({1, 1})), {2, 2}, {1, 1, 1, 1});
  flip(x, {-1}).backward();
  (gather(x, 0, tensor({0, 0})) * tensor({3.0, 4.0})).sum().backward();
  scatter_add(x, 0, tensor({0, 0}), source * 2).backward();
  (scatter_add(source, 0, tensor(1), x) * tensor({1.0, 10.0})).sum().backward();
  same(x.grad(), {}, {1 + 7 + 1 + 10});
  same(source.grad(), {2}, {2 + 1, 2 + 10});
}

TEST(EdgeValues, AnIndexWithoutDimensionsSelects) {
  const auto same = [](const Tensor& y, const Dims& sizes, const Values& values) {
    EXPECT_EQ(y.sizes(), sizes);
    EXPECT_EQ(y.to_vector(), values);
  };
  const Tensor x = arange(24).view({2, 3, 4}), one = tensor(1), rows = tensor({1, 0});
  same(x.index({one, tensor(-1).to(DType::kInt32)}), {4}, {20, 21, 22, 23});
  same(x.index({one, one, one}), {}, {17});
  same(x.index({{}, one, rows}), {2, 2}, {5, 4, 17, 16});
  // The selected dimension does not stand between others: what is indexed stays where it is.
  same(x.index({{}, rows, one}), {2, 2}, {5, 1, 17, 13});
  same(x.index({rows, {}, one}), {2, 3}, {13, 17, 21, 1, 5, 9});
  same(x.index({one, tensor({true, false, true})}), {2, 4}, {12, 13, 14, 15, 20, 21, 22, 23});
  x.index({one, one}).fill_(-1);  // a view
  same(x.select(0, 1).select(0, 1), {4}, {-1, -1, -1, -1});
  same(zeros({2, 2}).index_put({one}, tensor(3.0)), {2, 2}, {0, 0, 3, 3});
}

// On the CPU, bit for bit.
TEST(EdgeValues, LinearGeluIsTheGeluOfLinear) {
  manual_seed(7);
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kBFloat16, DType::kFloat16}) {
    for (const Dims& sizes : {Dims{5, 6}, {2, 3, 6}, {6}, {0, 6}}) {
      const Tensor x = randn(sizes).to(dtype), w = randn({11, 6}).to(dtype);
      const Tensor b = randn({11}).to(dtype);
      const auto results = [&](const auto& op) {
        const Tensor lx = x.clone().requires_grad_(), lw = w.clone().requires_grad_();
        const Tensor lb = b.clone().requires_grad_();
        const Tensor y = op(lx, lw, lb);
        std::vector<Values> all = {y.to_vector()};
        // With create_graph by other ways to the same values.
        for (const bool twice : {true, false}) {
          const autograd::GradOptions options{.retain_graph = true, .create_graph = twice};
          for (const Tensor& g : autograd::grad(mul(y, y).sum(), {lx, lw, lb}, options)) {
            all.push_back(g.to_vector());
          }
        }
        return all;
      };
      EXPECT_EQ(results([](auto&... in) { return linear_gelu(in...); }),
                results([](auto&... in) { return gelu(linear(in...), "tanh"); }))
          << name_of(dtype) << sizes.str();
    }
  }
}

TEST(EdgeValues, LinearOfOtherWeightsAndBiases) {
  const Tensor x = tensor({{1.0, 2.0}, {3.0, 4.0}}), w = tensor({{1.0, 0.0}, {1.0, 1.0}});
  const auto same = [](const Tensor& y, const Dims& sizes, const Values& values) {
    EXPECT_EQ(y.sizes(), sizes);
    EXPECT_EQ(y.to_vector(), values);
  };
  same(linear(x, tensor({10.0, 1.0})), {2}, {12, 34});
  same(linear(x[0], tensor({10.0, 1.0})), {}, {12});
  same(linear(x.view({1, 2, 2}), tensor({10.0, 1.0})), {1, 2}, {12, 34});
  same(linear(x, w, tensor(5.0)), {2, 2}, {6, 8, 8, 12});
  same(linear(x, w, tensor({5.0})), {2, 2}, {6, 8, 8, 12});
  same(linear(x, w, x), {2, 2}, {2, 5, 6, 11});
  same(linear(x.view({2, 1, 2}), w, tensor({5.0})), {2, 1, 2}, {6, 8, 8, 12});
  same(linear(x[0], w, tensor(5.0)), {2}, {6, 8});
}

TEST(EdgeValues, TheLastDimensionThatDoesNotMatchIsNamed) {
  EXPECT_ERROR(ones({2, 3}) + ones({3, 2}),
               "The size of tensor a (3) must match the size of tensor b (2) at non-singleton "
               "dimension 1");
}

}  // namespace lockstep::testing
