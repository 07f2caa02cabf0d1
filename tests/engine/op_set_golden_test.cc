// The op set against PyTorch (tests/golden/make_op_set_golden.py): results, gradients and names of
// graph nodes in float64 and float32, from dense and from strided inputs; and first and second
// derivatives against numerical ones.
#include <cmath>
#include <map>

#include <gtest/gtest.h>

#include "lockstep/engine/autograd/backward.h"
#include "lockstep/engine/autograd/gradcheck.h"
#include "lockstep/engine/ops/ops.h"

#include "golden/golden.h"

namespace lockstep::testing {
namespace {

using golden::dims;
using golden::number;
using golden::numbers;
using Json = nlohmann::json;
using Tensors = std::vector<Tensor>;
using Call = std::function<Tensors(const Tensors&, const Json& args)>;

enum class Storage { kDense, kStrided };

const golden::File& file() {
  static const golden::File kFile("op_set_golden.safetensors");
  return kFile;
}

const Json& all_cases() {
  EXPECT_GT(file().cases().size(), 400u);
  return file().cases();
}

Tensor make(const Json& input, DType dtype, Storage storage) {
  const Tensor dense = file().tensor(input, dtype);
  if (storage == Storage::kDense || dense.dim() == 0) return dense;
  // Every second element of the first dimension of something that lies the other way round.
  Dims sizes = dense.sizes();
  sizes[0] *= 2;
  Tensor wide = full(sizes, 1, {dense.dtype()});
  if (dense.dim() > 1) wide = wide.transpose(0, -1).contiguous().transpose(0, -1);
  const Tensor y = wide.slice(0, 0, sizes[0], 2);
  y.copy_(dense);
  return y.detach();
}

Tensor at(const Tensors& x, size_t i) { return i < x.size() ? x[i] : Tensor(); }

Tensors both(const ValuesAndIndices& y) { return {y.values, y.indices}; }

ClassLossOptions class_options(const Tensor& x, const Json& a) {
  ClassLossOptions options;
  if (!a["weight"].is_null()) {
    const auto w = numbers(a["weight"]);
    options.weight = from_span<double>(w, {static_cast<int64_t>(w.size())}).to(x.dtype());
  }
  options.ignore_index = a["ignore_index"];
  options.reduction = reduction_from_name(a["reduction"].get<std::string>());
  options.label_smoothing = a.value("smoothing", 0.0);
  return options;
}

Reduction reduction(const Json& a) {
  return reduction_from_name(a["reduction"].get<std::string>());
}

// The indices x[first], x[first + 1], ... of the dimensions that `at` names.
Tensors places(const Tensors& x, size_t first, const Json& at) {
  Tensors indices;
  for (size_t k = 0; k < at.size(); ++k) {
    while (indices.size() < at[k].get<size_t>()) indices.emplace_back();
    indices.push_back(x[first + k]);
  }
  return indices;
}

template <size_t n>
void read(const Json& a, const char* name, int64_t (&to)[n]) {
  for (size_t i = 0; i < n; ++i) to[i] = a[name][i];
}

void add_pointwise(std::map<std::string, Call>& c) {
#define UNARY(op) c[#op] = [](const Tensors& x, const Json&) -> Tensors { return {op(x[0])}; };
  UNARY(rsqrt)
  UNARY(log1p)
  UNARY(expm1)
  UNARY(tan)
  UNARY(erf)
  UNARY(gelu)
  UNARY(silu)
  UNARY(logical_not)
  UNARY(nonzero)
  UNARY(atan)
  UNARY(isnan)
  UNARY(isinf)
  UNARY(isfinite)
  UNARY(all)
  UNARY(any)
  UNARY(prod)
#undef UNARY
#define CALL(op, ...)                                       \
  c[#op] = [](const Tensors& x, const Json& a) -> Tensors { \
    (void)a;                                                \
    return __VA_ARGS__;                                     \
  };
  CALL(gelu_tanh, {gelu(x[0], "tanh")})
  CALL(softplus, {softplus(x[0], a["p"], a["q"])})
  CALL(leaky_relu, {leaky_relu(x[0], a["p"])})
  CALL(elu, {elu(x[0], a["p"])})
  CALL(hardtanh, {hardtanh(x[0], a["p"], a["q"])})
  CALL(pow, {pow(x[0], x[1])})
  CALL(rpow, {pow(a["base"].get<double>(), x[0])})
  CALL(masked_fill, {masked_fill(x[0], x[1], number(a["value"]))})
  CALL(masked_fill_tensor, {masked_fill(x[0], x[1], x[2])})
  CALL(masked_fill_, {x[0].clone().masked_fill_(x[1], number(a["value"]))})
  CALL(masked_fill_tensor_, {x[0].clone().masked_fill_(x[1], x[2])})
  CALL(all_dim, {all(x[0], a["dim"], a["keepdim"])})
  CALL(any_dim, {any(x[0], a["dim"], a["keepdim"])})
  CALL(max_of, {max(x[0], x[1])})
  CALL(min_of, {min(x[0], x[1])})
  CALL(clamp_min, {clamp_min(x[0], a["low"])})
  CALL(clamp_max, {clamp_max(x[0], a["high"])})
  c["clamp_bounds"] = [](const Tensors& x, const Json& a) -> Tensors {
    const std::string bounds = a["bounds"];
    if (bounds == "low") return {clamp(x[0], x[1], Tensor())};
    if (bounds == "high") return {clamp(x[0], Tensor(), x[1])};
    return {bounds == "both" ? clamp(x[0], x[1], x[2]) : clamp(x[0], x[2], x[1])};
  };
  CALL(logical_and, {logical_and(x[0], x[1])})
  CALL(logical_or, {logical_or(x[0], x[1])})
}

void add_shape(std::map<std::string, Call>& c) {
  CALL(cat, {cat(x, a["dim"])})
  CALL(stack, {stack(x, a["dim"])})
  CALL(split, split(x[0], a["size"].get<int64_t>(), a["dim"]))
  CALL(split_sizes, split(x[0], dims(a["sizes"]), a["dim"]))
  CALL(chunk, chunk(x[0], a["chunks"], a["dim"]))
  CALL(repeat, {repeat(x[0], dims(a["repeats"]))})
  CALL(unbind, unbind(x[0], a["dim"]))
  CALL(movedim, {movedim(x[0], dims(a["source"]), dims(a["target"]))})
  CALL(select, {x[0].select(a["dim"], a["index"])})
  CALL(squeeze, {x[0].squeeze()})
  CALL(squeeze_dim, {x[0].squeeze(a["dim"])})
  CALL(index_put, {index_put(x[0], places(x, 2, a["at"]), x[1], a["accumulate"])})
  CALL(index_put_, {x[0].clone().index_put_(places(x, 2, a["at"]), x[1], a["accumulate"])})
  CALL(scatter_to_zeros, {scatter_to_zeros(x[0], dims(a["sizes"]), a["dim"], x[1])})
  CALL(flip, {flip(x[0], dims(a["dims"]))})
  CALL(gather, {gather(x[0], a["dim"], x[1])})
  CALL(scatter_add, {scatter_add(x[0], a["dim"], x[1], x[2])})
  CALL(index_add, {index_add(x[0], a["dim"], x[1], x[2])})
  CALL(index_select, {index_select(x[0], a["dim"], x[1])})
  CALL(index, {index(x[0], places(x, 1, a["at"]))})
  CALL(masked_select, {masked_select(x[0], x[1])})
  CALL(embedding, {embedding(x[0], x[1], a.value("padding", -1))})
  CALL(one_hot, {one_hot(x[0], a["classes"])})
  CALL(tril, {tril(x[0], a["diagonal"])})
  CALL(triu, {triu(x[0], a["diagonal"])})
}

void add_reductions(std::map<std::string, Call>& c) {
  CALL(max, both(max(x[0], a["dim"], a["keepdim"])))
  CALL(min, both(min(x[0], a["dim"], a["keepdim"])))
  CALL(argmax_all, {argmax(x[0])})
  CALL(argmin_all, {argmin(x[0])})
  CALL(argmin, {argmin(x[0], a["dim"], a["keepdim"])})
  CALL(sort, both(sort(x[0], a["dim"], a["descending"])))
  CALL(argsort, {argsort(x[0], a["dim"], a["descending"])})
  CALL(topk, both(topk(x[0], a["k"], a["dim"], a["largest"])))
  CALL(prod_dim, {prod(x[0], a["dim"], a["keepdim"])})
  CALL(cumsum, {cumsum(x[0], a["dim"])})
  CALL(var, {var(x[0], dims(a["dims"]), a["correction"], a["keepdim"])})
  CALL(std, {std(x[0], dims(a["dims"]), a["correction"], a["keepdim"])})
  CALL(logsumexp, {logsumexp(x[0], dims(a["dims"]), a["keepdim"])})
  CALL(norm, {norm(x[0], number(a["p"]), dims(a["dims"]), a["keepdim"])})
  CALL(sum_dims, {sum(x[0], dims(a["dims"]), a["keepdim"])})
  CALL(mean_dims, {mean(x[0], dims(a["dims"]), a["keepdim"])})
  CALL(matmul, {matmul(x[0], x[1])})
  CALL(dot, {dot(x[0], x[1])})
  CALL(mv, {mv(x[0], x[1])})
  CALL(linear, {linear(x[0], x[1], x[2])})
  CALL(bmm, {bmm(x[0], x[1])})
  CALL(outer, {outer(x[0], x[1])})
  CALL(addmm, {addmm(x[0], x[1], x[2], a["beta"], a["alpha"])})
  CALL(einsum, {einsum(a["equation"].get<std::string>(), x)})
}

void add_network(std::map<std::string, Call>& c) {
  CALL(layer_norm, {layer_norm(x[0], dims(a["shape"]), at(x, 1), at(x, 2), a["eps"])})
  CALL(group_norm, {group_norm(x[0], a["groups"], at(x, 1), at(x, 2), a["eps"])})
  CALL(rms_norm, {rms_norm(x[0], dims(a["shape"]), at(x, 1), a["eps"])})
  CALL(softmax, {softmax(x[0], a["dim"])})
  CALL(log_softmax, {log_softmax(x[0], a["dim"])})
  CALL(attention, {scaled_dot_product_attention(
                      x[0], x[1], x[2], {.mask = at(x, 3), .causal = a.value("causal", false)})})
  CALL(mse_loss, {mse_loss(x[0], x[1], reduction(a))})
  CALL(l1_loss, {l1_loss(x[0], x[1], reduction(a))})
  CALL(smooth_l1_loss, {smooth_l1_loss(x[0], x[1], reduction(a), a["beta"])})
  CALL(binary_cross_entropy, {binary_cross_entropy(x[0], x[1], at(x, 2), reduction(a))})
  CALL(bce_with_logits,
       {binary_cross_entropy_with_logits(x[0], x[1], a.contains("weight") ? x[2] : Tensor(),
                                         a.contains("pos_weight") ? x[2] : Tensor(), reduction(a))})
  CALL(kl_div, {kl_div(x[0], x[1], reduction(a), a["log_target"])})
  CALL(nll_loss, {nll_loss(x[0], x[1], class_options(x[0], a))})
  CALL(cross_entropy, {cross_entropy(x[0], x[1], class_options(x[0], a))})
  CALL(conv2d, {conv2d(x[0], x[1], at(x, 2))})
  CALL(max_pool2d, {max_pool2d(x[0], a["kernel"].get<int64_t>())})
  CALL(avg_pool2d, {avg_pool2d(x[0], a["kernel"].get<int64_t>())})
  CALL(conv1d, {conv1d(x[0], x[1], x[2], {a["stride"], a["padding"], a["dilation"], a["groups"]})})
  c["conv_transpose2d"] = [](const Tensors& x, const Json& a) -> Tensors {
    ConvTranspose2dParams p;
    read(a, "stride", p.stride);
    read(a, "padding", p.padding);
    read(a, "output_padding", p.output_padding);
    read(a, "dilation", p.dilation);
    p.groups = a["groups"];
    return {conv_transpose2d(x[0], x[1], at(x, 2), p)};
  };
  CALL(adaptive_avg_pool2d, {adaptive_avg_pool2d(x[0], a["out"][0], a["out"][1])})
  CALL(adaptive_max_pool2d, {adaptive_max_pool2d(x[0], a["out"][0], a["out"][1])})
#undef CALL
}

const std::map<std::string, Call>& calls() {
  static const std::map<std::string, Call> kCalls = [] {
    std::map<std::string, Call> c;
    add_pointwise(c);
    add_shape(c);
    add_reductions(c);
    add_network(c);
    return c;
  }();
  return kCalls;
}

bool is_half(DType dtype) { return dtype == DType::kBFloat16 || dtype == DType::kFloat16; }

// |a - b| <= relative |b| + absolute max(floor, largest element of b): what rounding may add.
struct Tolerance {
  double relative, absolute, floor = 1;
};
constexpr Tolerance kFloat64{0, 2e-14}, kFloat32{0, 4e-6};

// A result of 16 bits is rounded as often as said; rounded once it is right to half a unit in its
// last place, but for what float32 adds. What is rounded on the way is that right for the largest
// element only; and gradients are made of rounded results, as PyTorch's are, which counts twice.
Tolerance tolerance_of(DType dtype, int roundings, bool is_gradient) {
  if (!is_half(dtype)) return dtype == DType::kFloat64 ? kFloat64 : kFloat32;
  const double each = roundings * (dtype == DType::kBFloat16 ? 0x1p-8 : 0x1p-11);
  if (is_gradient) return {each, 2 * each, 0.01};
  return {each, roundings == 1 ? kFloat32.absolute : each, 0.01};
}

// The ops of several steps that take 16-bit floats, and how often they round: once, but for
// attention, whose products, scores and weights have 16 bits too.
const std::map<std::string, int>& half_ops() {
  static const std::map<std::string, int> kOps = {
      {"softmax", 1},   {"log_softmax", 1}, {"layer_norm", 1},    {"group_norm", 1},
      {"rms_norm", 1},  {"gelu", 1},        {"gelu_tanh", 1},     {"embedding", 1},
      {"attention", 4}, {"nll_loss", 2},    {"cross_entropy", 1}, {"dot", 1},
      {"mv", 1},        {"conv2d", 1},      {"conv1d", 1},        {"masked_fill_", 1}};
  return kOps;
}

void expect_equal(const std::vector<double>& got, const std::vector<double>& expected, DType dtype,
                  Tolerance tolerance, const std::string& what) {
  ASSERT_EQ(got.size(), expected.size()) << what;
  double largest = tolerance.floor;
  for (double e : expected) largest = std::isfinite(e) ? std::max(largest, std::fabs(e)) : largest;
  for (size_t i = 0; i < got.size(); ++i) {
    const bool overflow = dtype == DType::kFloat32 && std::fabs(expected[i]) > 3.4e38;
    if (std::isnan(expected[i])) {
      EXPECT_TRUE(std::isnan(got[i])) << what << ", element " << i << ": " << got[i];
    } else if (std::isinf(expected[i]) || overflow) {
      EXPECT_TRUE(std::isinf(got[i]) && (got[i] > 0) == (expected[i] > 0))
          << what << ", element " << i << ": " << got[i];
    } else {
      const double scale = largest < 1e6 ? largest : std::max(1.0, std::fabs(expected[i]));
      EXPECT_LE(std::fabs(got[i] - expected[i]),
                tolerance.relative * std::fabs(expected[i]) + tolerance.absolute * scale)
          << what << ", element " << i << ": got " << got[i] << ", expected " << expected[i];
    }
  }
}

struct Setting {
  DType dtype;
  Storage storage;
};
void PrintTo(const Setting& s, std::ostream* out) {
  *out << name_of(s.dtype) << (s.storage == Storage::kDense ? "" : " strided");
}

Tensors make_inputs(const Json& c, DType dtype, Storage storage) {
  Tensors inputs;
  for (const Json& input : c.at("inputs")) {
    inputs.push_back(make(input, dtype, storage));
    if (c.contains("grads") && is_floating(inputs.back().dtype())) inputs.back().requires_grad_();
  }
  return inputs;
}

// Whether the arguments are the golden ones to the last bit.
bool all_exact(const Json& c, const Tensors& inputs) {
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i].to_vector() != file().numbers(c.at("inputs").at(i))) return false;
  }
  return true;
}

