// The dtypes and values of expressions of any two dtypes, against PyTorch
// (tests/golden/make_promotion_golden.py), and what truth values do.
#include <cmath>
#include <map>

#include <gtest/gtest.h>

#include "lockstep/engine/ops/ops.h"

#include "engine/throws.h"
#include "golden/golden.h"

namespace lockstep::testing {
namespace {

using Json = nlohmann::json;
using Values = std::vector<double>;

// The three values of a side, or the second of them alone.
struct Argument {
  Tensor tensor;
  Scalar number = 0;
  bool is_tensor = true;

  Operand operand() const { return is_tensor ? Operand(tensor) : Operand(number); }
};

Argument argument(const Json& description, const Values& values) {
  const std::string kind = description[0];
  const DType dtype = dtype_from_name(description[1].get<std::string>());
  Argument a;
  if (kind == "number") {
    a.is_tensor = false;
    a.number = dtype == DType::kBool    ? Scalar(values[1] != 0)
               : dtype == DType::kInt64 ? Scalar(static_cast<int64_t>(values[1]))
                                        : Scalar(values[1]);
    return a;
  }
  a.tensor = from_span<double>(values, {3}).to(dtype);
  if (kind == "zero_dim") a.tensor = a.tensor.select(0, 1);
  return a;
}

Tensor power(const Argument& a, const Argument& b) {
  if (!a.is_tensor) return pow(a.number, b.tensor);
  return b.is_tensor ? pow(a.tensor, b.tensor) : pow(a.tensor, b.number);
}

Tensor quotient(const Argument& a, const Argument& b) {
  return a.is_tensor ? div(a.tensor, b.operand()) : a.number / b.tensor;
}

Tensor run(const std::string& op, const Argument& a, const Argument& b, const Argument& high) {
  const Operand x = a.operand(), y = b.operand();
  if (op == "add") return add(x, y);
  if (op == "sub") return sub(x, y);
  if (op == "mul") return mul(x, y);
  if (op == "div") return quotient(a, b);
  if (op == "pow") return power(a, b);
  if (op == "maximum") return maximum(x, y);
  if (op == "minimum") return minimum(x, y);
  if (op == "where") return where(tensor({true, false, true}), x, y);
  if (op == "matmul") return matmul(a.tensor, b.tensor);
  if (op == "clamp") return clamp(a.tensor, b.tensor, high.tensor);
  if (op == "l1_loss") return l1_loss(a.tensor, b.tensor, Reduction::kNone);
  if (op == "mse_loss") return mse_loss(a.tensor, b.tensor, Reduction::kNone);
  if (op == "smooth_l1_loss") return smooth_l1_loss(a.tensor, b.tensor, Reduction::kNone);
  if (op == "eq") return eq(x, y);
  if (op == "lt") return lt(x, y);
  EXPECT_EQ(op, "ge");
  return ge(x, y);
}

TEST(Promotion, IsPyTorchs) {
  const Json cases = golden::read("promotion_golden.json");
  EXPECT_GT(cases.size(), 3300u);
  std::map<std::string, int> refused, computed;
  for (const Json& c : cases) {
    const std::string op = c[0], what = c.dump();
    const Argument a = argument(c[1], {3, 0, 1}), b = argument(c[2], {2, 1, 0});
    const Argument high = c.size() > 5 ? argument(c[5], {2, 3, 0}) : Argument();
    if (c[3].is_null()) {
      EXPECT_THROW(run(op, a, b, high), Error) << what;
      ++refused[op];
      continue;
    }
    Tensor y;
    ASSERT_NO_THROW(y = run(op, a, b, high)) << what;
    EXPECT_EQ(name_of(y.dtype()), c[3].get<std::string>()) << what;
    ++computed[op];
    if (c[4].is_null()) continue;
    const Values got = y.to_vector(), expected = golden::numbers(c[4]);
    ASSERT_EQ(got.size(), expected.size()) << what;
    for (size_t i = 0; i < got.size(); ++i) {
      // The values are exact but for a quotient by 3, which a division and a product by the
      // reciprocal round differently.
      const bool both_nan = std::isnan(got[i]) && std::isnan(expected[i]);
      EXPECT_TRUE(both_nan || got[i] == expected[i] || std::fabs(got[i] - expected[i]) < 1e-7)
          << what << ": " << got[i];
    }
  }
  EXPECT_GT(refused["sub"], 60);
  EXPECT_GT(refused["matmul"], 50);
  EXPECT_GT(refused["mse_loss"], 40);
  EXPECT_EQ(computed.size(), 16u);
}

void expect(const Tensor& y, DType dtype, const Values& values) {
  EXPECT_EQ(name_of(y.dtype()), name_of(dtype));
  EXPECT_EQ(y.to_vector(), values);
}

constexpr DType kBool = DType::kBool, kInt64 = DType::kInt64, kInt32 = DType::kInt32,
                kUInt8 = DType::kUInt8, kFloat32 = DType::kFloat32;

TEST(Promotion, TruthValuesAddAndMultiplyLogically) {
  const Tensor a = tensor({true, false, true}), b = tensor({true, true, false});
  const Tensor i = tensor({1, 2, 3});
  expect(a + b, kBool, {1, 1, 1});
  expect(a * b, kBool, {1, 0, 0});
  expect(a.add(b, 2), kBool, {1, 1, 1});
  expect(a.add(b, 256), kBool, {1, 1, 1});
  expect(a.add(i, 2), kInt64, {3, 4, 7});
  expect(maximum(a, b), kBool, {1, 1, 1});
  expect(minimum(a, b), kBool, {1, 0, 0});
  expect(sign(a), kBool, {1, 0, 1});
  expect(outer(a, b), kBool, {1, 1, 0, 0, 0, 0, 1, 1, 0});
  expect(a.clone().add_(b), kBool, {1, 1, 1});
  expect(a.clone().mul_(b), kBool, {1, 0, 0});
  expect(square(a), kInt64, {1, 0, 1});
  expect(clamp(a, 1, 2), kInt64, {1, 1, 1});
  expect(clamp_min(a, 0.5), kFloat32, {1, 0.5, 1});
  expect(clamp(i, a, Tensor()), kInt64, {1, 2, 3});
  EXPECT_ERROR(clamp(a, a, b), "\"clamp\" not implemented for 'Bool'");
  EXPECT_ERROR(abs(a), "\"abs\" not implemented for 'Bool'");
  EXPECT_ERROR(relu(a), "Boolean inputs not supported for relu");
  EXPECT_ERROR(hardtanh(a), "Bool inputs not supported for hardtanh");
}

TEST(Promotion, RootsOfIntegersAreFloating) {
  for (DType dtype : {kInt64, kInt32, kUInt8}) {
    expect(pow(tensor({0, 4, 9}).to(dtype), 0.5), kFloat32, {0, 2, 3});
    expect(pow(tensor({1, 2, 4}).to(dtype), -1.0), kFloat32, {1, 0.5, 0.25});
    expect(pow(tensor({0, 4, 9}).to(dtype), 2), dtype, {0, 16, 81});
  }
  expect(pow(2, tensor({-1, 0, 1})), kInt64, {0, 1, 2});
}

// Against sums written out, modulo the dtype.
TEST(Promotion, ProductsOfIntegerMatrices) {
  const int64_t m = 37, k = 50, n = 41;
  for (DType dtype : {kInt64, kInt32, kUInt8}) {
    const Tensor a = sub(mul(arange(m * k), 7919), 1000000).to(dtype).view({m, k});
    const Tensor b = mul(arange(k * n), 104729).to(dtype).view({k, n});
    const Values av = a.to_vector(), bv = b.to_vector();
    std::vector<int64_t> sums(static_cast<size_t>(m * n));
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        uint64_t sum = 0;
        for (int64_t l = 0; l < k; ++l) {
          sum += static_cast<uint64_t>(static_cast<int64_t>(av[static_cast<size_t>(i * k + l)])) *
                 static_cast<uint64_t>(static_cast<int64_t>(bv[static_cast<size_t>(l * n + j)]));
        }
        sums[static_cast<size_t>(i * n + j)] = static_cast<int64_t>(sum);
      }
    }
    const Values expected =
        from_span<int64_t>(sums, {m, n}).to(dtype).to_vector();  // what fits, as C++ converts
    expect(mm(a, b), dtype, expected);
    expect(mm(a.t().contiguous().t(), b.t().contiguous().t()), dtype, expected);
    const Tensor stacked = bmm(stack({a, a}), stack({b, b}));
    expect(stacked[0], dtype, expected);
    expect(stacked[1], dtype, expected);
    expect(linear(a, b.t()), dtype, expected);
    expect(sub(linear(a, b.t(), b[0]), b[0]), dtype, expected);
    expect(mv(a, b.t()[3]), dtype, mm(a, b).t()[3].to_vector());
    expect(dot(a[2], b.t()[3]), dtype, mm(a, b)[2][3].to_vector());
  }
  const Tensor row = tensor({{1, 2}}), column = tensor({{1}, {2}});
  expect(addmm(tensor({10}), row, column, 2, 3), kInt64, {35});
  expect(matmul(ones({2, 2, 3}, {kInt32}), ones({3, 2}, {kInt32})), kInt32,
         {3, 3, 3, 3, 3, 3, 3, 3});
  EXPECT_ERROR(addmm(tensor({10}), row, column, 1, 0.5),
               "For integral input tensors, argument alpha must not be a floating point number.");
}

