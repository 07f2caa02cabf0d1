// Rows for the ops with loops of their own: products, convolution, pooling, normalisation, softmax
// and losses. Every reference is the definition, written out.
#include <limits>

#include "lockstep/engine/ops/ops.h"

#include "engine/op_case_groups.h"

namespace lockstep::testing {
namespace {

using Tensors = std::vector<Tensor>;
using Arrays = std::vector<Array>;

constexpr Layout kDense = Layout::kDense, kTransposed = Layout::kTransposed,
                 kStrided = Layout::kStrided, kExpanded = Layout::kExpanded,
                 kChannelsLast = Layout::kChannelsLast;

// (B..., M, K) x (B..., K, N) with broadcast batches.
Array product(const Array& a, const Array& b) {
  Dims lead_a = a.sizes, lead_b = b.sizes;
  for (int i = 0; i < 2; ++i) lead_a.erase(lead_a.size() - 1), lead_b.erase(lead_b.size() - 1);
  Dims sizes = broadcast_shapes(lead_a, lead_b);
  const int lead = sizes.size();
  const int64_t k = a.sizes.back();
  sizes.push_back(a.size(a.sizes.size() - 2));
  sizes.push_back(b.sizes.back());
  return build(sizes, [&](const Dims& index) {
    const auto element = [&](const Array& x, int64_t row, int64_t column) {
      Dims at = Dims::filled(x.sizes.size(), 0);
      const int own = x.sizes.size() - 2;
      for (int d = 0; d < own; ++d) at[d] = x.sizes[d] == 1 ? 0 : index[d + lead - own];
      at[own] = row;
      at[own + 1] = column;
      return x.at(at);
    };
    double total = 0;
    for (int64_t i = 0; i < k; ++i) {
      total += element(a, index[lead], i) * element(b, i, index[lead + 1]);
    }
    return total;
  });
}

Array matmul_reference(const Arrays& x) {
  Array a = x[0], b = x[1];
  if (a.sizes.size() == 1) a.sizes.insert(0, 1);
  if (b.sizes.size() == 1) b.sizes.push_back(1);
  return product(a, b);
}

void add_products(std::vector<OpCase>& cases) {
  const auto add = [&](const char* variant, const std::vector<Input>& inputs) {
    cases.push_back({"matmul", variant, inputs, [](const Tensors& x) { return matmul(x[0], x[1]); },
                     matmul_reference});
  };
  add("vectors", {{{4}}, {{4}}});
  add("vector_matrix", {{{3}}, {{3, 2}}});
  add("matrix_vector", {{{2, 3}, kTransposed}, {{3}}});
  add("matrices", {{{3, 4}}, {{4, 2}}});
  add("column_row", {{{3, 1}}, {{1, 2}}});
  add("transposed", {{{3, 2}, kTransposed}, {{2, 4}, kTransposed}});
  add("strided", {{{2, 3}, kStrided}, {{3, 2}, kStrided}});
  add("expanded", {{{2, 3}, kExpanded}, {{3, 2}, kExpanded}});
  add("batch_matrix", {{{2, 2, 3}}, {{3, 2}}});
  add("batches", {{{2, 2, 3}}, {{2, 3, 2}, kTransposed}});
  add("broadcast_batches", {{{2, 1, 2, 2}}, {{2, 2, 2}}});
  add("matrix_batch", {{{2, 3}}, {{2, 3, 2}}});
  add("no_rows", {{{0, 3}}, {{3, 2}}});
  add("no_inner", {{{2, 0}}, {{0, 3}}});
  add("large", {{{67, 130}, kDense, -1, 1}, {{130, 33}, kDense, -1, 1}});
  for (const char* op : {"mm", "bmm"}) {
    const bool batched = op[0] == 'b';
    cases.push_back(
        {op, "plain",
         batched ? std::vector<Input>{{{2, 2, 3}}, {{2, 3, 2}}}
                 : std::vector<Input>{{{2, 3}}, {{3, 4}}},
         [batched](const Tensors& x) { return batched ? bmm(x[0], x[1]) : mm(x[0], x[1]); },
         matmul_reference});
    cases.push_back(
        {op, "transposed",
         batched ? std::vector<Input>{{{2, 2, 3}, kTransposed}, {{2, 3, 2}, kExpanded}}
                 : std::vector<Input>{{{2, 3}, kTransposed}, {{3, 2}, kTransposed}},
         [batched](const Tensors& x) { return batched ? bmm(x[0], x[1]) : mm(x[0], x[1]); },
         matmul_reference});
  }
  const Reference linear_reference = [](const Arrays& x) {
    Dims sizes = x[0].sizes;
    sizes[sizes.size() - 1] = x[1].size(0);
    return build(sizes, [&](const Dims& index) {
      Dims at = index;
      double total = x.size() > 2 ? x[2].at({index.back()}) : 0;
      for (int64_t k = 0; k < x[1].size(1); ++k) {
        at[at.size() - 1] = k;
        total += x[0].at(at) * x[1].at({index.back(), k});
      }
      return total;
    });
  };
  const auto add_linear = [&](const char* variant, const std::vector<Input>& inputs) {
    cases.push_back(
        {"linear", variant, inputs,
         [](const Tensors& x) { return linear(x[0], x[1], x.size() > 2 ? x[2] : Tensor()); },
         linear_reference});
  };
  add_linear("bias", {{{3, 2}}, {{4, 2}}, {{4}}});
  add_linear("no_bias", {{{3, 2}}, {{4, 2}}});
  add_linear("vector", {{{3}}, {{2, 3}}, {{2}}});
  add_linear("batch", {{{2, 2, 3}}, {{2, 3}}, {{2}}});
  add_linear("transposed", {{{3, 2}, kTransposed}, {{4, 2}, kTransposed}, {{4}, kStrided}});
  add_linear("no_rows", {{{0, 2}}, {{4, 2}}, {{4}}});
  add_linear("no_inputs", {{{3, 0}}, {{4, 0}}, {{4}}});
  const Reference gelu_reference = [linear_reference](const Arrays& x) {
    const Array h = linear_reference(x);
    return build(h.sizes, [&](const Dims& at) {
      const double v = h.at(at);
      return v / 2 * (1 + std::tanh(std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)));
    });
  };
  const auto add_gelu = [&](const char* variant, const std::vector<Input>& inputs) {
    cases.push_back(
        {"linear_gelu", variant, inputs,
         [](const Tensors& x) { return linear_gelu(x[0], x[1], x.size() > 2 ? x[2] : Tensor()); },
         gelu_reference});
  };
  add_gelu("bias", {{{3, 2}}, {{4, 2}}, {{4}}});
  add_gelu("eight", {{{2, 3}}, {{8, 3}}, {{8}}});  // rows without a gap
  add_gelu("no_bias", {{{3, 2}}, {{4, 2}}});
  add_gelu("vector", {{{3}}, {{2, 3}}, {{2}}});
  add_gelu("batch", {{{2, 2, 3}}, {{2, 3}}, {{2}}});
  add_gelu("transposed", {{{3, 2}, kTransposed}, {{4, 2}, kTransposed}, {{4}, kStrided}});
  add_gelu("no_rows", {{{0, 2}}, {{4, 2}}, {{4}}});
  add_gelu("no_inputs", {{{3, 0}}, {{4, 0}}, {{4}}});
}

Array conv_reference(const Array& x, const Array& w, const Array* bias, const Conv2dParams& p) {
  const auto out = [&](int i) {
    return (x.size(2 + i) + 2 * p.padding[i] - p.dilation[i] * (w.size(2 + i) - 1) - 1) /
               p.stride[i] +
           1;
  };
  const int64_t per_group = w.size(0) / p.groups;
  return build({x.size(0), w.size(0), out(0), out(1)}, [&](const Dims& at) {
    double total = bias ? bias->at({at[1]}) : 0;
    for (int64_t c = 0; c < w.size(1); ++c) {
      for (int64_t i = 0; i < w.size(2); ++i) {
        for (int64_t j = 0; j < w.size(3); ++j) {
          const int64_t h = at[2] * p.stride[0] - p.padding[0] + i * p.dilation[0];
          const int64_t v = at[3] * p.stride[1] - p.padding[1] + j * p.dilation[1];
          if (h < 0 || h >= x.size(2) || v < 0 || v >= x.size(3)) continue;
          total += x.at({at[0], at[1] / per_group * w.size(1) + c, h, v}) * w.at({at[1], c, i, j});
        }
      }
    }
    return total;
  });
}

void add_convolutions(std::vector<OpCase>& cases) {
  const auto add = [&](const char* variant, const std::vector<Input>& inputs,
                       const Conv2dParams& params) {
    cases.push_back({"conv2d", variant, inputs,
                     [params](const Tensors& x) {
                       return conv2d(x[0], x[1], x.size() > 2 ? x[2] : Tensor(), params);
                     },
                     [params](const Arrays& x) {
                       return conv_reference(x[0], x[1], x.size() > 2 ? &x[2] : nullptr, params);
                     }});
  };
  add("plain", {{{1, 2, 4, 3}}, {{2, 2, 2, 2}}, {{2}}}, {});
  add("no_bias", {{{2, 1, 3, 3}}, {{2, 1, 2, 2}}}, {});
  add("pointwise", {{{1, 2, 2, 2}}, {{3, 2, 1, 1}}, {{3}}}, {});
  add("padded", {{{1, 1, 3, 4}}, {{2, 1, 3, 3}}, {{2}}}, {.padding = {1, 2}});
  add("strided", {{{1, 1, 5, 4}}, {{2, 1, 2, 2}}}, {.stride = {2, 1}});
  add("stride_leaves_rest", {{{1, 1, 6, 6}}, {{1, 1, 3, 3}}}, {.stride = {2, 2}});
  add("dilated", {{{1, 1, 5, 5}}, {{1, 1, 2, 2}}, {{1}}}, {.dilation = {2, 3}});
  add("groups", {{{1, 4, 3, 2}}, {{4, 2, 2, 2}}, {{4}}}, {.groups = 2});
  add("depthwise", {{{1, 2, 3, 3}}, {{2, 1, 2, 2}}}, {.padding = {1, 1}, .groups = 2});
  add("channels_last", {{{1, 2, 3, 3}, kChannelsLast}, {{2, 2, 2, 2}}, {{2}}}, {});
  add("transposed", {{{1, 2, 3, 3}, kTransposed}, {{2, 2, 2, 2}, kTransposed}}, {});
  add("all_at_once", {{{2, 4, 9, 8}}, {{6, 2, 3, 2}}, {{6}}},
      {.stride = {2, 1}, .padding = {2, 1}, .dilation = {1, 2}, .groups = 2});
  add("large", {{{3, 16, 20, 20}, kDense, -1, 1}, {{24, 16, 3, 3}, kDense, -0.2, 0.2}, {{24}}},
      {.padding = {1, 1}});
  add("large_strided", {{{2, 8, 15, 17}, kDense, -1, 1}, {{8, 8, 5, 5}, kDense, -0.2, 0.2}},
      {.stride = {2, 2}, .padding = {2, 2}});
}

// Both poolings: gathers each window and hands it to `fold` with the number of padded elements.
Array pool_reference(const Array& x, const Pool2dParams& p,
                     const std::function<double(const std::vector<double>&, int64_t)>& fold) {
  const auto out = [&](int i) {
    return (x.size(2 + i) + 2 * p.padding[i] - p.dilation[i] * (p.kernel[i] - 1) - 1) /
               p.stride[i] +
           1;
  };
  return build({x.size(0), x.size(1), out(0), out(1)}, [&](const Dims& at) {
    std::vector<double> window;
    for (int64_t i = 0; i < p.kernel[0]; ++i) {
      for (int64_t j = 0; j < p.kernel[1]; ++j) {
        const int64_t h = at[2] * p.stride[0] - p.padding[0] + i * p.dilation[0];
        const int64_t v = at[3] * p.stride[1] - p.padding[1] + j * p.dilation[1];
        if (h < 0 || h >= x.size(2) || v < 0 || v >= x.size(3)) continue;
        window.push_back(x.at({at[0], at[1], h, v}));
      }
    }
    return fold(window, p.kernel[0] * p.kernel[1]);
  });
}

void add_pools(std::vector<OpCase>& cases) {
  const auto add = [&](const char* variant, const Input& input, const Pool2dParams& p) {
    cases.push_back({"max_pool2d",
                     variant,
                     {input},
                     [p](const Tensors& x) { return max_pool2d(x[0], p); },
                     [p](const Arrays& x) {
                       return pool_reference(x[0], p, [](const std::vector<double>& w, int64_t) {
                         double best = -std::numeric_limits<double>::infinity();
                         for (double v : w) best = std::max(best, v);
                         return best;
                       });
                     }});
    if (p.dilation[0] != 1) return;
    cases.push_back(
        {"avg_pool2d",
         variant,
         {input},
         [p](const Tensors& x) { return avg_pool2d(x[0], p); },
         [p](const Arrays& x) {
           return pool_reference(x[0], p, [&](const std::vector<double>& w, int64_t size) {
             double total = 0;
             for (double v : w) total += v;
             return total / static_cast<double>(p.count_include_pad ? size : w.size());
           });
         }});
  };
  add("plain", {{1, 2, 4, 4}}, {.kernel = {2, 2}, .stride = {2, 2}});
  add("overlapping", {{1, 1, 5, 5}}, {.kernel = {3, 3}, .stride = {2, 1}});
  add("padded", {{1, 1, 4, 5}}, {.kernel = {3, 2}, .stride = {2, 2}, .padding = {1, 1}});
  add("padding_not_counted", {{1, 1, 4, 4}},
      {.kernel = {2, 3}, .stride = {1, 2}, .padding = {1, 1}, .count_include_pad = false});
  add("dilated", {{1, 1, 5, 5}}, {.kernel = {2, 2}, .stride = {1, 1}, .dilation = {2, 2}});
  add("channels_last", {{1, 2, 4, 4}, kChannelsLast}, {.kernel = {2, 2}, .stride = {2, 2}});
  add("channels_last_padded", {{1, 3, 3, 4}, kChannelsLast},
      {.kernel = {3, 3}, .stride = {1, 1}, .padding = {1, 1}});
  add("transposed", {{1, 2, 4, 4}, kTransposed}, {.kernel = {2, 2}, .stride = {2, 2}});
  add("large", {{3, 20, 30, 30}}, {.kernel = {3, 3}, .stride = {2, 2}, .padding = {1, 1}});
  // The overloads that take the side of a square window: the same reference, another call.
  add("square", {{1, 1, 6, 3}}, {.kernel = {3, 3}, .stride = {3, 3}});
  cases[cases.size() - 2].function = [](const Tensors& x) { return max_pool2d(x[0], 3); };
  cases[cases.size() - 1].function = [](const Tensors& x) { return avg_pool2d(x[0], 3); };
}

void add_batch_norms(std::vector<OpCase>& cases) {
  // Arguments: x, weight, bias, running mean, running variance. The op writes the running
  // statistics, so it gets copies.
  const auto add = [&](const char* variant, const Input& x_input, bool training, bool affine) {
    const int64_t c = x_input.sizes[1];
    std::vector<Input> inputs = {x_input};
    if (affine) inputs.insert(inputs.end(), {{{c}, kDense, 0.5, 2}, {{c}}});
    inputs.push_back({{c}, kDense, -1, 1, false});
    inputs.push_back({{c}, kDense, 0.5, 2, false});
    cases.push_back(
        {"batch_norm", variant, inputs,
         [training, affine](const Tensors& x) {
           const size_t s = x.size() - 2;
           return batch_norm(x[0], x[s].clone(), x[s + 1].clone(), affine ? x[1] : Tensor(),
                             affine ? x[2] : Tensor(), {.training = training, .eps = 1e-3});
         },
         [training, affine](const Arrays& x) {
           Array mean = x[x.size() - 2], var = x.back();
           if (training) {
             std::vector<double> count(mean.values.size());
             for (double& v : mean.values) v = 0;
             for (double& v : var.values) v = 0;
             const auto each = [&](const auto& fn) {
               for (int64_t i = 0; i < x[0].numel(); ++i) {
                 fn(static_cast<size_t>(x[0].index(i)[1]), x[0].values[static_cast<size_t>(i)]);
               }
             };
             each([&](size_t ch, double) { ++count[ch]; });
             each([&](size_t ch, double v) { mean.values[ch] += v / count[ch]; });
             each([&](size_t ch, double v) {
               var.values[ch] += (v - mean.values[ch]) * (v - mean.values[ch]) / count[ch];
             });
           }
           return build(x[0].sizes, [&](const Dims& at) {
             const Dims ch = {at[1]};
             const double n = (x[0].at(at) - mean.at(ch)) / std::sqrt(var.at(ch) + 1e-3);
             return affine ? n * x[1].at(ch) + x[2].at(ch) : n;
           });
         }});
  };
  add("training", {{3, 2, 2, 1}}, true, true);
  add("training_plain", {{3, 2, 2, 1}}, true, false);
  add("training_matrix", {{5, 2}}, true, true);
  add("training_sequence", {{2, 2, 3}}, true, true);
  add("training_channels_last", {{2, 2, 2, 2}, kChannelsLast}, true, true);
  add("training_transposed", {{2, 2, 2, 2}, kTransposed}, true, true);
  add("evaluation", {{2, 2, 2, 2}}, false, true);
  add("evaluation_plain", {{2, 2, 2, 1}}, false, false);
  add("evaluation_channels_last", {{1, 2, 2, 3}, kChannelsLast}, false, true);
  add("training_large", {{5, 12, 17, 18}}, true, true);
  add("training_large_channels_last", {{5, 12, 17, 18}, kChannelsLast}, true, true);
}

// exp(x) over the sum of exp(x) along `dim`, or its logarithm.
Reference softmax_reference(int dim, bool logarithm) {
  return [dim, logarithm](const Arrays& x) {
    if (x[0].sizes.empty()) return build({}, [&](const Dims&) { return logarithm ? 0.0 : 1.0; });
    const int d = dim < 0 ? dim + x[0].sizes.size() : dim;
    Array powers = x[0];
    for (double& v : powers.values) v = std::exp(v);
    const Array total = reduce_sum(powers, {d});
    return build(x[0].sizes, [&](const Dims& at) {
      return logarithm ? x[0].at(at) - std::log(broadcast_at(total, at))
                       : powers.at(at) / broadcast_at(total, at);
    });
  };
}

void add_softmaxes(std::vector<OpCase>& cases) {
  const auto add = [&](const char* variant, const Input& input, int dim) {
    cases.push_back({"log_softmax",
                     variant,
                     {input},
                     [dim](const Tensors& x) { return log_softmax(x[0], dim); },
                     softmax_reference(dim, true)});
    cases.push_back({"softmax",
                     variant,
                     {input},
                     [dim](const Tensors& x) { return softmax(x[0], dim); },
                     softmax_reference(dim, false)});
  };
  add("rows", {{3, 4}}, 1);
  add("columns", {{3, 4}}, 0);
  add("last", {{2, 2, 3}}, -1);
  add("middle", {{2, 3, 2}}, 1);
  add("vector", {{5}}, 0);
  add("single", {{4, 1}}, 1);
  add("transposed", {{3, 4}, kTransposed}, 1);
  add("wide_range", {{2, 3}, kDense, -80, 80}, 1);
  add("no_rows", {{0, 4}}, 1);
  add("large", {{300, 100}}, 1);
}

void add_losses(std::vector<OpCase>& cases) {
  const Input target = {{4}, kDense, 0, 3, false, DType::kInt64};
  struct Mode {
    const char* name;
    Reduction reduction;
  };
  for (const auto& [name, reduction] :
       {Mode{"none", Reduction::kNone}, Mode{"mean", Reduction::kMean},
        Mode{"sum", Reduction::kSum}}) {
    const auto reduce = [reduction = reduction](const Array& losses) {
      if (reduction == Reduction::kNone) return losses;
      double total = 0;
      for (double v : losses.values) total += v;
      if (reduction == Reduction::kMean) total /= static_cast<double>(losses.numel());
      return build({}, [&](const Dims&) { return total; });
    };
    const auto picked = [](const Array& x, const Array& t) {
      return build(t.sizes, [&](const Dims& at) {
        return -x.at({at[0], static_cast<int64_t>(t.at(at))});
      });
    };
    for (const Layout layout : {kDense, kTransposed}) {
      const std::string variant = std::string(name) + (layout == kDense ? "" : "_transposed");
      cases.push_back(
          {"nll_loss",
           variant,
           {{{4, 3}, layout}, target},
           [reduction = reduction](const Tensors& x) { return nll_loss(x[0], x[1], reduction); },
           [=](const Arrays& x) { return reduce(picked(x[0], x[1])); }});
      cases.push_back({"cross_entropy",
                       variant,
                       {{{4, 3}, layout}, target},
                       [reduction = reduction](const Tensors& x) {
                         return cross_entropy(x[0], x[1], reduction);
                       },
                       [=](const Arrays& x) {
                         return reduce(picked(softmax_reference(1, true)({x[0]}), x[1]));
                       }});
      cases.push_back(
          {"mse_loss",
           variant,
           {{{3, 2}, layout}, {{3, 2}}},
           [reduction = reduction](const Tensors& x) { return mse_loss(x[0], x[1], reduction); },
           [=](const Arrays& x) {
             return reduce(build(x[0].sizes, [&](const Dims& at) {
               return (x[0].at(at) - x[1].at(at)) * (x[0].at(at) - x[1].at(at));
             }));
           }});
    }
  }
}

}  // namespace

void add_dense_cases(std::vector<OpCase>& cases) {
  add_products(cases);
  add_convolutions(cases);
  add_pools(cases);
  add_batch_norms(cases);
  add_softmaxes(cases);
  add_losses(cases);
}

}  // namespace lockstep::testing
