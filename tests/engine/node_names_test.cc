// The names of graph nodes are PyTorch's, for every op (tests/golden/make_node_names.py).
#include <cctype>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/engine/autograd/node.h"
#include "lockstep/engine/ops/ops.h"

#include "engine/declared_ops.h"
#include "golden/golden.h"

namespace lockstep::testing {
namespace {

using Tensors = std::vector<Tensor>;
using Results = std::function<Tensors()>;

Tensor leaf(const Dims& sizes) { return full(sizes, 0.5, {.requires_grad = true}); }

const Tensor s = leaf({}), v = leaf({4}), w = leaf({4}), m = leaf({3, 4}), n = leaf({4, 3});
const Tensor square4 = leaf({4, 4}), a3 = leaf({2, 3, 4}), b3 = leaf({2, 4, 3});
const Tensor wide = leaf({1, 3, 1}), bias3 = leaf({3});
const Tensor x3 = leaf({2, 2, 6}), x4 = leaf({2, 2, 6, 6}), x6 = leaf({1, 2, 5, 7});
const Tensor c = leaf({2}), chan = leaf({2});
const Tensor mask = tensor({true, false, true, false}).expand({3, 4});
const Tensor indices = tensor({0, 2}), places = tensor({0, 1, 2, 0}).view({1, 4});
const Tensor classes = tensor({1, 0, 3}), p34 = full({3, 4}, 0.25);
const Tensor pixels = zeros({2, 6, 6}, {DType::kInt64}), segments = zeros({2, 4}, {DType::kInt64});

Tensor fresh() { return m * 1; }

Tensors list(const Tensor& t) { return {t}; }
Tensors list(const ValuesAndIndices& t) { return {t.values, t.indices}; }
Tensors list(const Tensors& t) { return t; }

using Calls = std::map<std::string, Results>;

#define CALL(name, ...) calls[name] = [] { return list(__VA_ARGS__); };
#define OF_M(op) CALL(#op, op(m))
#define MEMBER(op) CALL(#op, m.op())
#define WITH_V(op) CALL(#op, op(m, v))
#define WRITE(op) CALL(#op, fresh().op())

void add_pointwise(Calls& calls) {
  OF_M(neg)
  OF_M(abs)
  OF_M(sign)
  OF_M(exp)
  OF_M(log)
  OF_M(sqrt)
  OF_M(reciprocal)
  OF_M(sin)
  OF_M(cos)
  OF_M(tanh)
  OF_M(sigmoid)
  OF_M(relu)
  OF_M(rsqrt)
  OF_M(log1p)
  OF_M(expm1)
  OF_M(tan)
  OF_M(erf)
  OF_M(atan)
  OF_M(square)
  OF_M(isnan)
  OF_M(isinf)
  OF_M(isfinite)
  OF_M(logical_not)
  OF_M(silu)
  OF_M(gelu)
  OF_M(softplus)
  OF_M(leaky_relu)
  OF_M(elu)
  OF_M(hardtanh)
  CALL("gelu.tanh", gelu(m, "tanh"))
  CALL("clamp", clamp(m, 0.3, 0.6))
  CALL("clamp.tensors", clamp(m, v.detach(), w.detach() + 1))
  CALL("clamp.low", clamp(m, v.detach(), Tensor()))
  CALL("clamp_min", clamp_min(m, 0.3))
  CALL("clamp_max", clamp_max(m, 0.3))
  CALL("pow.number", pow(m, 3))
  CALL("pow.tensor", pow(m, m))
  CALL("pow.base", pow(2.0, m))
  WITH_V(add)
  CALL("add.number", m + 1)
  CALL("add.alpha", m.add(v, 2))
  WITH_V(sub)
  CALL("sub.number", m - 1)
  CALL("sub.number_first", 1 - m)
  CALL("sub.alpha", m.sub(v, 2))
  WITH_V(mul)
  CALL("mul.number", 2 * m)
  WITH_V(div)
  CALL("div.number", m / 2)
  CALL("div.number_first", 2 / m)
  WITH_V(maximum)
  WITH_V(minimum)
  CALL("max.tensors", max(m, v))
  CALL("min.tensors", min(m, v))
  WITH_V(eq)
  WITH_V(ne)
  WITH_V(lt)
  WITH_V(le)
  WITH_V(gt)
  WITH_V(ge)
  WITH_V(logical_and)
  WITH_V(logical_or)
  CALL("where", where(mask, m, v))
  CALL("sum_to_size", sum_to_size(m, {1, 4}))
  CALL("sum_to_size.fewer_dims", sum_to_size(m, {4}))
  CALL("masked_fill", masked_fill(m, mask, 0))
  CALL("masked_fill.tensor", masked_fill(m, mask, s))
}

void add_writes(Calls& calls) {
  WRITE(neg_)
  WRITE(abs_)
  WRITE(exp_)
  WRITE(log_)
  WRITE(sqrt_)
  WRITE(rsqrt_)
  WRITE(reciprocal_)
  WRITE(sin_)
  WRITE(cos_)
  WRITE(tanh_)
  WRITE(sigmoid_)
  WRITE(relu_)
  WRITE(zero_)
  WRITE(uniform_)
  WRITE(normal_)
  CALL("clamp_", fresh().clamp_(0.3, 0.6))
  CALL("pow_", fresh().pow_(2))
  CALL("fill_", fresh().fill_(1))
  CALL("fill_.zero", fresh().fill_(0))
  CALL("copy_", fresh().copy_(v))
  CALL("add_", fresh().add_(v))
  CALL("add_.number", fresh().add_(1))
  CALL("sub_", fresh().sub_(v))
  CALL("sub_.alpha", fresh().sub_(v, 2))
  CALL("sub_.number", fresh().sub_(1))
  CALL("mul_", fresh().mul_(v))
  CALL("mul_.number", fresh().mul_(2))
  CALL("div_", fresh().div_(v))
  CALL("div_.number", fresh().div_(2))
  CALL("masked_fill_", fresh().masked_fill_(mask, 0))
  CALL("masked_fill_.tensor", fresh().masked_fill_(mask, s))
  CALL("leaky_relu_", leaky_relu_(fresh(), 0.01))
  CALL("elu_", elu_(fresh(), 1))
  CALL("hardtanh_", hardtanh_(fresh(), -1, 1))
  CALL("silu_", silu_(fresh()))
  CALL("index_put_", fresh().index_put_({indices}, v.detach()))
}

void add_reductions(Calls& calls) {
  OF_M(nonzero)
  OF_M(all)
  OF_M(any)
  CALL("all.dim", all(m, 1))
  CALL("any.dim", any(m, 1))
  OF_M(sum)
  OF_M(mean)
  OF_M(max)
  OF_M(min)
  OF_M(argmax)
  OF_M(argmin)
  OF_M(norm)
  OF_M(std)
  OF_M(var)
  OF_M(prod)
  CALL("sum.dim", m.sum({1}))
  CALL("mean.dim", m.mean({1}))
  CALL("max.dim", max(m, 1))
  CALL("min.dim", min(m, 1))
  CALL("argmax.dim", argmax(m, 1))
  CALL("argmin.dim", argmin(m, 1))
  CALL("norm.p", norm(m, 3))
  CALL("norm.dim", norm(m, 2, {1}))
  CALL("var.dim", var(m, {1}))
  CALL("std.dim", std(m, {1}))
  CALL("logsumexp", logsumexp(m, {1}))
  CALL("prod.dim", prod(m, 1))
  CALL("cumsum", cumsum(m, 1))
  CALL("sort", sort(m, 1))
  CALL("argsort", argsort(m, 1))
  CALL("topk", topk(m, 2))
  CALL("softmax", softmax(m, 1))
  CALL("log_softmax", log_softmax(m, 1))
}

void add_shapes(Calls& calls) {
  MEMBER(clone)
  MEMBER(contiguous)
  MEMBER(detach)
  MEMBER(t)
  MEMBER(squeeze)
  MEMBER(flatten)
  CALL("flatten.vector", flatten(v))
  CALL("flatten.number", flatten(s))
  CALL("flatten.copy", flatten(m.t()))
  CALL("flatten.one_dim", flatten(a3, 1, 1))
  CALL("view", m.view({4, 3}))
  CALL("view.same", m.view({3, 4}))
  CALL("view_as", m.view_as(n))
  CALL("reshape", m.reshape({2, 6}))
  CALL("reshape.same", m.reshape({3, 4}))
  CALL("reshape.copy", m.t().reshape({2, 6}))
  CALL("t.vector", v.t())
  CALL("t.number", s.t())
  CALL("transpose", m.transpose(0, 1))
  CALL("transpose.same", m.transpose(1, 1))
  CALL("transpose.number", s.transpose(0, 0))
  CALL("permute", m.permute({1, 0}))
  CALL("movedim", movedim(m, {0}, {1}))
  CALL("squeeze.dim", wide.squeeze(0))
  CALL("squeeze.other_dim", m.squeeze(0))
  CALL("unsqueeze", m.unsqueeze(0))
  CALL("expand", m.expand({2, 3, 4}))
  CALL("expand.same", m.expand({3, 4}))
  CALL("expand_as", v.expand_as(m))
  CALL("select", m.select(0, 1))
  CALL("select.bracket", m[1])
  CALL("narrow", m.narrow(0, 1, 1))
  CALL("narrow.whole", m.narrow(0, 0, 3))
  CALL("slice", m.slice(0, 0, 3, 2))
  CALL("split", split(m, 2))
  CALL("split.sizes", split(m, {1, 2}))
  CALL("chunk", chunk(m, 2))
  CALL("unbind", unbind(m))
  CALL("contiguous.copy", m.t().contiguous())
  CALL("to", m.to(DType::kFloat64))
  CALL("to.same", m.to(DType::kFloat32))
  CALL("to.device", m.to(Device{}))
  CALL("cat", cat({m, m}))
  CALL("stack", stack({m, m}))
  CALL("repeat", repeat(m, {2, 1}))
  CALL("flip", flip(m, {0}))
  CALL("flip.zero_dim", flip(s, {0}))
  CALL("tril", tril(m))
  CALL("triu", triu(m))
}

void add_indexing(Calls& calls) {
  CALL("index", index(m, {indices}))
  CALL("index.rows_columns", index(m, {indices, indices}))
  CALL("index.middle", index(a3, {{}, indices}))
  CALL("index.last", index(a3, {{}, {}, indices}))
  CALL("index.place", index(m, {tensor(1)}))
  CALL("index.places", index(m, {indices, tensor(1)}))
  CALL("index.mask", index(m, {mask}))
  CALL("index_select", index_select(m, 0, indices))
  CALL("index_add", index_add(m, 0, indices, p34.narrow(0, 0, 2)))
  CALL("index_put", index_put(m, {indices}, v.detach()))
  CALL("gather", gather(m, 0, places))
  CALL("gather.zero_dim", gather(s, 0, tensor({0})))
  CALL("scatter_add", scatter_add(m, 0, places, p34.narrow(0, 0, 1)))
  CALL("masked_select", masked_select(m, mask))
  CALL("embedding", embedding(indices, m))
  CALL("one_hot", one_hot(indices))
}

void add_products(Calls& calls) {
  CALL("matmul", matmul(m, n))
  CALL("matmul.vectors", matmul(v, w))
  CALL("matmul.vector_matrix", matmul(v, n))
  CALL("matmul.matrix_vector", matmul(m, v))
  CALL("matmul.batch_vector", matmul(a3, v))
  CALL("matmul.batch_matrix", matmul(a3, n))
  CALL("matmul.batches", matmul(a3, b3))
  CALL("matmul.broadcast", matmul(a3.unsqueeze(0), b3))
  CALL("mm", mm(m, n))
  CALL("dot", dot(v, w))
  CALL("mv", mv(m, v))
  CALL("bmm", bmm(a3, b3))
  CALL("addmm", addmm(square4.narrow(0, 0, 3).narrow(1, 0, 3), m, n))
  CALL("outer", outer(v, w))
  CALL("linear", linear(m, m, bias3))
  CALL("linear.no_bias", linear(m, m))
  CALL("linear.row_weight", linear(m, v))
  CALL("linear.vector", linear(v, m))
  CALL("linear.vector_bias", linear(v, m, bias3))
  CALL("linear.batch", linear(a3, m, bias3))
  CALL("linear.batch_no_bias", linear(a3, m))
}

void add_layers(Calls& calls) {
  CALL("conv1d", conv1d(x3, leaf({2, 2, 3}), c))
  CALL("conv2d", conv2d(x4, leaf({2, 2, 3, 3}), c))
  CALL("conv_transpose2d", conv_transpose2d(x4, leaf({2, 2, 3, 3}), c))
  CALL("max_pool2d", max_pool2d(x4, 2))
  CALL("max_pool2d.unbatched", max_pool2d(a3, 2))
  CALL("avg_pool2d", avg_pool2d(x4, 2))
  CALL("avg_pool2d.unbatched", avg_pool2d(a3, 2))
  CALL("adaptive_avg_pool2d", adaptive_avg_pool2d(x4, 2, 2))
  CALL("adaptive_avg_pool2d.uneven", adaptive_avg_pool2d(x6, 2, 3))
  CALL("adaptive_avg_pool2d.one", adaptive_avg_pool2d(x4, 1, 1))
  CALL("adaptive_max_pool2d", adaptive_max_pool2d(x4, 2, 2))
  CALL("adaptive_max_pool2d.uneven", adaptive_max_pool2d(x6, 2, 3))
  CALL("batch_norm", batch_norm(x4, {}, {}, c, chan, {.training = true}))
  CALL("layer_norm", layer_norm(m, {4}, v, w))
  CALL("group_norm", group_norm(x4, 2, c, chan))
  CALL("dropout", dropout(m, 0.5, true))
  CALL("dropout.eval", dropout(m, 0.5, false))
}

void add_losses(Calls& calls) {
  constexpr auto kNone = Reduction::kNone;
  CALL("mse_loss", mse_loss(m, p34))
  CALL("mse_loss.none", mse_loss(m, p34, kNone))
  CALL("l1_loss", l1_loss(m, p34))
  CALL("l1_loss.none", l1_loss(m, p34, kNone))
  CALL("smooth_l1_loss", smooth_l1_loss(m, p34))
  CALL("smooth_l1_loss.beta_0", smooth_l1_loss(m, p34, Reduction::kMean, 0))
  CALL("binary_cross_entropy", binary_cross_entropy(m, p34))
  CALL("binary_cross_entropy.weight", binary_cross_entropy(m, p34, p34))
  CALL("binary_cross_entropy_with_logits", binary_cross_entropy_with_logits(m, p34))
  CALL("binary_cross_entropy_with_logits.none",
       binary_cross_entropy_with_logits(m, p34, {}, {}, kNone))
  CALL("binary_cross_entropy_with_logits.weights",
       binary_cross_entropy_with_logits(m, p34, p34, p34))
  CALL("kl_div", kl_div(m, p34))
  CALL("kl_div.batchmean", kl_div(m, p34, Reduction::kBatchMean))
  CALL("nll_loss", nll_loss(m, classes))
  CALL("nll_loss.none", nll_loss(m, classes, kNone))
  CALL("nll_loss.one", nll_loss(v, tensor(1)))
  CALL("nll_loss.one_none", nll_loss(v, tensor(1), kNone))
  CALL("nll_loss.segments", nll_loss(b3.transpose(1, 2), segments))
  CALL("nll_loss.segments_none", nll_loss(b3.transpose(1, 2), segments, kNone))
  CALL("nll_loss.image", nll_loss(x4, pixels))
  CALL("nll_loss.image_none", nll_loss(x4, pixels, kNone))
  CALL("cross_entropy", cross_entropy(m, classes))
  CALL("cross_entropy.none", cross_entropy(m, classes, kNone))
  CALL("cross_entropy.smoothing", cross_entropy(m, classes, {.label_smoothing = 0.1}))
  CALL("cross_entropy.image", cross_entropy(x4, pixels))
  CALL("cross_entropy.probabilities", cross_entropy(m, p34))
  CALL("cross_entropy.probabilities_none", cross_entropy(m, p34, kNone))
}

const Calls& all_calls() {
  static const Calls kCalls = [] {
    Calls calls;
    add_pointwise(calls);
    add_writes(calls);
    add_reductions(calls);
    add_shapes(calls);
    add_indexing(calls);
    add_products(calls);
    add_layers(calls);
    add_losses(calls);
    return calls;
  }();
  return kCalls;
}

// As the script writes it.
std::string name_of(const Tensors& outputs) {
  for (const Tensor& x : {s, v, m, a3}) {
    if (outputs[0].is_same(x)) return "itself";
  }
  for (const Tensor& y : outputs) {
    if (y.grad_fn()) return std::string(y.grad_fn()->name());
  }
  return "null";
}

TEST(NodeNames, ArePyTorchs) {
  const nlohmann::json golden = golden::read("node_names.json");
  std::set<std::string> known;
  for (const auto& [key, name] : golden.items()) {
    known.insert(key);
    const auto call = all_calls().find(key);
    if (call == all_calls().end()) {
      ADD_FAILURE() << "no call for " << key;
      continue;
    }
    EXPECT_EQ(name_of(call->second()), name.is_null() ? "null" : name.get<std::string>()) << key;
  }
  for (const auto& [key, call] : all_calls()) {
    EXPECT_TRUE(known.count(key)) << key << " has no golden name";
  }
}

TEST(NodeNames, CoverEveryOp) {
  std::set<std::string> missing = declared_functions(LOCKSTEP_SOURCE_DIR "/engine");
  EXPECT_GT(missing.size(), 120u);
  for (const auto& [key, call] : all_calls()) missing.erase(key.substr(0, key.find('.')));
  // No results of ops, or the tensor itself.
  for (const char* name : {"grad", "data_tensor", "requires_grad_", "detach_"}) missing.erase(name);
  // Ends with whatever op the equation or the arguments ask for; rms_norm is not in PyTorch 1.13,
  // and what is like linear_gelu there has no derivative.
  for (const char* name : {"einsum", "scaled_dot_product_attention", "rms_norm", "linear_gelu"}) {
    missing.erase(name);
  }
  missing.erase("scatter_to_zeros");  // a part of others
  EXPECT_EQ(missing, std::set<std::string>{}) << "ops without a name in the table";
}

// As PyTorch makes it of an op's name: log1p has Log1PBackward0.
std::string usual_name(const std::string& op) {
  std::string name;
  bool starts = true;
  for (const char c : op) {
    const bool letter = std::isalpha(static_cast<unsigned char>(c)) != 0;
    if (c != '_') {
      name += starts && letter ? static_cast<char>(std::toupper(static_cast<unsigned char>(c))) : c;
    }
    starts = !letter;
  }
  return name + "Backward0";
}

// So that a new pointwise op needs no row above: those of the list that have none, derivatives and
// whatever came last, are named in the usual way.
TEST(NodeNames, OfPointwiseOpsWithoutARowAreTheUsualOnes) {
  EXPECT_EQ(usual_name("log1p"), "Log1PBackward0");
  EXPECT_EQ(usual_name("leaky_relu"), "LeakyReluBackward0");
  Calls calls;
#define CALL_Unary(op) CALL(#op, op(m))
#define CALL_Unary1(op) CALL(#op, op(m, 0.7))
#define CALL_Unary2(op) CALL(#op, op(m, 0.3, 1.1))
#define CALL_Binary(op) CALL(#op, op(m, v))
#define CALL_Binary1(op) CALL(#op, op(m, v, 0.7))
#define CALL_Binary2(op) CALL(#op, op(m, v, 0.3, 1.1))
#define CALL_Compare(op)
#define CALL_Where(op)
#define LOCKSTEP_OP(op, arity, ...) CALL_##arity(op)
  LOCKSTEP_POINTWISE_OPS(LOCKSTEP_OP)
#undef LOCKSTEP_OP
  // The parts of add, pow and gelu.
  for (const char* name : {"add_scaled", "pow_scalar", "pow_tensor", "gelu_erf", "gelu_tanh",
                           "gelu_erf_backward", "gelu_tanh_backward"}) {
    EXPECT_EQ(calls.erase(name), 1u) << name;
  }
  for (const auto& [op, call] : calls) {
    if (!all_calls().count(op)) {
      EXPECT_EQ(name_of(call()), usual_name(op));
    }
  }
}

}  // namespace
}  // namespace lockstep::testing
