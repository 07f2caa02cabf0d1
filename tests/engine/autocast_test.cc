// Mixed precision: which op computes in which dtype, what is converted how often, and that training
// gets where float32 gets.
#include "lockstep/engine/autograd/autocast.h"

#include <algorithm>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/engine/autograd/checkpoint.h"
#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/autograd/node.h"
#include "lockstep/engine/matmul_precision.h"
#include "lockstep/engine/ops/ops.h"
#include "lockstep/engine/tensor/random.h"
#include "lockstep/nn/nn.h"
#include "lockstep/optim/optim.h"

#include "engine/throws.h"
#include "golden/golden.h"

namespace lockstep {
namespace {

using autograd::Autocast;
using lockstep::testing::error_of;
using Tensors = std::vector<Tensor>;
using Function = std::function<Tensor(const Tensors&)>;

constexpr DType kF32 = DType::kFloat32, kF64 = DType::kFloat64, kBF16 = DType::kBFloat16,
                kF16 = DType::kFloat16;

const golden::File& golden_file() {
  static const golden::File kFile("autocast_golden.safetensors");
  return kFile;
}

// One of each op with a policy, and some without ("none"). The name is PyTorch's.
struct Op {
  const char* name;
  const char* policy;
  std::vector<Dims> sizes;
  Function function;
};

Tensor classes() { return tensor({1.0, 0.0}, {.dtype = DType::kInt64}); }

const std::vector<Op>& ops() {
  static const std::vector<Op> kOps = {
      {"linear", "low", {{3, 4}, {2, 4}, {2}}, [](auto& x) { return linear(x[0], x[1], x[2]); }},
      {"linear", "low", {{3, 4}, {2, 4}}, [](auto& x) { return linear(x[0], x[1]); }},
      {"linear_gelu",
       "low",
       {{3, 4}, {2, 4}, {2}},
       [](auto& x) { return linear_gelu(x[0], x[1], x[2]); }},
      {"matmul", "low", {{2, 3, 4}, {4, 2}}, [](auto& x) { return matmul(x[0], x[1]); }},
      {"matmul", "low", {{4}, {4}}, [](auto& x) { return matmul(x[0], x[1]); }},
      {"mm", "low", {{3, 4}, {4, 2}}, [](auto& x) { return mm(x[0], x[1]); }},
      {"bmm", "low", {{2, 3, 4}, {2, 4, 2}}, [](auto& x) { return bmm(x[0], x[1]); }},
      {"mv", "low", {{3, 4}, {4}}, [](auto& x) { return mv(x[0], x[1]); }},
      {"addmm", "low", {{2}, {3, 4}, {4, 2}}, [](auto& x) { return addmm(x[0], x[1], x[2]); }},
      {"einsum", "low", {{3, 4}, {4, 2}}, [](auto& x) { return einsum("ab,bc->ca", x); }},
      {"conv1d",
       "low",
       {{2, 3, 5}, {2, 3, 3}, {2}},
       [](auto& x) { return conv1d(x[0], x[1], x[2]); }},
      {"conv2d",
       "low",
       {{2, 3, 5, 4}, {2, 3, 3, 3}, {2}},
       [](auto& x) { return conv2d(x[0], x[1], x[2]); }},
      {"conv_transpose2d",
       "low",
       {{2, 3, 4, 4}, {3, 2, 3, 3}},
       [](auto& x) { return conv_transpose2d(x[0], x[1]); }},
      {"scaled_dot_product_attention",
       "low",
       {{2, 3, 4}, {2, 3, 4}, {2, 3, 4}},
       [](auto& x) { return scaled_dot_product_attention(x[0], x[1], x[2], {.causal = true}); }},
      {"exp", "float32", {{5}}, [](auto& x) { return exp(x[0]); }},
      {"expm1", "float32", {{5}}, [](auto& x) { return expm1(x[0]); }},
      {"log", "float32", {{5}}, [](auto& x) { return log(abs(x[0])); }},
      {"log1p", "float32", {{5}}, [](auto& x) { return log1p(abs(x[0])); }},
      {"reciprocal", "float32", {{5}}, [](auto& x) { return reciprocal(x[0]); }},
      {"rsqrt", "float32", {{5}}, [](auto& x) { return rsqrt(abs(x[0])); }},
      {"tan", "float32", {{5}}, [](auto& x) { return tan(x[0]); }},
      {"pow", "float32", {{5}}, [](auto& x) { return pow(x[0], 3); }},
      {"pow", "float32", {{5}, {5}}, [](auto& x) { return pow(abs(x[0]), x[1]); }},
      {"pow", "float32", {{5}}, [](auto& x) { return pow(2.5, x[0]); }},
      {"softplus", "float32", {{5}}, [](auto& x) { return softplus(x[0]); }},
      {"softmax", "float32", {{3, 5}}, [](auto& x) { return softmax(x[0], 1); }},
      {"log_softmax", "float32", {{3, 5}}, [](auto& x) { return log_softmax(x[0], 1); }},
      {"layer_norm",
       "float32",
       {{3, 5}, {5}, {5}},
       [](auto& x) { return layer_norm(x[0], {5}, x[1], x[2]); }},
      {"group_norm",
       "float32",
       {{2, 4, 3}, {4}, {4}},
       [](auto& x) { return group_norm(x[0], 2, x[1], x[2]); }},
      {"norm", "float32", {{3, 5}}, [](auto& x) { return norm(x[0]); }},
      {"norm", "float32", {{3, 5}}, [](auto& x) { return norm(x[0], 3, {1}); }},
      {"logsumexp", "float32", {{3, 5}}, [](auto& x) { return logsumexp(x[0], {1}); }},
      {"sum", "float32", {{3, 5}}, [](auto& x) { return sum(x[0]); }},
      {"sum", "float32", {{3, 5}}, [](auto& x) { return sum(x[0], {0}); }},
      {"prod", "float32", {{5}}, [](auto& x) { return prod(x[0]); }},
      {"prod", "float32", {{3, 5}}, [](auto& x) { return prod(x[0], 1); }},
      {"cumsum", "float32", {{3, 5}}, [](auto& x) { return cumsum(x[0], 1); }},
      {"nll_loss", "float32", {{2, 3}}, [](auto& x) { return nll_loss(x[0], classes()); }},
      {"mse_loss", "float32", {{2, 3}, {2, 3}}, [](auto& x) { return mse_loss(x[0], x[1]); }},
      {"l1_loss", "float32", {{2, 3}, {2, 3}}, [](auto& x) { return l1_loss(x[0], x[1]); }},
      {"smooth_l1_loss",
       "float32",
       {{2, 3}, {2, 3}},
       [](auto& x) { return smooth_l1_loss(x[0], x[1]); }},
      {"kl_div", "float32", {{2, 3}, {2, 3}}, [](auto& x) { return kl_div(x[0], abs(x[1])); }},
      {"binary_cross_entropy_with_logits",
       "float32",
       {{2, 3}, {2, 3}},
       [](auto& x) { return binary_cross_entropy_with_logits(x[0], x[1]); }},
      {"dot", "widest", {{4}, {4}}, [](auto& x) { return dot(x[0], x[1]); }},
      {"index_put",
       "widest",
       {{4}, {2}},
       [](auto& x) { return index_put(x[0], {classes()}, x[1]); }},
      {"scatter_add",
       "widest",
       {{4}, {2}},
       [](auto& x) { return scatter_add(x[0], 0, classes(), x[1]); }},
      {"relu", "none", {{5}}, [](auto& x) { return relu(x[0]); }},
      {"gelu", "none", {{5}}, [](auto& x) { return gelu(x[0]); }},
      {"mean", "none", {{3, 5}}, [](auto& x) { return mean(x[0], {1}); }},
      {"var", "none", {{3, 5}}, [](auto& x) { return var(x[0], {1}); }},
      {"erf", "none", {{5}}, [](auto& x) { return erf(x[0]); }},
      {"batch_norm",
       "none",
       {{4, 3}},
       [](auto& x) { return batch_norm(x[0], {}, {}, {}, {}, {.training = true}); }},
      {"dropout",
       "none",
       {{4, 50}},
       [](auto& x) {
         manual_seed(3);
         return dropout(x[0], 0.3, true);
       }},
      {"max_pool2d", "none", {{1, 2, 4, 4}}, [](auto& x) { return max_pool2d(x[0], 2); }},
  };
  return kOps;
}

Tensors inputs_of(const Op& op, const std::vector<DType>& dtypes) {
  manual_seed(5);
  Tensors all;
  for (size_t i = 0; i < op.sizes.size(); ++i) {
    all.push_back(randn(op.sizes[i]).to(dtypes[i % dtypes.size()]).requires_grad_());
  }
  return all;
}

// In which dtype an op with that policy computes.
std::optional<DType> computed_in(const std::string& policy, DType low,
                                 const std::vector<DType>& given) {
  if (policy == "low") return low;
  if (policy == "float32") return kF32;
  if (policy == "none") return std::nullopt;
  return std::find(given.begin(), given.end(), kF32) != given.end() ? kF32 : low;
}

Tensors converted(const Tensors& inputs, std::optional<DType> dtype) {
  Tensors all;
  for (const Tensor& x : inputs) {
    all.push_back((dtype ? x.detach().to(*dtype) : x.detach()).requires_grad_());
  }
  return all;
}

TEST(Autocast, ComputesEachOpInTheDtypeOfItsPolicy) {
  for (const DType low : {kBF16, kF16}) {
    for (const std::vector<DType>& given : {std::vector{kF32}, {low}, {low, kF32}, {kF32, low}}) {
      for (const Op& op : ops()) {
        if (op.policy == std::string("none") && given.size() > 1) continue;
        SCOPED_TRACE(std::string(op.name) + " of " + std::string(name_of(given[0])));
        const Tensors x = inputs_of(op, given);
        const Tensors plain = converted(x, computed_in(op.policy, low, given));
        const Tensor expected = op.function(plain);
        Tensor y;
        {
          const Autocast scope(low);
          y = op.function(x);
        }
        EXPECT_EQ(y.dtype(), expected.dtype());
        EXPECT_EQ(y.to_vector(), expected.to_vector());
        const Tensor g = rand(y.sizes()).to(y.dtype());
        y.backward(g);
        expected.backward(g);
        for (size_t i = 0; i < x.size(); ++i) {
          EXPECT_EQ(x[i].grad().dtype(), x[i].dtype());
          EXPECT_EQ(x[i].grad().to_vector(), plain[i].grad().to(x[i].dtype()).to_vector());
        }
      }
    }
  }
}

TEST(Autocast, PoliciesAreThoseOfPyTorchsList) {
  const auto& lists = golden_file().cases().at("lists");
  // Than that list, or of no name there.
  const std::set<std::string> newer = {"linear_gelu", "scaled_dot_product_attention"};
  for (const Op& op : ops()) {
    if (newer.count(op.name)) continue;
    for (const auto& [policy, names] : lists.items()) {
      const bool listed = std::find(names.begin(), names.end(), op.name) != names.end();
      EXPECT_EQ(listed, policy == op.policy) << op.name << " is listed under " << policy;
    }
  }
}

TEST(Autocast, ProductsAgreeWithPyTorch) {
  for (const auto& one : golden_file().cases().at("products")) {
    const std::string name = one.at("op");
    const auto op = std::find_if(ops().begin(), ops().end(),
                                 [&](const Op& candidate) { return candidate.name == name; });
    ASSERT_NE(op, ops().end()) << name;
    Tensors x;
    for (const auto& input : one.at("inputs")) {
      x.push_back(golden_file().tensor(input).requires_grad_());
    }
    const Tensor expected = golden_file().tensor(one.at("output"));
    Tensor y;
    {
      const Autocast scope(kBF16);
      y = op->function(x);
    }
    EXPECT_EQ(y.dtype(), expected.dtype()) << name;
    // Where the machine that wrote them had no instructions for bfloat16, PyTorch's own sums are
    // rounded term by term.
    golden::expect_close(y.to_vector(), expected.to_vector(), 0x1p-7, 0.04, name);
    y.backward(golden_file().tensor(one.at("gradient")));
    for (size_t i = 0; i < x.size(); ++i) {
      EXPECT_EQ(x[i].grad().dtype(), kF32) << name;
      golden::expect_close(x[i].grad().to_vector(), golden_file().numbers(one.at("gradients")[i]),
                           0x1p-7, 2e-2, name + ", gradient " + std::to_string(i));
    }
  }
}

TEST(Autocast, ScopesNestAndEnd) {
  const Tensor a = randn({2, 2}), b = randn({2, 2});
  EXPECT_FALSE(autograd::autocast_enabled());
  {
    const Autocast outer(kBF16);
    EXPECT_EQ(mm(a, b).dtype(), kBF16);
    {
      const Autocast off(kBF16, false);
      EXPECT_FALSE(autograd::autocast_enabled());
      EXPECT_EQ(mm(a, b).dtype(), kF32);
      const Autocast inner(kF16);
      EXPECT_EQ(mm(a, b).dtype(), kF16);
    }
    {
      const Autocast off(kF32);
      EXPECT_EQ(mm(a, b).dtype(), kF32);
    }
    EXPECT_EQ(mm(a, b).dtype(), kBF16);
    // Neither of these is a matter of precision.
    EXPECT_EQ(mm(a.to(kF64), b.to(kF64)).dtype(), kF64);
    EXPECT_EQ(mm(a.to(DType::kInt64), b.to(DType::kInt64)).dtype(), DType::kInt64);
    const Tensor x = ones({2}, {kBF16});
    EXPECT_EQ(exp_(x).dtype(), kBF16);
  }
  EXPECT_EQ(mm(a, b).dtype(), kF32);
  EXPECT_NE(error_of([] { const Autocast wrong(kF64); }).find("the dtype is float64"),
            std::string::npos);
}

TEST(Autocast, RefusesBinaryCrossEntropy) {
  const Tensor p = full({2}, 0.5);
  const Autocast scope(kF16);
  EXPECT_NE(error_of([&] { binary_cross_entropy(p, p); }).find("are unsafe to autocast."),
            std::string::npos);
}

// The node that converted the weight of a linear layer.
const autograd::Node* conversion_of(const Tensor& y) {
  return y.grad_fn()->edges()[1].function.get();
}

TEST(Autocast, ConvertsAWeightOnce) {
  const Tensor w = randn({2, 3}, {.requires_grad = true}), b = zeros({2});
  const Tensor x = randn({4, 3});
  Tensor first, again;
  {
    const Autocast scope(kBF16);
    {
      const autograd::NoGrad no_grad;  // whose conversions lead nowhere
      linear(x, w, b);
    }
    first = linear(x, w, b);
    {
      const Autocast inner(kBF16);
      again = linear(x, w, b);
    }
    EXPECT_EQ(conversion_of(first), conversion_of(again));
    // A backward in between frees nothing that the next one needs.
    first.sum().backward();
    again.sum().backward();
    const Tensor third = linear(x, w, b);
    EXPECT_EQ(conversion_of(third), conversion_of(again));
    third.sum().backward();
    golden::expect_close(w.grad().to_vector(),
                         mul(x.to(kBF16).to(kF32).sum({0}).expand({2, 3}), 3).to_vector(), 0x1p-6,
                         0, "gradient");
    {
      const autograd::NoGrad no_grad;
      w.mul_(2);
    }
    const Tensor changed = linear(x, w, b);
    EXPECT_NE(conversion_of(changed), conversion_of(again));
    EXPECT_EQ(changed.to_vector(), mul(third, 2).to_vector());
  }
  const Autocast scope(kBF16);
  EXPECT_NE(conversion_of(linear(x, w, b)), conversion_of(first));
}

TEST(Autocast, IsOffInBackward) {
  const Tensor w = randn({3, 3}, {.requires_grad = true});
  const Autocast scope(kBF16);
  const Tensor y = mm(w, w);
  bool seen = false;
  const auto hook = y.register_hook([&](const Tensor&) {
    seen = true;
    EXPECT_FALSE(autograd::autocast_enabled());
    return Tensor();
  });
  y.sum().backward();
  EXPECT_TRUE(seen);
  EXPECT_TRUE(autograd::autocast_enabled());
}

TEST(Autocast, IsWhatItWasWhenACheckpointIsReplayed) {
  const Tensor w = randn({4, 4}, {.requires_grad = true});
  const auto function = [&](const Tensors& in) {
    return softmax(linear(gelu(linear(in[0], w)), w), 1);
  };
  std::vector<std::vector<double>> gradients;
  for (const bool checkpointed : {false, true}) {
    manual_seed(2);
    w.set_grad({});
    const Tensor x = randn({3, 4}, {.requires_grad = true});
    Tensor y;
    {
      const Autocast scope(kBF16);
      y = checkpointed ? autograd::checkpoint(function, {x}) : function({x});
    }
    EXPECT_EQ(y.dtype(), kF32);
    y.backward(randn({3, 4}));
    gradients.push_back(w.grad().to_vector());
    gradients.push_back(x.grad().to_vector());
  }
  EXPECT_EQ(gradients[0], gradients[2]);
  EXPECT_EQ(gradients[1], gradients[3]);
}

TEST(Autocast, RecurrentLayersComputeInTheLowDtype) {
  nn::LSTMCell lstm(3, 4);
  nn::GRUCell gru(3, 4);
  nn::LSTM layers(3, 4, {.num_layers = 2});
  const Tensor x = randn({2, 3}), state = randn({2, 4});
  const Autocast scope(kF16);
  const auto [h, c] = lstm.forward(x, state, state);
  EXPECT_EQ(h.dtype(), kF16);
  EXPECT_EQ(c.dtype(), kF16);
  EXPECT_EQ(gru.forward(x, state).dtype(), kF16);
  const auto all = layers(x.reshape({2, 1, 3}));
  EXPECT_EQ(all.output.dtype(), kF16);
  EXPECT_EQ(all.h_n.dtype(), kF16);
  EXPECT_EQ(all.c_n.dtype(), kF16);
}

struct Mlp : nn::Module {
  nn::Linear fc1{16, 32}, fc2{32, 4};
  nn::LayerNorm norm{Dims{32}};
  Mlp() { register_modules({{"fc1", fc1}, {"norm", norm}, {"fc2", fc2}}); }
  Tensor forward(const Tensor& x) { return fc2(gelu(norm(fc1(x)))); }
};

struct Cnn : nn::Module {
  nn::Conv2d conv{1, 6, 3};
  nn::BatchNorm2d norm{6};
  nn::Linear fc{6, 4};
  Cnn() { register_modules({{"conv", conv}, {"norm", norm}, {"fc", fc}}); }
  Tensor forward(const Tensor& x) {
    return fc(flatten(max_pool2d(relu(norm(conv(x.reshape({-1, 1, 4, 4})))), 2), 1));
  }
};

// The losses of 20 steps; float16 with loss scaling, which once is made to overflow.
template <typename Net>
std::vector<double> train(DType precision, int overflow_at = -1) {
  manual_seed(7);
  Net net;
  const Tensor x = randn({32, 16});
  const Tensor y = argmax(mm(x, randn({16, 4})), 1);
  optim::Adam adam(net.parameters(), {.lr = 1e-2});
  optim::GradScaler scaler({.init_scale = 1024.0}, precision == kF16);
  std::vector<double> losses;
  for (int step = 0; step < 20; ++step) {
    adam.zero_grad();
    Tensor loss;
    {
      const Autocast scope(precision);
      loss = cross_entropy(net.forward(x), y);
      EXPECT_EQ(loss.dtype(), kF32);
    }
    losses.push_back(loss.item());
    scaler.scale(step == overflow_at ? mul(loss, 1e8) : loss).backward();
    EXPECT_EQ(scaler.step(adam), step != overflow_at);
    scaler.update();
    for (const Tensor& p : net.parameters()) EXPECT_EQ(p.dtype(), kF32);
  }
  if (overflow_at >= 0) {
    EXPECT_EQ(scaler.get_scale(), 512.0);
  }
  return losses;
}

template <typename Net>
void expect_similar_curves() {
  const auto expected = train<Net>(kF32);
  EXPECT_LT(expected.back(), 0.7 * expected.front());
  golden::expect_close(train<Net>(kBF16), expected, 0.03, 0, "bfloat16");
  const auto half = train<Net>(kF16);
  golden::expect_close(half, expected, 0.01, 0, "float16");
  // A step that is skipped leaves everything as it was; training goes on from there.
  auto skipping = train<Net>(kF16, 5);
  EXPECT_EQ(skipping[6], skipping[5]);
  skipping.erase(skipping.begin() + 6);
  golden::expect_close(skipping, {half.begin(), half.end() - 1}, 1e-3, 0, "float16, one overflow");
}

TEST(MatmulPrecision, HasPyTorchsNames) {
  EXPECT_EQ(get_float32_matmul_precision(), "highest");
  for (const char* name : {"high", "medium", "highest"}) {
    set_float32_matmul_precision(name);
    EXPECT_EQ(get_float32_matmul_precision(), name);
  }
  EXPECT_EQ(error_of([] { set_float32_matmul_precision("low"); }),
            "low is not one of 'highest', 'high', or 'medium'");
  EXPECT_EQ(matmul_precision(), MatmulPrecision::kHighest);
}

TEST(Autocast, TrainsAnMlpAsFloat32Does) { expect_similar_curves<Mlp>(); }
TEST(Autocast, TrainsACnnAsFloat32Does) { expect_similar_curves<Cnn>(); }

}  // namespace
}  // namespace lockstep
