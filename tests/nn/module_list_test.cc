#include "lockstep/nn/module_list.h"

#include <stdexcept>

#include <gtest/gtest.h>

#include "lockstep/engine/ops/ops.h"
#include "lockstep/nn/nn.h"

namespace lockstep::nn {
namespace {

struct Net : Module {
  ModuleList<Linear> steps;
  ModuleList<> mixed;
  Net() {
    for (int i = 0; i < 3; ++i) steps.emplace(2, 2);
    mixed.emplace<Dropout>(0.5);
    mixed.append(std::make_unique<LayerNorm>(2));
    register_modules({{"steps", steps}, {"mixed", mixed}});
  }
  Tensor forward(Tensor x) {
    for (Linear& step : steps) x = step(x);
    return x;
  }
};

TEST(ModuleList, NamesItsModulesByPlace) {
  Net net;
  std::vector<std::string> names;
  for (const auto& [name, t] : net.state_dict()) names.push_back(name);
  const std::vector<std::string> expected = {"steps.0.weight", "steps.0.bias",   "steps.1.weight",
                                             "steps.1.bias",   "steps.2.weight", "steps.2.bias",
                                             "mixed.1.weight", "mixed.1.bias"};
  EXPECT_EQ(names, expected);
  EXPECT_EQ(net.steps.size(), 3u);
  EXPECT_FALSE(net.steps.empty());
  EXPECT_TRUE(ModuleList<>().empty());
}

TEST(ModuleList, IteratesInOrderAndPassesModesOn) {
  Net net;
  const auto x = randn({4, 2});
  const auto expected = net.steps[2](net.steps[1](net.steps[0](x)));
  EXPECT_EQ(net.forward(x).to_vector(), expected.to_vector());
  net.eval();
  EXPECT_FALSE(net.mixed[0].is_training());
  EXPECT_THROW(net.steps[3], std::out_of_range);
}

}  // namespace
}  // namespace lockstep::nn