std::string describe(const Json& c, size_t i) {
  return c["op"].get<std::string>() + c["args"].dump() + " (case " + std::to_string(i) + ")";
}

class OpSetGolden : public ::testing::TestWithParam<Setting> {};

TEST_P(OpSetGolden, ResultsAndGradients) {
  const auto [dtype, storage] = GetParam();
  const Json& cases = all_cases();
  int compared = 0;
  for (size_t number_of_case = 0; number_of_case < cases.size(); ++number_of_case) {
    const Json& c = cases[number_of_case];
    const std::string op = c["op"], what = describe(c, number_of_case);
    ASSERT_TRUE(calls().count(op)) << what;
    const Tensors inputs = make_inputs(c, dtype, storage);
    if (is_half(dtype) && !(half_ops().count(op) && all_exact(c, inputs))) continue;
    const int roundings = is_half(dtype) ? half_ops().at(op) : 1;
    ++compared;
    Tensors outputs;
    try {
      outputs = calls().at(op)(inputs, c["args"]);
    } catch (const std::exception& e) {
      ADD_FAILURE() << what << ": " << e.what();
      continue;
    }
    ASSERT_EQ(outputs.size(), c.at("outputs").size()) << what;
    Tensors tracked, seeds;
    for (size_t i = 0; i < outputs.size(); ++i) {
      const Json& expected = c.at("outputs").at(i);
      EXPECT_EQ(outputs[i].sizes(), file().sizes(expected)) << what;
      EXPECT_EQ(outputs[i].dtype(), file().tensor(expected, dtype).dtype()) << what;
      expect_equal(outputs[i].to_vector(), file().numbers(expected), dtype,
                   tolerance_of(dtype, roundings, false), what);
      if (!c.contains("grads") || !is_floating(outputs[i].dtype())) continue;
      EXPECT_TRUE(outputs[i].requires_grad()) << what;
      tracked.push_back(outputs[i]);
      seeds.push_back(file().tensor(c.at("seeds").at(seeds.size()), dtype));
    }
    if (tracked.empty() || !tracked[0].requires_grad()) continue;
    if (c.contains("node")) {
      EXPECT_EQ(tracked[0].grad_fn()->name(), c["node"].get<std::string>()) << what;
    }
    try {
      autograd::backward(tracked, seeds);
    } catch (const std::exception& e) {
      ADD_FAILURE() << what << ", backward: " << e.what();
      continue;
    }
    for (size_t i = 0; i < inputs.size(); ++i) {
      const Json& expected = c.at("grads").at(i);
      if (expected.is_null()) continue;
      ASSERT_TRUE(inputs[i].grad().defined()) << what << ", gradient " << i;
      EXPECT_EQ(inputs[i].grad().sizes(), inputs[i].sizes()) << what << ", gradient " << i;
      expect_equal(inputs[i].grad().to_vector(), file().numbers(expected), dtype,
                   tolerance_of(dtype, roundings, true), what + ", gradient " + std::to_string(i));
    }
  }
  EXPECT_GT(compared, is_half(dtype) ? 80 : 500);
}