TEST(Promotion, Int32Indices) {
  const Tensor x = arange(12).to(kFloat32).view({3, 4}), at = tensor({2, 0}).to(kInt32);
  expect(index_select(x, 0, at), kFloat32, {8, 9, 10, 11, 0, 1, 2, 3});
  expect(embedding(at, x), kFloat32, {8, 9, 10, 11, 0, 1, 2, 3});
  expect(index_add(zeros({3}), 0, at, tensor({1.0, 2.0})), kFloat32, {2, 0, 1});
  const Tensor weight = x.clone().requires_grad_();
  embedding(at, weight).sum().backward();
  expect(weight.grad(), kFloat32, {1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1});
  // These take int64 only, in PyTorch too.
  EXPECT_ERROR(gather(x, 0, at.view({2, 1})), "gather(): Expected dtype int64 for index");
  EXPECT_ERROR(index(x, {at}), "tensors used as indices must be long, byte or bool tensors");
  EXPECT_THROW(index_select(x, 0, at.to(kUInt8)), ValueError);
  EXPECT_THROW(embedding(at.to(kUInt8), x), ValueError);
}

TEST(Promotion, MasksOfBytes) {
  const Tensor x = arange(12).view({3, 4}), mask = tensor({0, 1, 1}).to(kUInt8);
  expect(index(x, {mask}), kInt64, {4, 5, 6, 7, 8, 9, 10, 11});
  expect(index(x, {tensor({3, 0, 0}).to(kUInt8)}), kInt64, {0, 1, 2, 3});
  expect(masked_fill(tensor({1, 2, 3}), mask, 7), kInt64, {1, 7, 7});
  expect(masked_select(tensor({1, 2, 3}), mask), kInt64, {2, 3});
  expect(where(tensor({0, 2, 1}).to(kUInt8), tensor({1.0, 2.0, 3.0}), 0), kFloat32, {0, 2, 3});
  const Tensor filled = zeros({3});
  filled.masked_fill_(mask, 2.5);
  expect(filled, kFloat32, {0, 2.5, 2.5});
}

