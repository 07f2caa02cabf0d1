// Attention in one kernel of the CUDA backend, through the public op, against the formula in
// float64.
#include <cmath>

#include "lockstep/engine/autograd/autocast.h"
#include "lockstep/engine/autograd/backward.h"
#include "lockstep/engine/autograd/checkpoint.h"
#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/fused_attention.h"
#include "lockstep/engine/ops/ops.h"
#include "lockstep/engine/tensor/memory.h"

#include "compare.h"

namespace lockstep::testing {
namespace {

constexpr std::string_view kFused = "ScaledDotProductCudnnAttentionBackward0";

struct Case {
  std::string name;
  int64_t queries, keys, width, value_width;
  bool causal = false;
  bool joined = true;  // views of (B, L, H, E), else (B, H, L, E) itself
  int64_t batch = 2, heads = 3;
  bool fused = true;  // with a gradient
};

const std::vector<Case> kCases = {
    {"plain", 5, 7, 16, 16, false, true, 2, 3, false},
    {"whole tiles", 128, 256, 8, 16, false, true, 1, 2},
    {"causal", 9, 9, 32, 32, true},
    {"causal, more keys", 4, 9, 8, 8, true},
    {"causal, more queries", 9, 4, 64, 64, true, false, 2, 3, false},
    {"one of each", 1, 1, 8, 8, true, false, 1, 1, false},
    {"other values", 5, 6, 8, 24, true},
    {"wide", 3, 4, 128, 128, true, false},
};

const Case& kCausal = kCases[2];

// A leaf on the device with these numbers, and the view of it that attention gets.
struct Input {
  Tensor leaf, view;
};
Input input_of(const Case& c, int64_t length, int64_t width, DType dtype, uint32_t seed) {
  const Dims sizes =
      c.joined ? Dims{c.batch, length, c.heads, width} : Dims{c.batch, c.heads, length, width};
  const Tensor leaf = values_of(sizes, dtype, seed).to(kGpu).requires_grad_();
  return {leaf, c.joined ? leaf.transpose(1, 2) : leaf};
}

// The same numbers in float64 on the host, as (B, H, L, E) leaves.
Tensor exact(const Tensor& x) {
  return x.detach().to(Device{}).to(DType::kFloat64).contiguous().requires_grad_();
}

// The formula; `factors` are what dropout multiplies the weights with, or undefined.
Tensor formula(const Tensors& x, bool causal, double scale, const Tensor& factors = {}) {
  Tensor scores = matmul(x[0], x[1].transpose(-2, -1)) * scale;
  if (causal) {
    const Tensor hidden = triu(ones(scores.sizes(), {DType::kFloat64}), 1);
    scores = masked_fill(scores, ne(hidden, 0), -INFINITY);
  }
  const Tensor weights = softmax(scores, -1);
  return matmul(factors.defined() ? mul(weights, factors) : weights, x[2]);
}

void expect_near(const std::string& what, const Tensor& got, const Tensor& want, double slack) {
  ASSERT_TRUE(got.defined()) << what;
  ASSERT_EQ(got.sizes(), want.sizes()) << what;
  const std::vector<double> a = got.detach().to(Device{}).to_vector(), b = want.to_vector();
  const double tolerance = slack * tolerance_of(got.dtype());
  for (size_t i = 0; i < a.size(); ++i) {
    ASSERT_LE(std::fabs(a[i] - b[i]), tolerance * std::max(1.0, std::fabs(b[i])))
        << what << ", element " << i << ": " << a[i] << ", the formula says " << b[i];
  }
}

void expect_same_bits(const std::string& what, const Tensor& a, const Tensor& b) {
  ASSERT_TRUE(a.defined() && b.defined()) << what;
  EXPECT_EQ(a.to(Device{}).to_vector(), b.to(Device{}).to_vector()) << what;
}

class CudaAttention : public CudaTest {
 protected:
  void SetUp() override {
    CudaTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    const Input x = input_of(kCausal, 9, 32, DType::kBFloat16, 1);
    if (is_fused(scaled_dot_product_attention(x.view, x.view, x.view, {.causal = true}))) return;
    ASSERT_EQ(std::getenv("LOCKSTEP_CUDA_PLUGIN"), nullptr) << "not fused";
    GTEST_SKIP() << "there is no cuDNN with attention";
  }
  static bool is_fused(const Tensor& y) { return y.grad_fn() && y.grad_fn()->name() == kFused; }
};

// What dropout multiplies the weights with, in float64.
Tensor factors_of(AttentionCall call) {
  const Dims sizes{call.q.size(0), call.q.size(1), call.q.size(2), call.k.size(2)};
  const Tensor mask = empty(sizes, {DType::kFloat32, kGpu});
  call.key = next_random_key();
  fused_attention_of(kGpu)->attention_mask(mask, call);
  return mask.to(Device{}).to(DType::kFloat64) * (1 / (1 - call.dropout));
}

// Runs forward and backward of one case and compares all that comes out.
void compare(const Case& c, DType dtype, double dropout) {
  SCOPED_TRACE(c.name + " " + std::string(name_of(dtype)));
  const Input q = input_of(c, c.queries, c.width, dtype, 1);
  const Input k = input_of(c, c.keys, c.width, dtype, 2);
  const Input v = input_of(c, c.keys, c.value_width, dtype, 3);
  const Tensors in = {q.view, k.view, v.view};
  constexpr double kScale = 0.4;
  const auto attend = [&] {
    manual_seed(5);
    return scaled_dot_product_attention(in[0], in[1], in[2],
                                        {.dropout = dropout, .causal = c.causal, .scale = kScale});
  };
  Tensor factors;
  if (dropout > 0) {
    const autograd::NoGrad no_grad;
    manual_seed(5);
    factors = factors_of({.q = in[0],
                          .k = in[1],
                          .v = in[2],
                          .scale = kScale,
                          .dropout = dropout,
                          .causal = c.causal});
  }
  const Tensors x = {exact(in[0]), exact(in[1]), exact(in[2])};
  const Tensor want = formula(x, c.causal, kScale, factors);
  Tensor alone;
  {
    const autograd::NoGrad no_grad;
    alone = attend();
    expect_near("output without a gradient", alone, want, 2);
  }
  const Tensor y = attend();
  ASSERT_EQ(y.grad_fn()->name() == kFused, c.fused);
  if (!c.fused) return;
  expect_same_bits("output", y, alone);
  EXPECT_EQ(y.dtype(), dtype);
  EXPECT_TRUE(y.transpose(1, 2).is_contiguous());  // heads join without a copy

  const Tensor gy = values_of(y.sizes(), dtype, 4);
  const Tensors got = autograd::grad(Tensors{y}, in, Tensors{gy.to(kGpu)});
  const Tensors gradients = autograd::grad(Tensors{want}, x, Tensors{gy.to(DType::kFloat64)});
  // The output that the gradient reads is rounded.
  for (size_t i = 0; i < 3; ++i) {
    expect_near("gradient " + std::to_string(i), got[i], gradients[i], 6);
  }
}

TEST_F(CudaAttention, AgreesWithTheFormula) {
  for (const Case& c : kCases) {
    for (const DType dtype : {DType::kBFloat16, DType::kFloat16}) {
      compare(c, dtype, 0);
      compare(c, dtype, 0.25);
    }
  }
}

TEST_F(CudaAttention, KeepsAndScalesWeightsByChance) {
  const Case c{"", 40, 50, 8, 8};
  const Tensor q = zeros({2, 3, 40, 8}, {DType::kFloat16, kGpu});
  const Tensor k = zeros({2, 3, 50, 8}, {DType::kFloat16, kGpu});
  const Tensor v = ones({2, 3, 50, 8}, {DType::kFloat16, kGpu});
  manual_seed(9);
  const auto draw = [&] {
    return scaled_dot_product_attention(q, k, v, {.dropout = 0.3}).to(Device{});
  };
  const Tensor first = draw(), second = draw();
  manual_seed(9);
  expect_same_bits("the same seed", draw(), first);
  EXPECT_NE(first.to_vector(), second.to_vector());
  // The mean of 12000 weights that are 0 or 1 / 0.7, each in 8 columns.
  double mean = 0;
  for (const double value : first.to_vector()) mean += value / static_cast<double>(first.numel());
  const double deviation = std::sqrt(0.3 / 0.7 / (2 * 3 * 40 * 50));
  EXPECT_NEAR(mean, 1, 5 * deviation);
}

TEST_F(CudaAttention, DrawsTheSameWhenACheckpointReplays) {
  const auto run = [&](bool replayed) {
    const Input x = input_of(kCausal, 9, 32, DType::kBFloat16, 1);
    const auto function = [](const Tensors& in) {
      return scaled_dot_product_attention(in[0], in[0], in[0], {.dropout = 0.5, .causal = true});
    };
    manual_seed(3);
    const Tensor y = replayed ? autograd::checkpoint(function, {x.view}) : function({x.view});
    sum(y.to(DType::kFloat32) * y.to(DType::kFloat32)).backward();
    return x.leaf.grad();
  };
  expect_same_bits("gradient", run(true), run(false));
}

// Gradients that can be differentiated are those that cannot, and their own gradients are right.
TEST_F(CudaAttention, CanBeDifferentiatedTwice) {
  for (const double dropout : {0.0, 0.25}) {
    const Case& c = kCausal;
    const Input q = input_of(c, 9, 32, DType::kFloat16, 1),
                k = input_of(c, 9, 32, DType::kFloat16, 2);
    const Input v = input_of(c, 9, 32, DType::kFloat16, 3);
    const Tensors in = {q.view, k.view, v.view};
    const auto attend = [&] {
      manual_seed(4);
      return scaled_dot_product_attention(in[0], in[1], in[2],
                                          {.dropout = dropout, .causal = true, .scale = 0.4});
    };
    const Tensor y = attend();
    const Tensors once = autograd::grad(sum(y * y), in, {.retain_graph = true});
    const Tensors twice = autograd::grad(sum(y * y), in, {.create_graph = true});

    Tensor factors;
    if (dropout > 0) {
      const autograd::NoGrad no_grad;
      manual_seed(4);
      factors =
          factors_of({.q = in[0], .k = in[1], .v = in[2], .dropout = dropout, .causal = true});
    }
    const Tensors x = {exact(in[0]), exact(in[1]), exact(in[2])};
    const Tensor want = formula(x, true, 0.4, factors);
    const Tensors want_once = autograd::grad(sum(want * want), x, {.create_graph = true});
    Tensor total, want_total;
    for (size_t i = 0; i < 3; ++i) {
      const std::string name = "gradient " + std::to_string(i);
      expect_near(name, once[i], want_once[i].detach(), 16);
      expect_near(name + " with a graph", twice[i], want_once[i].detach(), 16);
      const auto squares = [](const Tensor& g) { return sum(g * g); };
      const Tensor more = squares(twice[i].to(DType::kFloat32)), exactly = squares(want_once[i]);
      total = total.defined() ? total + more : more;
      want_total = want_total.defined() ? want_total + exactly : exactly;
    }
    const Tensors second = autograd::grad(total, in);
    const Tensors want_second = autograd::grad(want_total, x);
    for (size_t i = 0; i < 3; ++i) {
      expect_near("second " + std::to_string(i), second[i], want_second[i], 64);
    }
  }
}

TEST_F(CudaAttention, SavesNoWeights) {
  const Case c{"", 192, 192, 8, 8, true, true, 1, 2};
  const Input x = input_of(c, 192, 8, DType::kBFloat16, 1);
  const auto weights = static_cast<size_t>(c.heads * c.queries * c.keys) * 2;
  const size_t before = memory_allocated(kGpu);
  Tensor y = scaled_dot_product_attention(x.view, x.view, x.view, {.causal = true});
  const size_t after = memory_allocated(kGpu);
  EXPECT_LT(after - before, weights / 4);
  EXPECT_GT(after, before);
  sum(y.to(DType::kFloat32)).backward();
  EXPECT_THROW(sum(y.to(DType::kFloat32)).backward(), Error);  // what was saved is gone
  y = Tensor();
  // The leaf has got a gradient.
  EXPECT_LE(memory_allocated(kGpu), before + static_cast<size_t>(x.leaf.numel()) * 2 + 512);
}

TEST_F(CudaAttention, NoticesWritesToWhatItSaved) {
  const Input x = input_of(kCausal, 5, 16, DType::kBFloat16, 1);
  const Tensor k = values_of({2, 3, 5, 16}, DType::kBFloat16, 2).to(kGpu);
  const Tensor y = scaled_dot_product_attention(x.view, k, k, {.causal = true});
  ASSERT_TRUE(is_fused(y));
  k.add_(1);
  EXPECT_THROW(sum(y.to(DType::kFloat32)).backward(), Error);
}

TEST_F(CudaAttention, IsTakenUnderAutocast) {
  const Input x = input_of(kCausal, 9, 32, DType::kFloat32, 1);
  Tensor y;
  {
    const autograd::Autocast scope(DType::kBFloat16);
    y = scaled_dot_product_attention(x.view, x.view, x.view, {.causal = true});
  }
  EXPECT_TRUE(is_fused(y));
  EXPECT_EQ(y.dtype(), DType::kBFloat16);
  sum(y.to(DType::kFloat32)).backward();
  EXPECT_EQ(x.leaf.grad().dtype(), DType::kFloat32);
}

TEST_F(CudaAttention, IsComposedWhereThereIsNoKernelForIt) {
  const auto attend = [](const Dims& q, const Dims& kv, DType dtype, AttentionOptions options) {
    const Tensor query = values_of(q, dtype, 1).to(kGpu).requires_grad_();
    const Tensor key = values_of(kv, dtype, 2).to(kGpu);
    return scaled_dot_product_attention(query, key, key, options);
  };
  const DType half = DType::kFloat16;
  const Dims usual{2, 3, 4, 8};
  const AttentionOptions causal{.causal = true};
  EXPECT_TRUE(is_fused(attend(usual, usual, half, causal)));
  const Tensor mask = ones({4, 4}, {DType::kBool, kGpu});
  for (const Tensor& y :
       {attend(usual, usual, half, {.mask = mask}), attend(usual, usual, DType::kFloat32, causal),
        attend(usual, usual, half, {.dropout = 1, .causal = true}),
        attend({2, 3, 4, 7}, {2, 3, 4, 7}, half, causal),
        attend({2, 3, 4, 136}, {2, 3, 4, 136}, half, causal),
        attend({3, 4, 8}, {3, 4, 8}, half, causal), attend(usual, {1, 3, 4, 8}, half, causal)}) {
    EXPECT_FALSE(is_fused(y));
    EXPECT_TRUE(y.grad_fn());
  }
}

// Views that start or step anywhere are copied first.
TEST_F(CudaAttention, TakesViewsThatAreNotAligned) {
  const Tensor storage = values_of({2, 3, 6, 17}, DType::kFloat16, 1).to(kGpu).requires_grad_();
  const Tensor x = storage.narrow(3, 1, 16);
  const Tensor other = values_of({1, 1, 6, 16}, DType::kFloat16, 2).to(kGpu).expand({2, 3, 6, 16});
  const Tensor y = scaled_dot_product_attention(x, other, x, {.causal = true});
  ASSERT_TRUE(is_fused(y));
  const Tensors exactly = {exact(x), exact(other), exact(x)};
  const Tensor want = formula(exactly, true, 0.25);
  expect_near("output", y, want, 2);
  sum(y.to(DType::kFloat32)).backward();
  const Tensors gradients = autograd::grad(sum(want), exactly);
  expect_near("gradient", storage.grad().narrow(3, 1, 16), (gradients[0] + gradients[2]).detach(),
              6);
}

TEST_F(CudaAttention, StaysFiniteWithLargeScores) {
  const Tensor x = (values_of({1, 2, 12, 16}, DType::kFloat32, 1) * 200).to(DType::kBFloat16);
  const Tensor q = x.to(kGpu).requires_grad_();
  const Tensor y = scaled_dot_product_attention(q, q, q, {.causal = true});
  sum(y.to(DType::kFloat32)).backward();
  for (const double value : q.grad().to(Device{}).to_vector()) ASSERT_TRUE(std::isfinite(value));
  // The first query sees one key.
  expect_same_bits("row 0", y.detach().narrow(2, 0, 1), q.detach().narrow(2, 0, 1));
}

// Every score near -120: what fills up a tile must not count beside it (attention_rules.h).
TEST_F(CudaAttention, StaysRightWithScoresFarBelowZero) {
  for (const auto& [length, causal] : {std::pair(64, true), {100, true}, {128, false}}) {
    SCOPED_TRACE(length);
    const Dims sizes{1, 2, length, 16};
    const Tensor column = values_of({16}, DType::kFloat32, 0) * 0;
    column.data<float>()[0] = 1;
    const auto leaf = [&](uint32_t seed, double first) {
      const Tensor x = values_of(sizes, DType::kFloat32, seed) * 0.1;
      return (x * (1 - column) + column * first).to(DType::kBFloat16).to(kGpu).requires_grad_();
    };
    const Tensors in = {leaf(1, 20), leaf(2, -24), leaf(3, 0.5)};
    const Tensor y = scaled_dot_product_attention(in[0], in[1], in[2], {.causal = causal});
    ASSERT_TRUE(is_fused(y));
    const Tensors got = autograd::grad(sum(y.to(DType::kFloat32)), in);
    const Tensors x = {exact(in[0]), exact(in[1]), exact(in[2])};
    const Tensors want = autograd::grad(sum(formula(x, causal, 0.25)), x);
    for (size_t i = 0; i < 3; ++i) expect_near("gradient " + std::to_string(i), got[i], want[i], 8);
  }
}

}  // namespace
}  // namespace lockstep::testing