INSTANTIATE_TEST_SUITE_P(Settings, OpSetGolden,
                         ::testing::Values(Setting{DType::kFloat64, Storage::kDense},
                                           Setting{DType::kFloat64, Storage::kStrided},
                                           Setting{DType::kFloat32, Storage::kDense},
                                           Setting{DType::kBFloat16, Storage::kDense},
                                           Setting{DType::kFloat16, Storage::kDense}));

// All differentiable outputs of a case as one vector.
autograd::DifferentiableFunction function_of(const Json& c) {
  return [&c](const Tensors& inputs) {
    Tensors parts;
    for (const Tensor& y : calls().at(c["op"].get<std::string>())(inputs, c["args"])) {
      if (is_floating(y.dtype())) parts.push_back(y.reshape({-1}));
    }
    return cat(parts);
  };
}

TEST(OpSet, Gradcheck) {
  const Json& cases = all_cases();
  int checked = 0;
  for (size_t i = 0; i < cases.size(); ++i) {
    const Json& c = cases[i];
    if (!c.contains("grads") || (c.contains("twice") && c["twice"].is_null())) continue;
    const Tensors inputs = make_inputs(c, DType::kFloat64, Storage::kDense);
    ++checked;
    EXPECT_NO_THROW(autograd::gradcheck(function_of(c), inputs)) << describe(c, i);
  }
  EXPECT_GT(checked, 300);
}

