// Rows for the ops beyond the first set: activations, joining, indexing, sorting, statistics,
// normalisation, attention, losses, einsum. Their values are checked against PyTorch's in
// op_set_golden_test.cc, so most rows have no reference of their own.
#include <cmath>

#include "lockstep/engine/ops/ops.h"
#include "lockstep/engine/tensor/random.h"

#include "engine/op_case_groups.h"

namespace lockstep::testing {
namespace {

using Tensors = std::vector<Tensor>;

constexpr Layout kDense = Layout::kDense, kTransposed = Layout::kTransposed,
                 kStrided = Layout::kStrided, kExpanded = Layout::kExpanded;

// Whole numbers of [0, count).
Input indices(const Dims& sizes, int64_t count) {
  return {sizes, kDense, 0, static_cast<double>(count) - 0.01, false, DType::kInt64};
}

Input mask(const Dims& sizes) { return {sizes, kDense, 0, 2, false, DType::kBool}; }

Input between(const Dims& sizes, double low, double high, Layout layout = kDense) {
  return {sizes, layout, low, high};
}

class Rows {
 public:
  explicit Rows(std::vector<OpCase>& cases) : cases_(cases) {}
  void add(const char* op, const char* variant, const std::vector<Input>& inputs,
           const Function& function, const Reference& reference = {}) {
    cases_.push_back({op, variant, inputs, function, reference});
  }
  void add_integer(const char* op, const char* variant, const std::vector<Input>& inputs,
                   const Function& function) {
    cases_.push_back({op, variant, inputs, function, {}, false});
  }
  // One argument in every layout.
  void layouts(const char* op, const Function& function, double low = -2, double high = 2) {
    add(op, "matrix", {between({3, 4}, low, high)}, function);
    add(op, "transposed", {between({3, 4}, low, high, kTransposed)}, function);
    add(op, "strided", {between({2, 3}, low, high, kStrided)}, function);
    add(op, "expanded", {between({3, 2}, low, high, kExpanded)}, function);
  }