TEST(Promotion, ActivationsOfIntegersAreRefused) {
  const std::vector<std::pair<std::string, Tensor (*)(const Tensor&)>> activations = {
      {"gelu", [](const Tensor& x) { return gelu(x); }},
      {"gelu", [](const Tensor& x) { return gelu(x, "tanh"); }},
      {"silu", [](const Tensor& x) { return silu(x); }},
      {"silu", [](const Tensor& x) { return silu_(x); }},
      {"elu", [](const Tensor& x) { return elu(x); }},
      {"softplus", [](const Tensor& x) { return softplus(x); }},
      {"leaky_relu", [](const Tensor& x) { return leaky_relu(x); }},
      {"leaky_relu", [](const Tensor& x) { return leaky_relu_(x, 0.1); }},
      {"softmax", [](const Tensor& x) { return softmax(x, 0); }},
      {"layer_norm", [](const Tensor& x) { return layer_norm(x, {2}); }},
      {"mse_loss", [](const Tensor& x) { return mse_loss(x, x); }},
      {"binary_cross_entropy", [](const Tensor& x) { return binary_cross_entropy(x, x); }},
      {"uniform_", [](const Tensor& x) { return x.uniform_(); }}};
  const std::map<DType, std::string> names = {
      {kInt64, "Long"}, {kInt32, "Int"}, {kUInt8, "Byte"}, {kBool, "Bool"}};
  for (const auto& [op, activation] : activations) {
    for (const auto& [dtype, name] : names) {
      EXPECT_ERROR(activation(ones({2}, {dtype})),
                   "\"" + op + "\" not implemented for '" + name + "'");
    }
  }
}