TEST(OpSet, Gradgradcheck) {
  const Json& cases = all_cases();
  int checked = 0;
  for (size_t i = 0; i < cases.size(); ++i) {
    const Json& c = cases[i];
    if (!c.contains("grads") || c.contains("twice")) continue;
    const Tensors inputs = make_inputs(c, DType::kFloat64, Storage::kDense);
    ++checked;
    EXPECT_NO_THROW(autograd::gradgradcheck(function_of(c), inputs)) << describe(c, i);
  }
  EXPECT_GT(checked, 300);
}

TEST(OpSet, EqualAndClose) {
  const double nan = std::nan("");
  const Tensor x = tensor({1.0, -2.0, INFINITY});
  EXPECT_TRUE(equal(x, x.clone()));
  EXPECT_FALSE(equal(x, x.view({1, 3})));
  EXPECT_FALSE(equal(tensor({nan}), tensor({nan})));
  EXPECT_TRUE(equal(tensor({}), tensor({})));
  EXPECT_TRUE(allclose(x, mul(x, 1 + 1e-6)));
  EXPECT_FALSE(allclose(x, mul(x, 1 + 1e-4)));
  EXPECT_TRUE(allclose(x, mul(x, 1 + 1e-4), 1e-3));
  EXPECT_FALSE(allclose(x, neg(x), 1e9)) << "an infinity is close to itself only";
  EXPECT_FALSE(allclose(tensor({1.0}), tensor({INFINITY})));
  EXPECT_FALSE(allclose(tensor({nan}), tensor({nan})));
  EXPECT_TRUE(allclose(tensor({nan}), tensor({nan}), 0, 0, true));
  EXPECT_TRUE(allclose(tensor({5, 5}), tensor({5})));
}

