#include <regex>
#include <string>

#include <gtest/gtest.h>

#include "lockstep/engine/ops/ops.h"
#include "lockstep/nn/nn.h"

#include "golden/golden.h"

namespace lockstep::nn {
namespace {

// As in golden/make_nn_golden.py.
struct Net : Module {
  Linear fc{3, 2};
  BatchNorm2d bn{2};
  Net() { register_modules({{"fc", fc}, {"bn", bn}}); }
};

void remove_key(NamedTensors& state, const std::string& name) {
  std::erase_if(state, [&](const auto& entry) { return entry.first == name; });
}

void assign(NamedTensors& state, const std::string& name, const Tensor& value) {
  for (auto& [key, t] : state) {
    if (key == name) {
      t = value;
      return;
    }
  }
  state.emplace_back(name, value);
}

// PyTorch's text in Lockstep's spelling: no class name, plain sizes, no blanks at line ends.
std::string expected_text(const std::string& name) {
  const golden::File golden("nn_golden.safetensors");
  std::string text = golden.cases().at("load_errors").at(name);
  text = std::regex_replace(text, std::regex(" for Net:"), ":");
  text = std::regex_replace(text, std::regex("torch\\.Size\\((\\[[^\\]]*\\])\\)"), "$1");
  text = std::regex_replace(text, std::regex(" (\n|$)"), "$1");
  return text;
}

void expect_refused(const NamedTensors& state, const std::string& name, bool strict = true) {
  const Net net;
  std::vector<std::vector<double>> before;
  for (const auto& [key, t] : net.state_dict()) before.push_back(t.to_vector());
  try {
    net.load_state_dict(state, strict);
    ADD_FAILURE() << name << ": no error";
  } catch (const ValueError& error) {
    EXPECT_EQ(std::string(error.what()), expected_text(name));
  }
  size_t i = 0;
  for (const auto& [key, t] : net.state_dict()) {
    EXPECT_EQ(t.to_vector(), before[i++]) << name << " changed " << key;
  }
}

TEST(StateDict, HasPyTorchsNamesAndShapes) {
  const golden::File golden("nn_golden.safetensors");
  const auto& entries = golden.cases().at("state_dict");
  const auto state = Net().state_dict();
  ASSERT_EQ(state.size(), entries.size());
  for (size_t i = 0; i < state.size(); ++i) {
    const auto& entry = entries[i];
    EXPECT_EQ(state[i].first, entry[0].get<std::string>());
    std::vector<int64_t> sizes(state[i].second.sizes().begin(), state[i].second.sizes().end());
    EXPECT_EQ(sizes, entry[1].get<std::vector<int64_t>>()) << state[i].first;
  }
}

TEST(LoadStateDict, CopiesEverythingIntoTheSameTensors) {
  const Net from, to;
  from.bn.running_mean.fill_(3.0);
  from.bn.num_batches_tracked.fill_(41);
  const Tensor weight = to.fc.weight;
  to.load_state_dict(from.state_dict());
  EXPECT_TRUE(weight.is_same(to.fc.weight));
  const auto a = from.state_dict(), b = to.state_dict();
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].second.to_vector(), b[i].second.to_vector()) << a[i].first;
    EXPECT_NE(a[i].second.data_ptr(), b[i].second.data_ptr()) << a[i].first;
  }
  EXPECT_TRUE(to.fc.weight.requires_grad());
  EXPECT_EQ(to.bn.num_batches_tracked.item<int64_t>(), 41);
}

TEST(LoadStateDict, ConvertsDtypes) {
  const Net from, to;
  to.to(DType::kFloat64);
  to.load_state_dict(from.state_dict());
  EXPECT_EQ(to.fc.weight.dtype(), DType::kFloat64);
  EXPECT_EQ(to.fc.weight.to_vector(), from.fc.weight.to_vector());
}

TEST(LoadStateDict, ErrorsArePyTorchsAndChangeNothing) {
  const Net good;
  NamedTensors state = good.state_dict();
  remove_key(state, "fc.bias");
  remove_key(state, "bn.running_mean");
  expect_refused(state, "missing");

  state = good.state_dict();
  assign(state, "zeta", zeros({1}));
  assign(state, "alpha", zeros({1}));
  expect_refused(state, "unexpected");

  state = good.state_dict();
  assign(state, "fc.weight", zeros({3, 2}));
  assign(state, "bn.weight", zeros({4}));
  expect_refused(state, "shape");

  state = good.state_dict();
  remove_key(state, "bn.bias");
  assign(state, "more", zeros({1}));
  assign(state, "fc.weight", zeros({5}));
  expect_refused(state, "all");
  expect_refused(state, "loose", /*strict=*/false);

  state = good.state_dict();
  assign(state, "fc.weight", Tensor());
  EXPECT_THROW(Net().load_state_dict(state), ValueError);
}

TEST(LoadStateDict, WithoutStrictTakesWhatFits) {
  const Net from, to;
  NamedTensors state = from.state_dict();
  remove_key(state, "fc.bias");
  assign(state, "more", zeros({1}));
  const auto bias = to.fc.bias.to_vector();
  to.load_state_dict(state, /*strict=*/false);
  EXPECT_EQ(to.fc.bias.to_vector(), bias);
  EXPECT_EQ(to.fc.weight.to_vector(), from.fc.weight.to_vector());
}

}  // namespace
}  // namespace lockstep::nn