// The losses' gradients have the dtypes of what they are of.
TEST(Promotion, GradientsOfLossesOfTwoDtypes) {
  for (const auto loss : {&mse_loss, &l1_loss}) {
    const Tensor x = tensor({1.0, 3.0}, {.requires_grad = true});
    const Tensor t = tensor(2.0, {.requires_grad = true, .dtype = DType::kFloat64});
    const Tensor y = loss(x, t, Reduction::kSum);
    EXPECT_EQ(y.dtype(), DType::kFloat64);
    y.backward();
    const double slope = loss == &mse_loss ? 2 : 1;
    expect(x.grad(), kFloat32, {-slope, slope});
    expect(t.grad(), DType::kFloat64, {0});
  }
}

TEST(Promotion, BytesAnswerInBytes) {
  const Tensor x = tensor({{1, 0}, {2, 3}}).to(kUInt8);
  expect(all(x), kUInt8, {0});
  expect(any(x), kUInt8, {1});
  expect(all(x, 1), kUInt8, {0, 1});
  expect(any(x, 0, true), kUInt8, {1, 1});
  expect(all(x.to(kInt64)), kBool, {0});
  EXPECT_TRUE(equal(x, x.to(kFloat32)));
}

TEST(Promotion, SumsAtPlacesInEveryDtype) {
  const Tensor twice = tensor({0, 0}), x = tensor({1, 2});
  for (DType dtype : {kInt64, kInt32, kUInt8}) {
    const Tensor y = x.to(dtype);
    expect(index_add(y, 0, twice, y), dtype, {4, 2});
    expect(scatter_add(y, 0, twice, y), dtype, {4, 2});
    expect(index_put(y, {twice}, y, true), dtype, {4, 2});
  }
  const Tensor y = tensor({false, false}), add = tensor({true, true});
  expect(index_add(y, 0, twice, add), kBool, {1, 0});
  expect(scatter_add(y, 0, twice, add), kBool, {1, 0});
}

TEST(Promotion, MasksWithoutDimensions) {
  const Tensor x = arange(12).view({3, 4}), yes = tensor(true), no = tensor(false);
  const auto sized = [](const Tensor& y, const Dims& sizes) { EXPECT_EQ(y.sizes(), sizes); };
  sized(index(x, {yes}), {1, 3, 4});
  sized(index(x, {no}), {0, 3, 4});
  sized(index(x, {yes.to(kUInt8)}), {1, 3, 4});
  sized(index(x, {Tensor(), yes}), {3, 1, 4});
  sized(index(x, {Tensor(), no}), {3, 0, 4});
  sized(index(x, {yes, yes}), {1, 3, 4});
  EXPECT_EQ(index(x, {yes}).to_vector(), x.to_vector());
  const Tensor rows = tensor({2, 0}), columns = tensor({1, 3});
  expect(index(x, {rows, yes}), kInt64, {8, 9, 10, 11, 0, 1, 2, 3});
  expect(index(x, {yes, rows}), kInt64, {8, 9, 10, 11, 0, 1, 2, 3});
  expect(index(x, {yes, rows, columns}), kInt64, {9, 3});
  sized(index(x, {Tensor(), rows, yes}), {3, 2});
  expect(index_put(x.to(kFloat32), {yes}, tensor(1.0)), kFloat32, Values(12, 1));
  expect(index_put(x.to(kFloat32), {no}, tensor(1.0)), kFloat32, x.to_vector());
  const Tensor leaf = ones({2, 2}, {.requires_grad = true});
  index(leaf, {yes}).sum().backward();
  EXPECT_EQ(leaf.grad().to_vector(), Values(4, 1));
}

}  // namespace
}  // namespace lockstep::testing