 private:
  std::vector<OpCase>& cases_;
};

using Arrays = std::vector<Array>;

// The element `index` of x[0], but that of x[2] (or `value`) where the mask x[1] is true there.
Reference filled(const std::function<Dims(const Dims&)>& in_mask, double value) {
  return [=](const Arrays& x) {
    return build(x[0].sizes, [&](const Dims& index) {
      if (x[1].at(in_mask(index)) == 0) return x[0].at(index);
      return x.size() > 2 ? x[2].values[0] : value;
    });
  };
}

#define ROW(...) [](const Tensors& x) -> Tensor { return __VA_ARGS__; }

void add_activations(Rows& rows) {
  rows.layouts("gelu", ROW(gelu(x[0], "tanh")));
  rows.add("pow", "tensors", {between({3, 1}, 0.25, 2), {{4}}}, ROW(pow(x[0], x[1])));
  rows.add("pow", "number_base", {{{3, 4}, kTransposed}}, ROW(pow(1.5, x[0])));
  rows.add("masked_fill", "matrix", {{{3, 4}}, mask({3, 4})}, ROW(masked_fill(x[0], x[1], 2.5)));
  rows.add("masked_fill", "broadcast", {{{3, 1}, kStrided}, mask({2, 1, 4})},
           ROW(masked_fill(x[0], x[1], -1)));
  rows.add("masked_fill", "tensor", {{{3, 4}}, mask({4}), {{}}},
           ROW(masked_fill(x[0], x[1], x[2])));
  rows.add("masked_fill_", "number", {{{3, 4}}, mask({4})},
           ROW(x[0].clone().masked_fill_(x[1], 2.5)),
           filled([](const Dims& index) { return Dims{index[1]}; }, 2.5));
  rows.add(
      "masked_fill_", "view", {{{3, 4}}, mask({3}), {{}}},
      [](const Tensors& x) {
        const Tensor y = x[0].clone();
        y.t().masked_fill_(x[1], x[2]);
        return y;
      },
      filled([](const Dims& index) { return Dims{index[0]}; }, 0));
  rows.add("max", "tensors", {{{3, 1}}, {{4}, kStrided}}, ROW(max(x[0], x[1])));
  rows.add("min", "tensors", {{{3, 1}}, {{4}, kStrided}}, ROW(min(x[0], x[1])));
  rows.layouts("clamp_min", ROW(clamp_min(x[0], 0.25)));
  rows.layouts("clamp_max", ROW(clamp_max(x[0], 0.25)));
  rows.add("clamp", "tensors", {{{3, 4}, kTransposed}, between({4}, -2, -0.5), between({}, 0.5, 1)},
           ROW(clamp(x[0], x[1], x[2])));
  rows.add("clamp", "crossed", {{{3, 4}}, between({4}, 0.5, 2), between({3, 1}, -1, 1)},
           ROW(clamp(x[0], x[1], x[2])));
  rows.add_integer("logical_not", "matrix", {mask({3, 4})}, ROW(logical_not(x[0])));
}

void add_joining(Rows& rows) {
  rows.add("cat", "rows", {{{2, 3}}, {{1, 3}, kExpanded}, {{2, 3}, kTransposed}},
           ROW(cat({x[0], x[1], x[2]}, 0)));
  rows.add("cat", "last", {{{2, 3}}, {{2, 2}, kStrided}}, ROW(cat({x[0], x[1]}, -1)));
  rows.add("cat", "twice_the_same", {{{2, 2}}}, ROW(cat({x[0], x[0]}, 1)));
  rows.add("cat", "empty", {{{0, 3}}, {{0, 3}}}, ROW(cat({x[0], x[1]}, 0)));
  rows.add("stack", "first", {{{2, 3}}, {{2, 3}, kTransposed}}, ROW(stack({x[0], x[1]})));
  rows.add("stack", "last", {{{2, 3}}, {{2, 3}}}, ROW(stack({x[0], x[1]}, -1)));
  rows.add("stack", "scalars", {{{}}, {{}}}, ROW(stack({x[0], x[1]})));
  rows.layouts("split", ROW(split(x[0], 2, 0)[0]));
  rows.layouts("unbind", ROW(unbind(x[0], 1)[1]));
  rows.add("split", "used_twice", {{{5, 2}}}, [](const Tensors& x) {
    const auto parts = split(x[0], Dims{2, 1, 2});
    return mul(parts[0], parts[2]);
  });
  rows.add("unbind", "all", {{{3, 2}, kTransposed}}, [](const Tensors& x) {
    const auto parts = unbind(x[0]);
    return mul(parts[0], mul(parts[1], parts[2]));
  });
  rows.add("movedim", "two", {{{2, 3, 2}}}, ROW(movedim(x[0], {0, 2}, {1, 0})));
  rows.layouts("chunk", ROW(chunk(x[0], 2, 1)[1]));
  rows.layouts("repeat", ROW(repeat(x[0], {2, 1, 3})));
  rows.layouts("flip", ROW(flip(x[0], {0, 1})));
}

void add_indexing(Rows& rows) {
  rows.add("gather", "rows", {{{3, 4}}, indices({2, 4}, 3)}, ROW(gather(x[0], 0, x[1])));
  rows.add("gather", "last", {{{3, 4}, kTransposed}, indices({2, 5}, 4)},
           ROW(gather(x[0], -1, x[1])));
  rows.add("gather", "middle", {{{2, 3, 2}}, indices({2, 4, 1}, 3)}, ROW(gather(x[0], 1, x[1])));
  rows.add("gather", "large", {{{50, 400}}, indices({50, 300}, 400)}, ROW(gather(x[0], 1, x[1])));
  rows.add("scatter_add", "rows", {{{3, 4}}, indices({2, 4}, 3), {{2, 4}}},
           ROW(scatter_add(x[0], 0, x[1], x[2])));
  rows.add("scatter_add", "smaller_index",
           {{{3, 4}, kStrided}, indices({2, 3}, 4), {{3, 3}, kTransposed}},
           ROW(scatter_add(x[0], 1, x[1], x[2])));
  rows.add("scatter_to_zeros", "rows", {{{2, 4}}, indices({2, 4}, 3)},
           ROW(scatter_to_zeros(x[0], {3, 4}, 0, x[1])), [](const Arrays& x) {
             Array y(Dims{3, 4});
             for (int64_t i = 0; i < 2; ++i) {
               for (int64_t j = 0; j < 4; ++j) {
                 y.at({static_cast<int64_t>(x[1].at({i, j})), j}) += x[0].at({i, j});
               }
             }
             return y;
           });
  rows.add("index_add", "rows", {{{3, 2}}, indices({4}, 3), {{4, 2}}},
           ROW(index_add(x[0], 0, x[1], x[2])));
  rows.add("index_add", "middle", {{{2, 3, 2}}, indices({2}, 3), {{2, 2, 2}, kTransposed}},
           ROW(index_add(x[0], 1, x[1], x[2])));
  rows.add("index", "rows", {{{3, 2}}, indices({2, 2}, 3)}, ROW(index(x[0], {x[1]})));
  rows.add("index", "pairs", {{{3, 4}, kTransposed}, indices({5}, 3), indices({2, 1}, 4)},
           ROW(index(x[0], {x[1], x[2]})));
  rows.add("index", "apart", {{{3, 2, 4}}, indices({2}, 3), indices({2}, 4)},
           ROW(index(x[0], {x[1], Tensor(), x[2]})));
  rows.add("index", "second", {{{2, 4, 2}}, indices({3}, 4)}, ROW(index(x[0], {Tensor(), x[1]})));
  rows.add("index", "mask", {{{3, 4}, kStrided}, mask({3, 4})}, ROW(index(x[0], {x[1]})));
  rows.add("index", "row_mask", {{{4, 2}}, mask({4})}, ROW(index(x[0], {x[1]})));
  rows.add("index_put", "rows", {{{3, 2}, kStrided}, {{2}}},
           ROW(index_put(x[0], {tensor({2, 0})}, x[1])));
  rows.add("index_put", "accumulate", {{{3, 2}, kTransposed}, indices({2, 2}, 3), {{2, 1, 2}}},
           ROW(index_put(x[0], {x[1]}, x[2], true)));
  rows.add("index_put_", "mask", {{{3, 4}}, mask({3, 4}), {{}}},
           ROW(x[0].clone().index_put_({x[1]}, x[2])),
           filled([](const Dims& index) { return index; }, 0));
  rows.add(
      "index_put_", "view", {{{3, 4}}, {{2}}},
      [](const Tensors& x) {
        const Tensor y = x[0].clone();
        y.t().index_put_({tensor({1, 3}), tensor({0, 2})}, x[1]);
        return y;
      },
      [](const Arrays& x) {
        Array y = x[0];
        y.at({0, 1}) = x[1].at({0});
        y.at({2, 3}) = x[1].at({1});
        return y;
      });
  rows.add("index_put_", "accumulate", {{{3, 2}}, indices({4}, 3), {{4, 2}}},
           ROW(x[0].clone().index_put_({x[1]}, x[2], true)), [](const Arrays& x) {
             Array y = x[0];
             for (int64_t i = 0; i < 4; ++i) {
               for (int64_t j = 0; j < 2; ++j) {
                 y.at({static_cast<int64_t>(x[1].at({i})), j}) += x[2].at({i, j});
               }
             }
             return y;
           });
  rows.add("masked_select", "matrix", {{{3, 4}, kTransposed}, mask({3, 4})},
           ROW(masked_select(x[0], x[1])));
  rows.add("masked_select", "broadcast", {{{3, 1}}, mask({4})}, ROW(masked_select(x[0], x[1])));
  for (const char* op : {"isnan", "isinf", "isfinite", "all", "any"}) {
    const std::string name = op;
    rows.add_integer(op, "matrix", {{{3, 4}, kTransposed}}, [name](const Tensors& x) {
      const Tensor t = masked_fill(x[0], gt(x[0], 1), INFINITY);
      const Tensor y = masked_fill(t, lt(x[0], -1), NAN);
      return name == "isnan"      ? isnan(y)
             : name == "isinf"    ? isinf(y)
             : name == "isfinite" ? isfinite(y)
             : name == "all"      ? all(isfinite(y), 1)
                                  : any(isinf(y), 0, true);
    });
  }
  rows.add_integer("nonzero", "mask", {mask({2, 3, 2})}, ROW(nonzero(x[0])));
  rows.add("embedding", "matrix", {indices({2, 3}, 4), {{4, 2}}}, ROW(embedding(x[0], x[1])));
  rows.add("embedding", "one", {indices({}, 4), {{4, 2}, kTransposed}}, ROW(embedding(x[0], x[1])));
  rows.add_integer("one_hot", "matrix", {indices({2, 3}, 4)}, ROW(one_hot(x[0], 5)));
  rows.layouts("tril", ROW(tril(x[0], -1)));
  rows.layouts("triu", ROW(triu(x[0], 1)));
}

void add_sorting(Rows& rows) {
  // Named for the table: max and min over all elements have rows elsewhere.
  rows.layouts("max", ROW(max(x[0], 1).values));
  rows.layouts("min", ROW(min(x[0], -1, true).values));
  rows.add_integer("argmax", "all", {{{3, 4}}}, ROW(argmax(x[0])));
  rows.add_integer("argmin", "all", {{{3, 4}}}, ROW(argmin(x[0])));
  rows.add_integer("argmin", "columns", {{{3, 4}, kTransposed}}, ROW(argmin(x[0], 1)));
  rows.layouts("sort", ROW(sort(x[0], 1, true).values));
  rows.add_integer("argsort", "rows", {{{3, 4}, kTransposed}}, ROW(argsort(x[0], 1)));
  rows.add("max", "rows", {{{3, 4}}}, ROW(max(x[0], 0).values));
  rows.add("sort", "columns", {{{3, 4}, kStrided}}, ROW(sort(x[0], 0).values));
  rows.add("sort", "large", {{{3, 5000}}}, ROW(sort(x[0]).values));
  rows.layouts("topk", ROW(topk(x[0], 2).values));
  rows.add("topk", "smallest", {{{4, 3}}}, ROW(topk(x[0], 3, 0, false).values));
}

void add_statistics(Rows& rows) {
  rows.layouts("prod", ROW(prod(x[0])));
  rows.add("prod", "rows", {{{3, 4}}}, ROW(prod(x[0], 1, true)));
  rows.add("prod", "middle", {{{2, 5, 2}}}, ROW(prod(x[0], 1)));
  rows.layouts("cumsum", ROW(cumsum(x[0], 0)));
  rows.add("cumsum", "large", {{{7, 3000}}}, ROW(cumsum(x[0], 1)));
  rows.layouts("var", ROW(var(x[0], {1})));
  rows.add("var", "all", {{{3, 4}}}, ROW(var(x[0])));
  rows.layouts("std", ROW(std(x[0], {1}, 0, true)), 0.5, 2);
  rows.add("std", "all", {{{3, 4}}}, ROW(std(x[0])));
  rows.layouts("logsumexp", ROW(logsumexp(x[0], {1})), -9, 9);
  rows.add("logsumexp", "all", {{{3, 4}}}, ROW(logsumexp(x[0], {0, 1}, true)));
  rows.layouts("norm", ROW(norm(x[0], 3, {1})));
  rows.add("norm", "one", {{{3, 4}}}, ROW(norm(x[0], 1)));
  rows.add("norm", "two", {{{3, 4}}}, ROW(norm(x[0], 2, {0}, true)));
  rows.add("norm", "infinite", {{{3, 4}}}, ROW(norm(x[0], INFINITY, {0})));
  const auto inner = [](const Arrays& x, const Dims& row) {
    double total = 0;
    for (int64_t k = 0; k < x[1].numel(); ++k) {
      Dims at = row;
      at.push_back(k);
      total += x[0].at(at) * x[1].at({k});
    }
    return total;
  };
  rows.add("dot", "vectors", {{{3}}, {{3}, kStrided}}, ROW(dot(x[0], x[1])),
           [=](const Arrays& x) { return build({}, [&](const Dims&) { return inner(x, {}); }); });
  rows.add("mv", "transposed", {{{2, 3}, kTransposed}, {{3}, kStrided}}, ROW(mv(x[0], x[1])),
           [=](const Arrays& x) {
             return build({2}, [&](const Dims& index) { return inner(x, index); });
           });
  rows.add("outer", "vectors", {{{3}}, {{4}, kStrided}}, ROW(outer(x[0], x[1])));
  rows.add("addmm", "vector", {{{4}}, {{2, 3}, kTransposed}, {{3, 4}}},
           ROW(addmm(x[0], x[1], x[2])));
  rows.add("addmm", "scaled", {{{2, 4}}, {{2, 3}}, {{3, 4}, kTransposed}},
           ROW(addmm(x[0], x[1], x[2], 0.5, -2)));
  rows.add("einsum", "product", {{{2, 3}}, {{3, 4}, kTransposed}},
           ROW(einsum("ij,jk->ik", {x[0], x[1]})));
  rows.add("einsum", "trace", {{{3, 3}, kStrided}}, ROW(einsum("ii", {x[0]})));
  rows.add("einsum", "batched", {{{2, 2, 3}}, {{2, 3}}}, ROW(einsum("bij,bj->bi", {x[0], x[1]})));
  rows.add("einsum", "chain", {{{2, 3}}, {{3, 2}}, {{2}}},
           ROW(einsum("ij,jk,k->i", {x[0], x[1], x[2]})));
}

void add_layers(Rows& rows) {
  rows.layouts("layer_norm", ROW(layer_norm(x[0], {x[0].size(-1)})));
  rows.add("layer_norm", "affine", {{{3, 4}}, {{4}}, {{4}}},
           ROW(layer_norm(x[0], {4}, x[1], x[2])));
  rows.add("layer_norm", "large", {{{64, 96}}, {{96}}, {{96}}},
           ROW(layer_norm(x[0], {96}, x[1], x[2])));
  rows.add("group_norm", "affine", {{{2, 4, 3}}, {{4}}, {{4}}},
           ROW(group_norm(x[0], 2, x[1], x[2])));
  rows.add("group_norm", "images", {{{1, 4, 2, 2}, Layout::kChannelsLast}},
           ROW(group_norm(x[0], 2)));
  rows.layouts("rms_norm", ROW(rms_norm(x[0], {x[0].size(-1)})), 0.5, 2);
  rows.add("rms_norm", "weight", {{{3, 4}}, {{4}}}, ROW(rms_norm(x[0], {4}, x[1], 1e-6)));
  rows.add("scaled_dot_product_attention", "plain", {{{2, 3, 2}}, {{2, 4, 2}}, {{2, 4, 1}}},
           ROW(scaled_dot_product_attention(x[0], x[1], x[2])));
  rows.add("scaled_dot_product_attention", "causal", {{{3, 2}}, {{3, 2}, kTransposed}, {{3, 2}}},
           ROW(scaled_dot_product_attention(x[0], x[1], x[2], {.causal = true})));
  rows.add("scaled_dot_product_attention", "biased", {{{3, 2}}, {{4, 2}}, {{4, 2}}, {{3, 4}}},
           ROW(scaled_dot_product_attention(x[0], x[1], x[2], {.mask = x[3], .scale = 0.3})));
  rows.add("scaled_dot_product_attention", "dropout", {{{3, 2}}, {{4, 2}}, {{4, 2}}},
           [](const Tensors& x) {
             manual_seed(7);  // the same mask at every call, and in every dtype
             const auto wide = [&](size_t k) { return x[k].to(DType::kFloat64); };
             return scaled_dot_product_attention(wide(0), wide(1), wide(2), {.dropout = 0.5})
                 .to(x[0].dtype());
           });
  rows.add("conv1d", "unbatched", {{{2, 5}}, {{2, 2, 3}}, {{2}}}, ROW(conv1d(x[0], x[1], x[2])));
  rows.add("conv2d", "unbatched", {{{2, 3, 3}}, {{2, 2, 2, 2}}, {{2}}},
           ROW(conv2d(x[0], x[1], x[2])));
  rows.add("conv_transpose2d", "unbatched", {{{2, 2, 2}}, {{2, 1, 2, 2}}},
           ROW(conv_transpose2d(x[0], x[1])));
  rows.add("max_pool2d", "unbatched", {{{2, 4, 4}}}, ROW(max_pool2d(x[0], 2)));
  rows.add("avg_pool2d", "unbatched", {{{2, 4, 4}}}, ROW(avg_pool2d(x[0], 2)));
  rows.add("adaptive_avg_pool2d", "unbatched", {{{2, 5, 3}}}, ROW(adaptive_avg_pool2d(x[0], 2, 2)));
  rows.add("adaptive_max_pool2d", "unbatched", {{{2, 5, 3}}}, ROW(adaptive_max_pool2d(x[0], 2, 2)));
  rows.add("conv1d", "strided", {{{2, 2, 5}}, {{2, 2, 3}}, {{2}}},
           ROW(conv1d(x[0], x[1], x[2], {.stride = 2, .padding = 1})));
  rows.add("conv_transpose2d", "plain", {{{1, 2, 2, 2}}, {{2, 1, 2, 3}}, {{1}}},
           ROW(conv_transpose2d(x[0], x[1], x[2])));
  rows.add("conv_transpose2d", "strided", {{{1, 2, 2, 2}}, {{2, 2, 3, 2}}},
           ROW(conv_transpose2d(x[0], x[1], {},
                                {.stride = {2, 1}, .padding = {1, 0}, .output_padding = {1, 0}})));
  rows.add("adaptive_avg_pool2d", "even", {{{1, 2, 4, 4}}}, ROW(adaptive_avg_pool2d(x[0], 2, 4)));
  rows.add("adaptive_avg_pool2d", "uneven", {{{1, 1, 5, 3}}}, ROW(adaptive_avg_pool2d(x[0], 3, 2)));
  rows.add("adaptive_max_pool2d", "even", {{{1, 2, 4, 4}}}, ROW(adaptive_max_pool2d(x[0], 2, 4)));
  rows.add("adaptive_max_pool2d", "uneven", {{{1, 1, 5, 3}}}, ROW(adaptive_max_pool2d(x[0], 3, 2)));
}

void add_losses(Rows& rows) {
  const std::vector<Input> pair = {{{3, 4}}, {{3, 4}, kTransposed}};
  rows.add("l1_loss", "mean", pair, ROW(l1_loss(x[0], x[1])));
  rows.add("smooth_l1_loss", "mean", pair, ROW(smooth_l1_loss(x[0], x[1])));
  rows.add("smooth_l1_loss", "none", pair, ROW(smooth_l1_loss(x[0], x[1], Reduction::kNone, 0.75)));
  const std::vector<Input> probabilities = {between({3, 4}, 0.1, 0.9), between({3, 4}, 0.1, 0.9)};
  rows.add("binary_cross_entropy", "mean", probabilities, ROW(binary_cross_entropy(x[0], x[1])));
  rows.add("binary_cross_entropy", "weighted",
           {probabilities[0], probabilities[1], between({4}, 0.5, 2)},
           ROW(binary_cross_entropy(x[0], x[1], x[2], Reduction::kSum)));
  rows.add("binary_cross_entropy_with_logits", "mean", {{{3, 4}}, probabilities[1]},
           ROW(binary_cross_entropy_with_logits(x[0], x[1])));
  rows.add("binary_cross_entropy_with_logits", "weighted",
           {{{3, 4}}, probabilities[1], between({4}, 0.5, 2), between({4}, 0.5, 2)},
           ROW(binary_cross_entropy_with_logits(x[0], x[1], x[2], x[3], Reduction::kNone)));
  rows.add("kl_div", "batchmean", {{{3, 4}}, probabilities[1]},
           ROW(kl_div(x[0], x[1], Reduction::kBatchMean)));
  rows.add("kl_div", "log_target", pair, ROW(kl_div(x[0], x[1], Reduction::kSum, true)));
  const std::vector<Input> classes = {{{4, 3}}, indices({4}, 3)};
  rows.add("nll_loss", "ignoring", classes, ROW(nll_loss(x[0], x[1], {.ignore_index = 1})));
  rows.add("nll_loss", "images", {{{2, 3, 2}}, indices({2, 2}, 3)},
           ROW(nll_loss(x[0], x[1], Reduction::kNone)));
  rows.add("cross_entropy", "smoothed", classes,
           ROW(cross_entropy(x[0], x[1], {.label_smoothing = 0.1})));
  rows.add("cross_entropy", "weighted", classes,
           ROW(cross_entropy(x[0], x[1],
                             {.weight = tensor({0.5, 2.0, 1.0}).to(x[0].dtype()).to(x[0].device()),
                              .ignore_index = 0})));
  rows.add("cross_entropy", "probabilities", {{{3, 4}}, probabilities[1]},
           ROW(cross_entropy(x[0], x[1], {.label_smoothing = 0.2})));
}

#undef ROW

}  // namespace

void add_more_cases(std::vector<OpCase>& cases) {
  Rows rows(cases);
  add_activations(rows);
  add_joining(rows);
  add_indexing(rows);
  add_sorting(rows);
  add_statistics(rows);
  add_layers(rows);
  add_losses(rows);
}

}  // namespace lockstep::testing