TEST(OpSet, MembersAreTheFunctions) {
  const Tensor x = mul(add(rand({3, 4}), 0.5), 2), y = rand({4, 3}), b = rand({2, 3, 3});
  const Tensor at = tensor({int64_t{2}, int64_t{0}}), places = zeros({2, 4}, {DType::kInt64});
  const Tensor mask = gt(x, 1.5);
  const auto same = [](const Tensor& a, const Tensor& c) {
    EXPECT_EQ(a.sizes(), c.sizes());
    EXPECT_EQ(a.to_vector(), c.to_vector());
  };
#define SAME(op, ...) same(x.op(__VA_ARGS__), op(x __VA_OPT__(, ) __VA_ARGS__))
  SAME(exp);
  SAME(log);
  SAME(sqrt);
  SAME(abs);
  SAME(sin);
  SAME(cos);
  SAME(tanh);
  SAME(sigmoid);
  SAME(relu);
  SAME(pow, 1.5);
  SAME(clamp, 1.2, 1.8);
  SAME(softmax, 0);
  SAME(log_softmax, 1);
  SAME(matmul, y);
  SAME(mm, y);
  same(b.bmm(b), bmm(b, b));
  SAME(norm, 3.0);
  SAME(argmax);
  SAME(argmin);
  SAME(argmin, 1);
  same(x.max(1).values, max(x, 1).values);
  same(x.min(0, true).indices, min(x, 0, true).indices);
  SAME(prod);
  SAME(prod, 1);
  SAME(var);
  SAME(std, Dims{0}, 0, true);
  SAME(logsumexp, Dims{1});
  SAME(cumsum, 0);
  same(x.sort(0, true).values, sort(x, 0, true).values);
  SAME(argsort, 1);
  same(x.topk(2).indices, topk(x, 2).indices);
  SAME(index, {at});
  SAME(index_select, 0, at);
  SAME(index_add, 0, at, ones({2, 4}));
  SAME(gather, 0, places);
  SAME(scatter_add, 0, places, ones({2, 4}));
  SAME(masked_select, mask);
  SAME(masked_fill, mask, 7);
  SAME(nonzero);
  SAME(tril, 1);
  SAME(triu, -1);
  SAME(repeat, Dims{2, 1});
  SAME(flip, Dims{0});
  SAME(neg);
  SAME(sign);
  SAME(rsqrt);
  SAME(reciprocal);
  SAME(log1p);
  SAME(expm1);
  SAME(tan);
  SAME(erf);
  SAME(square);
  SAME(all);
  SAME(any);
#define BOTH(op) same(x.op(x + 0.5), op(x, x + 0.5)), same(x.op(1.5), op(x, 1.5))
  BOTH(add);
  BOTH(sub);
  BOTH(mul);
  BOTH(div);
  BOTH(eq);
  BOTH(ne);
  BOTH(lt);
  BOTH(le);
  BOTH(gt);
  BOTH(ge);
#undef BOTH
  same(x.add(x, 0.25), x * 1.25);
  same(x.sub(x, 0.25), x * 0.75);
  same(x.pow(x), pow(x, x));
  same(x.clamp(tensor(1.2), tensor(1.8)), clamp(x, 1.2, 1.8));
  same(x.masked_fill(mask, tensor(7.0)), masked_fill(x, mask, 7));
  same(x.index_put({at}, ones({4})), index_put(x, {at}, ones({4})));
  SAME(movedim, Dims{0}, Dims{1});
  same(x.unbind(1)[2], unbind(x, 1)[2]);
  same(x.split(Dims{1, 2})[1], split(x, Dims{1, 2})[1]);
  same(x[0].expand_as(x), x[0].expand(x.sizes()));
  same(x.view_as(y), x.view(y.sizes()));
  same(x.split(2)[1], split(x, 2)[1]);
  same(x.chunk(2, 1)[1], chunk(x, 2, 1)[1]);
#undef SAME
}

}  // namespace
}  // namespace lockstep::testing
