#pragma once

#include <functional>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "lockstep/engine/ops/ops.h"
#include "lockstep/nn/module.h"

#include "golden/golden.h"

// Runs the cases of nn_module_golden.safetensors (its script says what they hold) against modules.
namespace lockstep::nn {

using nlohmann::json;
using Forward = std::function<std::vector<Tensor>(const std::vector<Tensor>&)>;

inline const golden::File& golden_modules() {
  static const golden::File kFile("nn_module_golden.safetensors");
  return kFile;
}

// The only tolerances: of results and gradients.
struct Tolerance {
  double rtol, atol;
};
inline Tolerance tolerance_of(DType dtype) {
  return dtype == DType::kFloat64 ? Tolerance{1e-11, 1e-12} : Tolerance{2e-5, 1e-5};
}

inline Dims dims_of(const json& list) {
  return Dims(std::span<const int64_t>(list.get<std::vector<int64_t>>()));
}

// Loads the case's state into `module` (whose keys, order and sizes must be those) and compares
// what `forward` gives, all gradients, and the buffers afterwards.
inline void check_golden(const json& test, Module& module, const Forward& forward, DType dtype) {
  const golden::File& file = golden_modules();
  const std::string what = test.at("module").get<std::string>() + " " + test.at("options").dump() +
                           " " + std::string(name_of(dtype)) + " ";
  const auto [rtol, atol] = tolerance_of(dtype);
  const auto close = [&, r = rtol, a = atol](const Tensor& t, const json& expected,
                                             const std::string& name) {
    ASSERT_TRUE(t.defined()) << what << name;
    ASSERT_EQ(t.dtype(), dtype) << what << name;
    golden::expect_close(t.to_vector(), file.numbers(expected), r, a, what + name);
  };

  module.to(dtype);
  const NamedTensors own = module.state_dict();
  ASSERT_EQ(own.size(), test.at("state").size()) << what;
  NamedTensors state;
  for (size_t i = 0; i < own.size(); ++i) {
    const Tensor wanted = file.tensor(test.at("state").at(i));
    EXPECT_EQ(own[i].first, test.at("keys").at(i).get<std::string>()) << what;
    EXPECT_EQ(own[i].second.sizes(), wanted.sizes()) << what << own[i].first;
    state.emplace_back(own[i].first, wanted);
  }
  for (const auto& [name, buffer] : module.named_buffers()) {  // not random: they start like this
    for (const auto& [key, value] : state) {
      if (key != name) continue;
      EXPECT_EQ(buffer.to_vector(), value.to_vector()) << what << name;
    }
  }
  module.load_state_dict(state);
  module.train(!test.contains("eval"));

  std::vector<Tensor> inputs;
  for (const json& input : test.at("inputs")) {
    inputs.push_back(input.is_null() ? Tensor() : file.tensor(input, dtype));
    if (inputs.back().defined() && is_floating(inputs.back().dtype())) {
      inputs.back().requires_grad_();
    }
  }
  const std::vector<Tensor> outputs = forward(inputs);
  ASSERT_EQ(outputs.size(), test.at("outputs").size()) << what;
  Tensor loss = zeros({}, {dtype});
  for (size_t i = 0; i < outputs.size(); ++i) {
    const json& expected = test.at("outputs").at(i);
    const Tensor seed = file.tensor(test.at("seeds").at(i), dtype);
    ASSERT_EQ(outputs[i].sizes(), file.sizes(expected)) << what;
    ASSERT_EQ(outputs[i].sizes(), seed.sizes()) << what;
    close(outputs[i], expected, "output " + std::to_string(i));
    loss = loss + sum(outputs[i] * seed);
  }
  loss.backward();
  for (size_t i = 0; i < inputs.size(); ++i) {
    const json& expected = test.at("input_grads").at(i);
    if (!expected.is_null()) close(inputs[i].grad(), expected, "input grad " + std::to_string(i));
  }
  const json& gradients = test.at("param_grads");
  EXPECT_EQ(module.named_parameters().size(), gradients.size()) << what;
  for (const auto& [name, p] : module.named_parameters()) {
    ASSERT_TRUE(gradients.contains(name)) << what << name;
    close(p.grad(), gradients.at(name), "grad of " + name);
  }
  if (!test.contains("after")) return;
  for (const auto& [name, buffer] : module.named_buffers()) {
    const json& after = test.at("after");
    if (after.contains(name)) {
      golden::expect_close(buffer.to_vector(), file.numbers(after.at(name)), rtol, atol,
                           what + name);
    }
  }
}

}  // namespace lockstep::nn
