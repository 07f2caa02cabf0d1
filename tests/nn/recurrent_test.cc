#include "lockstep/nn/recurrent.h"

#include <cmath>
#include <string>

#include "lockstep/engine/autograd/gradcheck.h"
#include "lockstep/engine/tensor/random.h"
#include "lockstep/nn/nn.h"

#include "module_golden.h"

namespace lockstep::nn {
namespace {

class RecurrentGolden : public testing::TestWithParam<DType> {
 protected:
  // Runs the cases of one module; make(input_size, hidden_size, options as json) gives it, and
  // call(module, inputs) its outputs.
  template <typename Make, typename Call>
  void run(const std::string& name, int count, Make&& make, Call&& call) {
    int cases = 0;
    for (const json& test : golden_modules().cases()) {
      if (test.at("module") != name) continue;
      ++cases;
      const json& o = test.at("options");
      const auto module = make(o.at("args")[0].get<int64_t>(), o.at("args")[1].get<int64_t>(), o);
      check_golden(
          test, *module, [&](const std::vector<Tensor>& x) { return call(*module, x); },
          GetParam());
    }
    EXPECT_EQ(cases, count);
  }
};

template <typename T>
std::unique_ptr<T> sequence_module(int64_t input_size, int64_t hidden_size, const json& o) {
  Recurrent::Options options;
  options.num_layers = o.value("num_layers", options.num_layers);
  options.bias = o.value("bias", options.bias);
  options.batch_first = o.value("batch_first", options.batch_first);
  options.bidirectional = o.value("bidirectional", options.bidirectional);
  return std::make_unique<T>(input_size, hidden_size, options);
}

template <typename T>
std::unique_ptr<T> cell_module(int64_t input_size, int64_t hidden_size, const json& o) {
  RecurrentCell::Options options;
  options.bias = o.value("bias", true);
  return std::make_unique<T>(input_size, hidden_size, options);
}

using Tensors = std::vector<Tensor>;

TEST_P(RecurrentGolden, LSTMIsPyTorchs) {
  run("LSTM", 6, sequence_module<LSTM>, [](LSTM& module, const Tensors& x) -> Tensors {
    const auto y = module(x.at(0), x.at(1), x.at(2));
    return {y.output, y.h_n, y.c_n};
  });
}

TEST_P(RecurrentGolden, GRUIsPyTorchs) {
  run("GRU", 6, sequence_module<GRU>, [](GRU& module, const Tensors& x) -> Tensors {
    const auto y = module(x.at(0), x.at(1));
    return {y.output, y.h_n};
  });
}

TEST_P(RecurrentGolden, LSTMCellIsPyTorchs) {
  run("LSTMCell", 3, cell_module<LSTMCell>, [](LSTMCell& module, const Tensors& x) -> Tensors {
    const auto y = module(x.at(0), x.at(1), x.at(2));
    return {y.h, y.c};
  });
}

TEST_P(RecurrentGolden, GRUCellIsPyTorchs) {
  run("GRUCell", 3, cell_module<GRUCell>,
      [](GRUCell& module, const Tensors& x) -> Tensors { return {module(x.at(0), x.at(1))}; });
}

INSTANTIATE_TEST_SUITE_P(DTypes, RecurrentGolden, testing::Values(DType::kFloat64, DType::kFloat32),
                         [](const auto& info) { return std::string(name_of(info.param)); });

TEST(Recurrent, StartsUniform) {
  manual_seed(1);
  const LSTM module(30, 25);
  const GRUCell cell(30, 25);
  for (const Module* m : {static_cast<const Module*>(&module), static_cast<const Module*>(&cell)}) {
    for (const auto& [name, p] : m->named_parameters()) {
      EXPECT_LE(max(abs(p)).item(), 0.2) << name;
      EXPECT_GT(max(abs(p)).item(), 0.18) << name;
      EXPECT_NEAR(mean(p).item(), 0.0, 0.05) << name;
    }
  }
}

TEST(Recurrent, DropsBetweenLayersInTrainingOnly) {
  GRU module(2, 8, {.num_layers = 2, .dropout = 1.0});
  module.to(DType::kFloat64);
  const auto x = randn({5, 3, 2}, {DType::kFloat64});
  // With everything dropped the second layer sees zeros, whatever the input.
  EXPECT_EQ(module(x).output.to_vector(), module(x * 2.0).output.to_vector());
  module.eval();
  EXPECT_NE(module(x).output.to_vector(), module(x * 2.0).output.to_vector());
  GRU single(2, 8, {.dropout = 1.0});  // the last layer's output is never dropped
  EXPECT_GT(max(abs(single(x.to(DType::kFloat32)).output)).item(), 0.0);
}

TEST(Recurrent, NamesWeightsByLayerAndDirection) {
  const LSTM module(2, 3, {.num_layers = 2, .bidirectional = true});
  const auto parameters = module.named_parameters();
  ASSERT_EQ(parameters.size(), 16u);
  EXPECT_EQ(parameters[4].first, "weight_ih_l0_reverse");
  EXPECT_TRUE(parameters[4].second.is_same(module.weights(0, true).weight_ih));
  EXPECT_EQ(parameters[8].first, "weight_ih_l1");
  EXPECT_EQ(parameters[8].second.sizes(), Dims({12, 6}));
  EXPECT_TRUE(parameters[8].second.is_same(module.weights(1).weight_ih));
}

TEST(Recurrent, DifferentiatesTwice) {
  LSTM module(2, 2);
  module.to(DType::kFloat64);
  const auto x = randn({3, 1, 2}, {DType::kFloat64}).requires_grad_();
  const auto f = [&](const std::vector<Tensor>& in) { return module(in[0]).output; };
  EXPECT_NO_THROW(autograd::gradcheck(f, {x}));
  EXPECT_NO_THROW(autograd::gradgradcheck(f, {x}));
}

}  // namespace
}  // namespace lockstep::nn
