#include "lockstep/nn/module.h"

#include <functional>
#include <set>
#include <string>

#include <gtest/gtest.h>

#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/ops/ops.h"
#include "lockstep/nn/nn.h"

namespace lockstep::nn {
namespace {

template <typename T>
std::vector<std::string> names_of(const T& named) {
  std::vector<std::string> names;
  for (const auto& entry : named) names.push_back(entry.first);
  return names;
}

using Names = std::vector<std::string>;

struct Block : Module {
  Linear inner{3, 3};
  Tensor scale, offset;
  Block() {
    register_modules({{"inner", inner}});
    scale = register_parameter("scale", ones({3}));
    offset = register_buffer("offset", zeros({3}));
    register_buffer("scratch", zeros({1}), /*persistent=*/false);
  }
  Tensor forward(const Tensor& x) { return inner(x) * scale + offset; }
};

struct Net : Module {
  BatchNorm2d norm{2};
  Block block;
  Linear head{3, 2, {.bias = false}};
  Net() { register_modules({{"block", block}, {"head", head}, {"norm", norm}}); }
};

// Lets tests call what is protected.
struct Open : Module {
  using Module::register_buffer;
  using Module::register_module;
  using Module::register_modules;
  using Module::register_parameter;
};

void expect_error(const std::function<void()>& act, const std::string& text) {
  try {
    act();
    ADD_FAILURE() << "no error: " << text;
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
  }
}

TEST(Module, NamesComeInRegistrationOrderOwnFirst) {
  const Net net;
  EXPECT_EQ(names_of(net.named_parameters()),
            Names({"block.scale", "block.inner.weight", "block.inner.bias", "head.weight",
                   "norm.weight", "norm.bias"}));
  EXPECT_EQ(names_of(net.named_buffers()),
            Names({"block.offset", "block.scratch", "norm.running_mean", "norm.running_var",
                   "norm.num_batches_tracked"}));
  EXPECT_EQ(names_of(net.named_modules()), Names({"", "block", "block.inner", "head", "norm"}));
  EXPECT_EQ(names_of(net.state_dict()),
            Names({"block.scale", "block.offset", "block.inner.weight", "block.inner.bias",
                   "head.weight", "norm.weight", "norm.bias", "norm.running_mean",
                   "norm.running_var", "norm.num_batches_tracked"}));
}

TEST(Module, ParametersAreTheMembersThemselves) {
  const Net net;
  const auto parameters = net.parameters();
  ASSERT_EQ(parameters.size(), 6u);
  EXPECT_TRUE(parameters[0].is_same(net.block.scale));
  EXPECT_TRUE(parameters[1].is_same(net.block.inner.weight));
  EXPECT_TRUE(parameters[3].is_same(net.head.weight));
  for (const Tensor& p : parameters) {
    EXPECT_TRUE(p.requires_grad());
    EXPECT_TRUE(p.is_leaf());
  }
  EXPECT_FALSE(net.block.offset.requires_grad());
}

struct Tied : Module {
  Linear a{2, 2}, b{2, 2};
  Tensor shared;
  Tied() {
    register_modules({{"a", a}, {"b", b}});
    shared = register_parameter("shared", a.weight);
  }
};

TEST(Module, TiedTensorsAppearOnceButStayInTheStateDict) {
  const Tied net;
  EXPECT_EQ(names_of(net.named_parameters()), Names({"shared", "a.bias", "b.weight", "b.bias"}));
  EXPECT_EQ(names_of(net.state_dict()),
            Names({"shared", "a.weight", "a.bias", "b.weight", "b.bias"}));
  EXPECT_EQ(net.parameters().size(), 4u);
}

TEST(Module, TrainAndEvalReachEveryModule) {
  Net net;
  for (const auto& [name, m] : net.named_modules()) EXPECT_TRUE(m->is_training()) << name;
  net.eval();
  for (const auto& [name, m] : net.named_modules()) EXPECT_FALSE(m->is_training()) << name;
  net.block.train();
  EXPECT_TRUE(net.block.inner.is_training());
  EXPECT_FALSE(net.is_training());
  EXPECT_FALSE(net.head.is_training());
  net.train();
  for (const auto& [name, m] : net.named_modules()) EXPECT_TRUE(m->is_training()) << name;
}

TEST(Module, RequiresGradAndZeroGrad) {
  const Net net;
  sum(net.head.weight * 2.0).backward();
  EXPECT_EQ(net.head.weight.grad().to_vector(), std::vector<double>(6, 2.0));
  net.zero_grad();
  EXPECT_FALSE(net.head.weight.grad().defined());
  net.requires_grad_(false);
  for (const Tensor& p : net.parameters()) EXPECT_FALSE(p.requires_grad());
  net.block.requires_grad_();
  EXPECT_TRUE(net.block.inner.bias.requires_grad());
  EXPECT_FALSE(net.head.weight.requires_grad());
}

TEST(Module, ToConvertsFloatingTensorsInPlace) {
  Net net;
  const Tensor weight = net.head.weight;
  const auto before = weight.to_vector();
  net.to(DType::kFloat64);
  EXPECT_TRUE(weight.is_same(net.head.weight));
  EXPECT_EQ(weight.dtype(), DType::kFloat64);
  EXPECT_EQ(weight.to_vector(), before);
  EXPECT_TRUE(weight.requires_grad());
  EXPECT_EQ(net.norm.running_mean.dtype(), DType::kFloat64);
  EXPECT_EQ(net.norm.num_batches_tracked.dtype(), DType::kInt64);
  sum(net.block.inner(ones({1, 3}, {DType::kFloat64}))).backward();
  EXPECT_EQ(net.block.inner.weight.grad().dtype(), DType::kFloat64);
  net.to(Device{});
  EXPECT_THROW(net.to(DType::kInt64), ValueError);
}

TEST(Module, RegistrationRefusesBadNamesAndTensors) {
  Open m;
  m.register_parameter("p", ones({1}));
  Linear child(1, 1);
  m.register_module("child", child);
  for (const char* name : {"p", "child"}) {
    const std::string text = "the name \"" + std::string(name) + "\" is registered already";
    expect_error([&] { m.register_parameter(name, ones({1})); }, text);
    expect_error([&] { m.register_buffer(name, ones({1})); }, text);
    Linear other(1, 1);
    expect_error([&] { m.register_module(name, other); }, text);
  }
  expect_error([&] { m.register_parameter("", ones({1})); }, "cannot be a name");
  expect_error([&] { m.register_buffer("a.b", ones({1})); }, "\"a.b\" cannot be a name");
  expect_error([&] { m.register_module("self", m); }, "its own child");
  expect_error([&] { m.register_parameter("q", {}); }, "must be a leaf");
  expect_error([&] { m.register_parameter("q", child.weight * 2.0); }, "must be a leaf");
  expect_error([&] { m.register_parameter("q", arange(3)); },
               "Only Tensors of floating point and complex dtype can require gradients");
  expect_error([&] { m.register_buffer("q", {}); }, "undefined");
  EXPECT_EQ(names_of(m.named_parameters()), Names({"p", "child.weight", "child.bias"}));
}

TEST(Module, MovedBeforeRegistrationKeepsEverything) {
  Linear a(3, 2);
  const Tensor weight = a.weight;
  a.eval();
  Linear b(std::move(a));
  EXPECT_TRUE(b.weight.is_same(weight));
  EXPECT_EQ(b.parameters().size(), 2u);
  EXPECT_TRUE(b.parameters()[0].is_same(weight));
  EXPECT_FALSE(b.is_training());
}

TEST(Module, MovedAfterRegistrationThrowsAndStaysWhole) {
  Net net;
  const std::string text = "a registered module cannot be moved";
  expect_error([&] { Linear stolen(std::move(net.head)); }, text);
  EXPECT_TRUE(net.head.weight.defined());
  EXPECT_EQ(net.parameters().size(), 6u);
  expect_error([&] { Net stolen(std::move(net)); }, "a module with children cannot be moved");
  EXPECT_EQ(net.parameters().size(), 6u);
  EXPECT_EQ(net.head(ones({1, 3})).sizes(), Dims({1, 2}));
}

TEST(StateDict, SharesMemoryOutsideTheGraph) {
  const Net net;
  for (const auto& [name, t] : net.state_dict()) {
    EXPECT_FALSE(t.requires_grad()) << name;
    if (name == "head.weight") {
      t.fill_(7.0);
    }
  }
  EXPECT_EQ(net.head.weight.to_vector(), std::vector<double>(6, 7.0));
}

TEST(Sequential, ChainsNamesAndTrains) {
  Sequential net(Linear(4, 3), ReLU(), Linear(3, 2));
  EXPECT_EQ(net.size(), 3u);
  EXPECT_EQ(names_of(net.named_parameters()), Names({"0.weight", "0.bias", "2.weight", "2.bias"}));
  const auto x = randn({5, 4});
  auto& first = dynamic_cast<Linear&>(net[0]);
  auto& last = dynamic_cast<Linear&>(net[2]);
  EXPECT_EQ(net(x).to_vector(), last(relu(first(x))).to_vector());
  sum(net(x)).backward();
  for (const auto& [name, p] : net.named_parameters()) EXPECT_TRUE(p.grad().defined()) << name;
  net.append(std::make_unique<Dropout>(0.5));
  net.eval();
  EXPECT_FALSE(net[3].is_training());
  EXPECT_EQ(net(x).to_vector(), last(relu(first(x))).to_vector());
  EXPECT_THROW(net[4], std::out_of_range);
}

TEST(Sequential, NestsAndMoves) {
  Sequential inner(Linear(2, 2), Tanh());
  const Tensor weight = inner.parameters()[0];
  inner.eval();
  Sequential outer(std::move(inner), Linear(2, 1));
  EXPECT_EQ(names_of(outer.named_parameters()),
            Names({"0.0.weight", "0.0.bias", "1.weight", "1.bias"}));
  EXPECT_TRUE(outer.parameters()[0].is_same(weight));
  EXPECT_FALSE(outer[0].is_training());
  EXPECT_FALSE(dynamic_cast<Sequential&>(outer[0])[0].is_training());
  EXPECT_EQ(Sequential()(ones({2})).to_vector(), std::vector<double>({1.0, 1.0}));
  Open owner;
  owner.register_module("net", outer);
  expect_error([&] { Sequential stolen(std::move(outer)); }, "a registered module cannot be moved");
  EXPECT_EQ(outer.size(), 2u);
}

}  // namespace
}  // namespace lockstep::nn
