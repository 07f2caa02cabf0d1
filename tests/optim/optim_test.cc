#include "lockstep/optim/optim.h"

#include <functional>
#include <limits>
#include <memory>

#include <gtest/gtest.h>

#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/ops/ops.h"

#include "golden/golden.h"

namespace lockstep::optim {
namespace {

using nlohmann::json;

const golden::File& golden_file() {
  static const golden::File kFile("optim_golden.safetensors");
  return kFile;
}

void set(const json& options, const char* name, auto& target) {
  if (options.contains(name)) options.at(name).get_to(target);
}

SgdOptions sgd_options(const json& o) {
  SgdOptions result;
  set(o, "lr", result.lr);
  set(o, "momentum", result.momentum);
  set(o, "dampening", result.dampening);
  set(o, "weight_decay", result.weight_decay);
  set(o, "nesterov", result.nesterov);
  set(o, "maximize", result.maximize);
  return result;
}

template <typename Options>
Options adam_options(const json& o) {
  Options result;
  set(o, "lr", result.lr);
  set(o, "eps", result.eps);
  set(o, "weight_decay", result.weight_decay);
  set(o, "amsgrad", result.amsgrad);
  set(o, "maximize", result.maximize);
  if (o.contains("betas")) {
    result.beta1 = o.at("betas")[0];
    result.beta2 = o.at("betas")[1];
  }
  return result;
}

// One of the golden file's optimizers, and what halves all its learning rates.
struct Subject {
  std::unique_ptr<Optimizer> optimizer;
  std::function<void()> halve_lr;
};

template <typename T, typename Options>
Subject subject_of(const json& test, const std::vector<Tensor>& p,
                   Options (*options)(const json&)) {
  const json& groups = test.at("groups");
  std::vector<ParamGroup<Options>> made;
  if (groups.size() == 1) {
    made = {{p, options(groups[0])}};
  } else {
    made = {{{p[0]}, options(groups[0])}, {{p[1], p[2]}, options(groups[1])}};
  }
  auto optimizer = std::make_unique<T>(made);
  auto* raw = optimizer.get();
  return {std::move(optimizer), [raw] {
            for (auto& group : raw->groups()) group.options.lr *= 0.5;
          }};
}

Subject subject_of(const json& test, const std::vector<Tensor>& p) {
  const std::string algorithm = test.at("algorithm");
  if (algorithm == "SGD") return subject_of<SGD>(test, p, sgd_options);
  if (algorithm == "Adam") return subject_of<Adam>(test, p, adam_options<AdamOptions>);
  return subject_of<AdamW>(test, p, adam_options<AdamWOptions>);
}

class Trajectory : public ::testing::TestWithParam<std::string> {};

TEST_P(Trajectory, IsPyTorchs) {
  const golden::File& file = golden_file();
  const json& golden = file.cases();
  const json* test = nullptr;
  for (const auto& entry : golden.at("cases")) {
    if (entry.at("name") == GetParam()) test = &entry;
  }
  ASSERT_NE(test, nullptr);
  for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
    const bool single = dtype == DType::kFloat32;
    std::vector<Tensor> parameters;
    for (const json& start : golden.at("start")) {
      parameters.push_back(file.tensor(start, dtype).requires_grad_());
    }
    const Subject subject = subject_of(*test, parameters);
    std::vector<Tensor> expected;  // of each parameter, (steps, its sizes)
    for (const json& trajectory : test->at(single ? "float32" : "float64")) {
      expected.push_back(file.tensor(trajectory));
    }
    ASSERT_EQ(expected.size(), parameters.size());
    const json& grads = golden.at("grads");
    for (const Tensor& e : expected) ASSERT_EQ(e.size(0), static_cast<int64_t>(grads.size()));
    for (size_t step = 0; step < grads.size(); ++step) {
      if (step == 5) subject.halve_lr();
      subject.optimizer->zero_grad();
      for (size_t i = 0; i < parameters.size(); ++i) {
        const json& g = grads[step].at(i);
        if (!g.is_null()) parameters[i].set_grad(file.tensor(g, dtype));
      }
      subject.optimizer->step();
      for (size_t i = 0; i < parameters.size(); ++i) {
        golden::expect_close(
            parameters[i].to_vector(), expected[i][static_cast<int64_t>(step)].to_vector(),
            single ? 1e-6 : 1e-13, single ? 2e-7 : 1e-14,
            GetParam() + " step " + std::to_string(step) + " parameter " + std::to_string(i));
      }
    }
  }
}

std::vector<std::string> case_names() {
  std::vector<std::string> names;
  for (const auto& entry : golden_file().cases().at("cases")) {
    names.push_back(entry.at("name"));
  }
  return names;
}

INSTANTIATE_TEST_SUITE_P(Golden, Trajectory, ::testing::ValuesIn(case_names()),
                         [](const auto& info) { return info.param; });

TEST(Trajectories, CoverEveryAlgorithm) { EXPECT_GE(case_names().size(), 16u); }

// Larger than any kernel's tile and of a length that no vector width divides, against the formula.
TEST(Adam, UpdatesEveryElementOfALargeParameter) {
  constexpr int64_t kCount = 100'003;
  const auto p = zeros({kCount}).requires_grad_();
  Adam adam({p}, {.lr = 0.5});
  p.set_grad(arange(kCount).to(DType::kFloat32) + 1.0);
  adam.step();
  for (const double value : p.to_vector()) ASSERT_NEAR(value, -0.5, 1e-6);  // -lr sign(g)
}

TEST(Sgd, UpdatesEveryElementOfALargeParameter) {
  constexpr int64_t kCount = 100'003;
  const auto p = ones({kCount}, {DType::kFloat64}).requires_grad_();
  SGD sgd({p}, {.lr = 0.5, .momentum = 0.5});
  p.set_grad(arange(kCount).to(DType::kFloat64));
  sgd.step();
  sgd.step();
  const auto values = p.to_vector();
  for (size_t i = 0; i < values.size(); ++i) {
    ASSERT_DOUBLE_EQ(values[i], 1.0 - 1.25 * static_cast<double>(i));
  }
}

// PyTorch's momentum buffer starts as the first gradient it sees, undamped, even where momentum was
// switched on later.
TEST(Sgd, MomentumSwitchedOnLaterStartsAfresh) {
  const auto p = zeros({1}, {DType::kFloat64}).requires_grad_();
  SGD sgd({p}, {.lr = 1.0, .dampening = 0.5});
  p.set_grad(ones({1}, {DType::kFloat64}));
  sgd.step();
  EXPECT_DOUBLE_EQ(p.item(), -1.0);
  sgd.groups()[0].options.momentum = 0.5;
  sgd.step();  // b = g = 1
  EXPECT_DOUBLE_EQ(p.item(), -2.0);
  sgd.step();  // b = 0.5 + 0.5
  EXPECT_DOUBLE_EQ(p.item(), -3.0);
}

TEST(Optimizer, SkipsParametersWithoutGradient) {
  const auto a = ones({2}).requires_grad_();
  const auto b = ones({2}).requires_grad_();
  AdamW adam({a, b}, {.lr = 0.1, .weight_decay = 0.5});
  a.set_grad(ones({2}));
  const auto version = b.version();
  adam.step();
  EXPECT_EQ(b.to_vector(), std::vector<double>({1.0, 1.0}));  // no decay either
  EXPECT_EQ(b.version(), version);
  EXPECT_LT(a.to_vector()[0], 1.0);
}

TEST(Optimizer, ZeroGradLeavesGradientsUndefined) {
  const auto p = ones({2}).requires_grad_();
  SGD sgd({p}, {.lr = 0.1});
  p.set_grad(ones({2}));
  sgd.zero_grad();
  EXPECT_FALSE(p.grad().defined());
}

TEST(Optimizer, UpdatesCountAsChangesInPlace) {
  const auto p = ones({2}).requires_grad_();
  SGD sgd({p}, {.lr = 0.1});
  const auto y = sum(p * p);
  p.set_grad(ones({2}));
  sgd.step();
  EXPECT_THROW(y.backward(), Error);
}

TEST(Optimizer, TrainsALine) {
  const auto x = arange(64).to(DType::kFloat64).view({64, 1}) * (1.0 / 32) - 1.0;
  const auto y = x * 3.0 - 2.0;
  const auto w = zeros({1, 1}, {DType::kFloat64}).requires_grad_();
  const auto b = zeros({1}, {DType::kFloat64}).requires_grad_();
  SGD sgd({w, b}, {.lr = 0.1, .momentum = 0.9});
  for (int i = 0; i < 300; ++i) {
    sgd.zero_grad();
    mse_loss(linear(x, w, b), y).backward();
    sgd.step();
  }
  EXPECT_NEAR(w.item(), 3.0, 1e-6);
  EXPECT_NEAR(b.item(), -2.0, 1e-6);
}

void expect_error(const std::function<void()>& act, const std::string& text) {
  try {
    act();
    ADD_FAILURE() << "no error: " << text;
  } catch (const ValueError& error) {
    EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
  }
}

TEST(Optimizer, RefusesWrongArguments) {
  const auto p = ones({2}).requires_grad_();
  const auto q = ones({2}).requires_grad_();
  expect_error([&] { SGD({}, SgdOptions{}); }, "optimizer got an empty parameter list");
  expect_error([&] { Adam({}, AdamOptions{}); }, "optimizer got an empty parameter list");
  expect_error([&] { SGD(std::vector<ParamGroup<SgdOptions>>{}); },
               "optimizer got an empty parameter list");
  expect_error([&] { AdamW(std::vector<ParamGroup<AdamWOptions>>{}); },
               "optimizer got an empty parameter list");
  expect_error([&] { SGD({p}, {.lr = -0.1}); }, "Invalid learning rate: -0.1");
  expect_error([&] { SGD({p}, {.lr = std::numeric_limits<double>::quiet_NaN()}); },
               "Invalid learning rate: nan");
  expect_error([&] { SGD({p}, {.momentum = -0.5}); }, "Invalid momentum value: -0.5");
  expect_error([&] { SGD({p}, {.weight_decay = -0.5}); }, "Invalid weight_decay value: -0.5");
  expect_error([&] { SGD({p}, {.nesterov = true}); },
               "Nesterov momentum requires a momentum and zero dampening");
  expect_error([&] { SGD({p}, {.momentum = 0.9, .dampening = 0.1, .nesterov = true}); },
               "Nesterov momentum requires a momentum and zero dampening");
  expect_error([&] { Adam({p}, {.lr = -1.0}); }, "Invalid learning rate: -1");
  expect_error([&] { Adam({p}, {.beta1 = 1.0}); }, "Invalid beta parameter at index 0: 1");
  expect_error([&] { Adam({p}, {.beta2 = -0.1}); }, "Invalid beta parameter at index 1: -0.1");
  expect_error([&] { Adam({p}, {.eps = -1e-8}); }, "Invalid epsilon value: -1e-08");
  expect_error([&] { AdamW({p}, {.weight_decay = -1.0}); }, "Invalid weight_decay value: -1");
  expect_error([&] { SGD({p, p}); }, "some parameters appear in more than one parameter group");
  expect_error(
      [&] {
        Adam({{{p}, AdamOptions{}}, {{q, p}, AdamOptions{}}});
      },
      "some parameters appear in more than one parameter group");
  expect_error([&] { SGD({p * 2.0}); }, "can't optimize a non-leaf Tensor");
  expect_error([&] { SGD({Tensor()}); }, "can't optimize a non-leaf Tensor");
  expect_error([&] { SGD({ones({2}, {DType::kInt64})}); }, "float32 or float64, got int64");
}

}  // namespace
}  // namespace lockstep::optim
