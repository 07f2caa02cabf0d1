// Results and gradients against PyTorch's (tests/golden/make_op_golden.py), in float64 and float32.
#include <cmath>
#include <map>
#include <set>

#include <gtest/gtest.h>

#include "lockstep/engine/autograd/backward.h"
#include "lockstep/engine/ops/ops.h"

#include "golden/golden.h"

namespace lockstep::testing {
namespace {

using golden::dims;
using Json = nlohmann::json;
using Tensors = std::vector<Tensor>;
using Call = std::function<Tensor(const Tensors&, const Json& args)>;

const golden::File& file() {
  static const golden::File kFile("op_golden.safetensors");
  return kFile;
}

Tensors make_inputs(const Json& c, DType dtype) {
  Tensors inputs;
  for (const Json& input : c.at("inputs")) inputs.push_back(file().tensor(input, dtype));
  return inputs;
}

Conv2dParams conv_params(const Json& args) {
  Conv2dParams p;
  const auto read = [&](const char* name, int64_t* to) {
    if (args.contains(name)) to[0] = args[name][0], to[1] = args[name][1];
  };
  read("stride", p.stride);
  read("padding", p.padding);
  read("dilation", p.dilation);
  p.groups = args.value("groups", 1);
  return p;
}

Pool2dParams pool_params(const Json& args) {
  const Conv2dParams common = conv_params(args);
  Pool2dParams p;
  for (int i = 0; i < 2; ++i) {
    p.kernel[i] = args["kernel"][static_cast<size_t>(i)];
    p.stride[i] = common.stride[i];
    p.padding[i] = common.padding[i];
    p.dilation[i] = common.dilation[i];
  }
  p.count_include_pad = args.value("count_include_pad", true);
  return p;
}

Reduction reduction(const Json& args) {
  const std::string name = args["reduction"];
  return name == "none" ? Reduction::kNone : (name == "mean" ? Reduction::kMean : Reduction::kSum);
}

Tensor third(const Tensors& x) { return x.size() > 2 ? x[2] : Tensor(); }

Tensor golden_batch_norm(const Tensors& x, const Json& args, Tensors* running) {
  const DType dtype = x[0].dtype();
  *running = {file().tensor(args.at("mean"), dtype), file().tensor(args.at("var"), dtype)};
  return batch_norm(x[0], (*running)[0], (*running)[1], x.size() > 1 ? x[1] : Tensor(), third(x),
                    {args["training"], args["momentum"], args["eps"]});
}

const std::map<std::string, Call>& calls() {
  static const std::map<std::string, Call> kCalls = [] {
    std::map<std::string, Call> c;
#define UNARY(op) c[#op] = [](const Tensors& x, const Json&) { return op(x[0]); }
    UNARY(neg);
    UNARY(abs);
    UNARY(sign);
    UNARY(exp);
    UNARY(log);
    UNARY(sqrt);
    UNARY(reciprocal);
    UNARY(sin);
    UNARY(cos);
    UNARY(tanh);
    UNARY(sigmoid);
    UNARY(relu);
    UNARY(square);
    UNARY(sum);
    UNARY(mean);
    UNARY(max);
    UNARY(min);
    UNARY(norm);
#undef UNARY
#define BINARY(op) c[#op] = [](const Tensors& x, const Json&) { return op(x[0], x[1]); }
    BINARY(add);
    BINARY(sub);
    BINARY(mul);
    BINARY(div);
    BINARY(maximum);
    BINARY(minimum);
    BINARY(relu_backward);
    BINARY(sigmoid_backward);
    BINARY(tanh_backward);
    BINARY(eq);
    BINARY(ne);
    BINARY(lt);
    BINARY(le);
    BINARY(gt);
    BINARY(ge);
    BINARY(matmul);
    BINARY(mm);
    BINARY(bmm);
#undef BINARY
    c["clamp"] = [](const Tensors& x, const Json& a) { return clamp(x[0], a["p"], a["q"]); };
    c["pow"] = [](const Tensors& x, const Json& a) { return pow(x[0], a["p"].get<double>()); };
    c["add_scaled"] = [](const Tensors& x, const Json& a) {
      return add_scaled(x[0], x[1], a["p"]);
    };
    c["clamp_backward"] = [](const Tensors& x, const Json& a) {
      return clamp_backward(x[0], x[1], a["p"], a["q"]);
    };
    c["where"] = [](const Tensors& x, const Json&) { return where(x[0], x[1], x[2]); };
    c["linear"] = [](const Tensors& x, const Json&) { return linear(x[0], x[1], third(x)); };
    c["conv2d"] = [](const Tensors& x, const Json& a) {
      return conv2d(x[0], x[1], third(x), conv_params(a));
    };
    c["max_pool2d"] = [](const Tensors& x, const Json& a) {
      return max_pool2d(x[0], pool_params(a));
    };
    c["avg_pool2d"] = [](const Tensors& x, const Json& a) {
      return avg_pool2d(x[0], pool_params(a));
    };
    c["batch_norm"] = [](const Tensors& x, const Json& a) {
      Tensors running;
      return golden_batch_norm(x, a, &running);
    };
    c["log_softmax"] = [](const Tensors& x, const Json& a) { return log_softmax(x[0], a["dim"]); };
    c["softmax"] = [](const Tensors& x, const Json& a) { return softmax(x[0], a["dim"]); };
    c["nll_loss"] = [](const Tensors& x, const Json& a) {
      return nll_loss(x[0], x[1], reduction(a));
    };
    c["cross_entropy"] = [](const Tensors& x, const Json& a) {
      return cross_entropy(x[0], x[1], reduction(a));
    };
    c["mse_loss"] = [](const Tensors& x, const Json& a) {
      return mse_loss(x[0], x[1], reduction(a));
    };
    c["sum_dims"] = [](const Tensors& x, const Json& a) {
      return sum(x[0], dims(a["dims"]), a["keepdim"]);
    };
    c["mean_dims"] = [](const Tensors& x, const Json& a) {
      return mean(x[0], dims(a["dims"]), a["keepdim"]);
    };
    c["argmax"] = [](const Tensors& x, const Json& a) { return argmax(x[0], a["dim"]); };
    c["index_select"] = [](const Tensors& x, const Json& a) {
      return index_select(x[0], a["dim"], x[1]);
    };
    c["view"] = [](const Tensors& x, const Json& a) { return x[0].view(dims(a["sizes"])); };
    c["reshape"] = [](const Tensors& x, const Json& a) {
      return x[0].t().reshape(dims(a["sizes"]));
    };
    c["flatten"] = [](const Tensors& x, const Json& a) { return x[0].flatten(a["dim"]); };
    c["transpose"] = [](const Tensors& x, const Json& a) {
      return x[0].transpose(a["dims"][0], a["dims"][1]);
    };
    c["permute"] = [](const Tensors& x, const Json& a) { return x[0].permute(dims(a["dims"])); };
    c["squeeze"] = [](const Tensors& x, const Json& a) { return x[0].squeeze(a["dim"]); };
    c["unsqueeze"] = [](const Tensors& x, const Json& a) { return x[0].unsqueeze(a["dim"]); };
    c["expand"] = [](const Tensors& x, const Json& a) { return x[0].expand(dims(a["sizes"])); };
    c["select"] = [](const Tensors& x, const Json& a) { return x[0].select(a["dim"], a["index"]); };
    c["narrow"] = [](const Tensors& x, const Json& a) {
      return x[0].narrow(a["dim"], a["start"], a["length"]);
    };
    c["slice"] = [](const Tensors& x, const Json& a) {
      return x[0].slice(a["dim"], a["start"], a["end"], a["step"]);
    };
    c["add_"] = [](const Tensors& x, const Json&) { return x[0].clone().add_(x[1], 0.5); };
    c["sub_"] = [](const Tensors& x, const Json&) { return x[0].clone().sub_(x[1]); };
    c["mul_"] = [](const Tensors& x, const Json&) { return x[0].clone().mul_(x[1]); };
    c["div_"] = [](const Tensors& x, const Json&) { return x[0].clone().div_(x[1]); };
    c["copy_"] = [](const Tensors& x, const Json&) { return x[0].clone().copy_(x[1]); };
    return c;
  }();
  return kCalls;
}

// |a - b| <= tolerance * max(1, |b|, largest element of b): what rounding may add.
constexpr double kTolerance64 = 1e-13, kTolerance32 = 2e-6;

void expect_equal(const std::vector<double>& got, const std::vector<double>& expected, DType dtype,
                  const std::string& what) {
  ASSERT_EQ(got.size(), expected.size()) << what;
  const double tolerance = dtype == DType::kFloat64 ? kTolerance64 : kTolerance32;
  double largest = 1;
  for (double e : expected) largest = std::isfinite(e) ? std::max(largest, std::fabs(e)) : largest;
  for (size_t i = 0; i < got.size(); ++i) {
    // float32 overflows where float64 does not; then only the sign can agree.
    const bool overflow =
        dtype == DType::kFloat32 && std::fabs(expected[i]) > 3.4e38 && std::isfinite(expected[i]);
    if (overflow) {
      EXPECT_TRUE(std::isinf(got[i]) && (got[i] > 0) == (expected[i] > 0)) << what;
      continue;
    }
    if (std::isnan(expected[i])) {
      EXPECT_TRUE(std::isnan(got[i])) << what << ", element " << i << ": " << got[i];
    } else if (std::isinf(expected[i])) {
      EXPECT_EQ(got[i], expected[i]) << what << ", element " << i;
    } else {
      // Elements of one result may differ by a hundred orders of magnitude.
      const double scale = largest < 1e6 ? largest : std::max(1.0, std::fabs(expected[i]));
      EXPECT_LE(std::fabs(got[i] - expected[i]), tolerance * scale)
          << what << ", element " << i << ": got " << got[i] << ", expected " << expected[i];
    }
    // The sign of a zero gradient depends on the order of multiplication; that of a result counts.
    const bool result = what.find("gradient") == std::string::npos;
    if (result && expected[i] == 0 && got[i] == 0 && dtype == DType::kFloat64) {
      EXPECT_EQ(std::signbit(got[i]), std::signbit(expected[i])) << what << ", zero " << i;
    }
  }
}

class OpGolden : public ::testing::TestWithParam<DType> {};

TEST_P(OpGolden, ResultsAndGradients) {
  const DType dtype = GetParam();
  ASSERT_GT(file().cases().size(), 250u);
  size_t number_of_case = 0;
  for (const Json& c : file().cases()) {
    const std::string op = c["op"];
    const std::string what = op + " (case " + std::to_string(number_of_case++) + ")";
    ASSERT_TRUE(calls().count(op)) << what;
    const Tensors inputs = make_inputs(c, dtype);
    for (const Tensor& x : inputs) {
      if (c.contains("grads") && is_floating(x.dtype())) x.requires_grad_();
    }
    const Tensor y = calls().at(op)(inputs, c["args"]);
    EXPECT_EQ(y.sizes(), file().sizes(c.at("output"))) << what;
    EXPECT_EQ(y.dtype(), file().tensor(c.at("output"), dtype).dtype()) << what;
    expect_equal(y.to_vector(), file().numbers(c.at("output")), dtype, what);
    if (!c.contains("grads")) continue;
    ASSERT_TRUE(y.requires_grad()) << what;
    y.backward(file().tensor(c.at("seed"), dtype));
    for (size_t i = 0; i < inputs.size(); ++i) {
      const Json& expected = c.at("grads").at(i);
      if (expected.is_null()) continue;
      ASSERT_TRUE(inputs[i].grad().defined()) << what << ", gradient " << i;
      expect_equal(inputs[i].grad().to_vector(), file().numbers(expected), dtype,
                   what + ", gradient " + std::to_string(i));
    }
  }
}

TEST_P(OpGolden, BatchNormRunningStatistics) {
  int seen = 0;
  for (const Json& c : file().cases()) {
    if (c["op"] != "batch_norm") continue;
    ++seen;
    Tensors running;
    golden_batch_norm(make_inputs(c, GetParam()), c["args"], &running);
    for (size_t i = 0; i < 2; ++i) {
      expect_equal(running[i].to_vector(), file().numbers(c.at("running_after").at(i)), GetParam(),
                   "running");
    }
  }
  EXPECT_EQ(seen, 12);
}

INSTANTIATE_TEST_SUITE_P(DTypes, OpGolden, ::testing::Values(DType::kFloat64, DType::kFloat32),
                         [](const auto& info) { return std::string(name_of(info.param)); });

// A pointwise op without golden values is an op whose special values nobody looked at.
TEST(OpGolden, CoversEveryPointwiseOp) {
  std::set<std::string> covered;
  for (const char* name : {"op_golden.safetensors", "op_set_golden.safetensors"}) {
    const golden::File golden(name);
    for (const Json& c : golden.cases()) covered.insert(c["op"].get<std::string>());
  }
  // The name that users call it by; a derivative has its op's golden gradients.
  const auto golden_name = [](std::string op) {
    if (op.ends_with("_backward")) op.resize(op.size() - std::string("_backward").size());
    if (op == "gelu_erf") return std::string("gelu");
    return op == "pow_scalar" || op == "pow_tensor" ? std::string("pow") : op;
  };
#define LOCKSTEP_OP(name, ...) EXPECT_TRUE(covered.count(golden_name(#name))) << #name;
  LOCKSTEP_POINTWISE_OPS(LOCKSTEP_OP)
#undef LOCKSTEP_OP
}

}  // namespace
}  // namespace lockstep::testing
