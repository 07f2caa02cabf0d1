// bfloat16 and float16: what is stored has 16 bits, what is computed has float32's, and a result is
// rounded once.
#include <cmath>

#include <gtest/gtest.h>

#include "lockstep/engine/autograd/backward.h"
#include "lockstep/engine/ops/ops.h"
#include "lockstep/engine/tensor/random.h"
#include "lockstep/engine/threads.h"

namespace lockstep::testing {
namespace {

using Tensors = std::vector<Tensor>;
using Function = std::function<Tensor(const Tensors&)>;

// Half a unit in the last place of a result, and what float32 sums may add to it, relative to the
// largest element.
double half_ulp(DType dtype) { return dtype == DType::kBFloat16 ? 0x1p-8 : 0x1p-11; }
constexpr double kFloat32Sum = 4e-6;

void expect_rounded(const Tensor& got, const Tensor& exact, DType dtype, const char* what,
                    int times = 1) {
  ASSERT_EQ(got.sizes(), exact.sizes()) << what;
  EXPECT_EQ(got.dtype(), dtype) << what;
  const auto a = got.to_vector(), b = exact.to_vector();
  double largest = 0;
  for (double v : b) largest = std::max(largest, std::fabs(v));
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_LE(std::fabs(a[i] - b[i]),
              times * half_ulp(dtype) * 1.0001 * std::fabs(b[i]) + kFloat32Sum * largest)
        << what << ", element " << i << ": " << a[i] << " for " << b[i];
  }
}

struct Dense {
  const char* name;
  std::vector<Dims> sizes;
  Function function;
  int backward_roundings = 1;  // 0: sums of rounded numbers, not compared
};

const std::vector<Dense>& dense_ops() {
  static const std::vector<Dense> kOps = {
      {"mm", {{17, 200}, {200, 9}}, [](const Tensors& x) { return mm(x[0], x[1]); }},
      {"mm large", {{600, 70}, {70, 1100}}, [](const Tensors& x) { return mm(x[0], x[1]); }},
      {"mm large transposed",
       {{90, 100}, {130, 90}},
       [](const Tensors& x) { return mm(x[0].t(), x[1].t()); }},
      {"mm large strided",
       {{200, 80}, {80, 240}},
       [](const Tensors& x) { return mm(x[0].slice(0, 0, 200, 2), x[1].slice(1, 0, 240, 2)); }},
      {"linear large",
       {{128, 96}, {160, 96}, {160}},
       [](const Tensors& x) { return linear(x[0], x[1], x[2]); }},
      {"bmm large", {{3, 80, 96}, {3, 96, 72}}, [](const Tensors& x) { return bmm(x[0], x[1]); }},
      {"mm transposed",
       {{200, 17}, {9, 200}},
       [](const Tensors& x) { return mm(x[0].t(), x[1].t()); }},
      {"mm strided",
       {{34, 40}, {40, 6}},
       [](const Tensors& x) { return mm(x[0].slice(0, 0, 34, 2), x[1].slice(1, 0, 6, 2)); }},
      {"bmm", {{3, 5, 64}, {3, 64, 7}}, [](const Tensors& x) { return bmm(x[0], x[1]); }},
      {"matmul", {{2, 3, 5, 64}, {64, 7}}, [](const Tensors& x) { return matmul(x[0], x[1]); }},
      {"matmul broadcast",
       {{2, 1, 5, 16}, {3, 16, 7}},
       [](const Tensors& x) { return matmul(x[0], x[1]); },
       0},
      {"mv", {{5, 300}, {300}}, [](const Tensors& x) { return mv(x[0], x[1]); }},
      {"dot", {{300}, {300}}, [](const Tensors& x) { return dot(x[0], x[1]); }},
      {"linear",
       {{3, 4, 64}, {9, 64}, {9}},
       [](const Tensors& x) { return linear(x[0], x[1], x[2]); }},
      {"addmm",
       {{9}, {4, 64}, {64, 9}},
       [](const Tensors& x) { return addmm(x[0], x[1], x[2], 0.3, 0.7); },
       2},
      {"conv2d",
       {{2, 8, 6, 5}, {4, 8, 3, 3}, {4}},
       [](const Tensors& x) {
         return conv2d(x[0], x[1], x[2], {.padding = {1, 1}});
       }},
      {"conv2d groups",
       {{2, 8, 6, 5}, {4, 4, 3, 3}},
       [](const Tensors& x) {
         return conv2d(x[0], x[1], {}, {.stride = {2, 1}, .groups = 2});
       }},
      {"conv1d",
       {{2, 8, 12}, {4, 8, 3}, {4}},
       [](const Tensors& x) { return conv1d(x[0], x[1], x[2]); }},
      {"conv_transpose2d",
       {{2, 8, 4, 5}, {8, 4, 3, 3}},
       [](const Tensors& x) { return conv_transpose2d(x[0], x[1]); }},
      {"max_pool2d", {{2, 3, 6, 6}}, [](const Tensors& x) { return max_pool2d(x[0], 2); }},
      {"avg_pool2d", {{2, 3, 6, 6}}, [](const Tensors& x) { return avg_pool2d(x[0], 2); }},
      {"empty sum", {{2, 0}, {0, 3}}, [](const Tensors& x) { return mm(x[0], x[1]); }},
  };
  return kOps;
}

class Half : public ::testing::TestWithParam<DType> {};

TEST_P(Half, DenseOpsRoundOnce) {
  manual_seed(4);
  for (const Dense& op : dense_ops()) {
    Tensors half, wide;
    for (const Dims& sizes : op.sizes) {
      half.push_back(randn(sizes).to(GetParam()).requires_grad_());
      wide.push_back(half.back().detach().to(DType::kFloat64).requires_grad_());
    }
    const Tensor y = op.function(half), exact = op.function(wide);
    expect_rounded(y, exact, GetParam(), op.name);
    const Tensor seed = randn(y.sizes()).to(GetParam());
    const auto g = autograd::grad(std::span(&y, 1), half, std::span(&seed, 1));
    const Tensor wide_seed = seed.to(DType::kFloat64);
    const auto expected = autograd::grad(std::span(&exact, 1), wide, std::span(&wide_seed, 1));
    for (size_t i = 0; i < g.size() && op.backward_roundings > 0; ++i) {
      expect_rounded(g[i], expected[i], GetParam(), op.name, op.backward_roundings);
    }
  }
}

// A model's weights stay float32 and are converted on the way.
TEST_P(Half, GradientsComeBackThroughTheConversion) {
  manual_seed(5);
  const Tensor x = randn({6, 40}), w = randn({5, 40}, {.requires_grad = true});
  const Tensor y = linear(x.to(GetParam()), w.to(GetParam())).to(DType::kFloat32);
  const Tensor seed = randn(y.sizes());
  y.backward(seed);
  EXPECT_EQ(w.grad().dtype(), DType::kFloat32);
  const auto rounded = [](const Tensor& t) { return t.to(GetParam()).to(DType::kFloat64); };
  const Tensor expected = mm(rounded(seed).t(), rounded(x));
  expect_rounded(w.grad().to(GetParam()), expected, GetParam(), "weight");
  EXPECT_EQ(w.grad().to_vector(), w.grad().to(GetParam()).to_vector());
}

TEST_P(Half, DoesNotDependOnTheAccumulationOf16Bits) {
  // 300 is beyond the 8 (or 11) bits that a running sum of ones would stop at.
  const Tensor a = ones({1, 5000}, {GetParam()}), b = ones({5000, 1}, {GetParam()});
  EXPECT_EQ(mm(a, b).item(), Tensor(full({1}, 5000).to(GetParam())).item());
}

TEST_P(Half, BitsDoNotDependOnThreads) {
  manual_seed(7);
  const Tensor a = randn({700, 150}).to(GetParam()), b = randn({150, 1300}).to(GetParam());
  const int before = num_threads();
  set_num_threads(1);
  const auto one = mm(a, b).to_vector();
  set_num_threads(3);
  EXPECT_EQ(mm(a, b).to_vector(), one);
  set_num_threads(before);
}

// Elementwise, sums and what moves or picks elements: exactly float32's result, rounded.
TEST_P(Half, OtherOpsAreFloat32Rounded) {
  manual_seed(6);
  const Tensor x = mul(add(rand({6, 8}), 0.25), 1.5).to(GetParam()), y = rand({8}).to(GetParam());
  const Tensor at = tensor({2, 0, 2}), places = zeros({2, 8}, {DType::kInt64});
  const Function functions[] = {
#define FUNCTION_Unary(op) [](const Tensors& t) { return op(t[0]); },
#define FUNCTION_Unary1(op) [](const Tensors& t) { return op(t[0], 0.7); },
#define FUNCTION_Unary2(op) [](const Tensors& t) { return op(t[0], 0.3, 1.1); },
#define FUNCTION_Binary(op) [](const Tensors& t) { return op(t[0], t[1]); },
#define FUNCTION_Binary1(op) [](const Tensors& t) { return op(t[0], t[1], 0.7); },
#define FUNCTION_Binary2(op) [](const Tensors& t) { return op(t[0], t[1], 0.3, 1.1); },
#define FUNCTION_Compare(op)
#define FUNCTION_Where(op)
#define FUNCTION(op, arity, ...) FUNCTION_##arity(op)
      LOCKSTEP_POINTWISE_OPS(FUNCTION)[](const Tensors& t){return sum(t[0]);
}
, [](const Tensors& t) { return mean(t[0], {0}); }, [](const Tensors& t) { return max(t[0]); },
    [](const Tensors& t) { return max(t[0], 1).values; },
    [](const Tensors& t) { return sort(t[0], 0, true).values; },
    [](const Tensors& t) { return topk(t[0], 2).values; },
    [](const Tensors& t) { return cumsum(t[0], 1); },
    [&](const Tensors& t) { return index_select(t[0], 0, at); },
    [&](const Tensors& t) { return index_add(t[0], 0, at, t[0].narrow(0, 0, 3)); },
    [&](const Tensors& t) { return gather(t[0], 0, places); },
    [&](const Tensors& t) { return scatter_add(t[0], 0, places, t[0].narrow(0, 0, 2)); },
    [&](const Tensors& t) { return embedding(at, t[0]); },
    [](const Tensors& t) {
      return cat({t[0], t[0]}, 1);
    },
    [](const Tensors& t) { return flip(t[0], {1}); }, [](const Tensors& t) { return tril(t[0]); },
    [](const Tensors& t) { return masked_fill(t[0], gt(t[0], 1), 0.3); },
    [](const Tensors& t) {
      manual_seed(3);
      return dropout(t[0], 0.3, true);
    },
    [](const Tensors& t) { return where(gt(t[0], 1), t[0], t[1]); }, [](const Tensors& t) {
      return adaptive_max_pool2d(t[0].view({1, 1, 6, 8}), 2, 3);
    },
};  // namespace
int number = 0;
for (const Function& f : functions) {
  const Tensor half = f({x, y});
  const Tensor wide = f({x.to(DType::kFloat32), y.to(DType::kFloat32)});
  EXPECT_EQ(half.dtype(), GetParam()) << "function " << number;
  EXPECT_EQ(half.to_vector(), wide.to(GetParam()).to_vector()) << "function " << number;
  ++number;
}
}  // namespace lockstep::testing

INSTANTIATE_TEST_SUITE_P(DTypes, Half, ::testing::Values(DType::kBFloat16, DType::kFloat16),
                         [](const auto& info) { return std::string(name_of(info.param)); });

}  // namespace
}  // namespace lockstep::testing
