// Rows for reductions, indexing, views, copies and in-place operations.
#include <algorithm>
#include <limits>

#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/ops/ops.h"
#include "lockstep/engine/tensor/random.h"

#include "engine/op_case_groups.h"

namespace lockstep::testing {
namespace {

using Tensors = std::vector<Tensor>;
using Arrays = std::vector<Array>;

constexpr Layout kDense = Layout::kDense, kTransposed = Layout::kTransposed,
                 kStrided = Layout::kStrided, kExpanded = Layout::kExpanded,
                 kChannelsLast = Layout::kChannelsLast;

Array number(double value) {
  Array a{Dims{}};
  a.values[0] = value;
  return a;
}

void add_sums(std::vector<OpCase>& cases) {
  const auto add = [&](const char* variant, const Input& input, const std::vector<int>& dims,
                       bool keepdim) {
    Dims wanted;
    for (int d : dims) wanted.push_back(d);
    const auto total = [dims](const Array& x) {
      std::vector<int> wrapped;
      for (int d : dims) wrapped.push_back(d < 0 ? d + x.sizes.size() : d);
      return reduce_sum(x, wrapped);
    };
    cases.push_back({"sum",
                     variant,
                     {input},
                     [=](const Tensors& x) { return sum(x[0], wanted, keepdim); },
                     [=](const Arrays& x) { return total(x[0]); }});
    cases.push_back({"mean",
                     variant,
                     {input},
                     [=](const Tensors& x) { return mean(x[0], wanted, keepdim); },
                     [=](const Arrays& x) {
                       Array y = total(x[0]);
                       const double count =
                           static_cast<double>(x[0].numel()) / static_cast<double>(y.numel());
                       for (double& v : y.values) v /= count;
                       return y;
                     }});
  };
  add("rows", {{3, 4}}, {0}, false);
  add("columns", {{3, 4}}, {1}, false);
  add("keepdim", {{3, 4}}, {-1}, true);
  add("outer_and_inner", {{2, 3, 2}}, {0, 2}, false);
  add("middle", {{2, 3, 2}}, {1}, true);
  add("every_dim", {{2, 3}}, {0, 1}, false);
  add("transposed", {{3, 4}, kTransposed}, {0}, false);
  add("strided", {{2, 3}, kStrided}, {1}, false);
  add("expanded", {{3, 2}, kExpanded}, {0}, false);
  add("channels_last", {{2, 3, 2, 2}, kChannelsLast}, {0, 2, 3}, false);
  add("large_rows", {{3000, 20}}, {0}, false);
  add("large_columns", {{20, 3000}}, {1}, false);
  add("large_middle", {{7, 300, 11}}, {1}, false);
  const auto full = [&](const char* variant, const Input& input) {
    cases.push_back({"sum",
                     variant,
                     {input},
                     [](const Tensors& x) { return sum(x[0]); },
                     [](const Arrays& x) {
                       double s = 0;
                       for (double v : x[0].values) s += v;
                       return number(s);
                     }});
    if (input.sizes.product() == 0) return;
    cases.push_back({"mean",
                     variant,
                     {input},
                     [](const Tensors& x) { return mean(x[0]); },
                     [](const Arrays& x) {
                       double s = 0;
                       for (double v : x[0].values) s += v;
                       return number(s / static_cast<double>(x[0].numel()));
                     }});
    cases.push_back({"max",
                     variant,
                     {input},
                     [](const Tensors& x) { return max(x[0]); },
                     [](const Arrays& x) {
                       return number(*std::max_element(x[0].values.begin(), x[0].values.end()));
                     }});
    cases.push_back({"min",
                     variant,
                     {input},
                     [](const Tensors& x) { return min(x[0]); },
                     [](const Arrays& x) {
                       return number(*std::min_element(x[0].values.begin(), x[0].values.end()));
                     }});
    cases.push_back({"norm",
                     variant,
                     {input},
                     [](const Tensors& x) { return norm(x[0]); },
                     [](const Arrays& x) {
                       double s = 0;
                       for (double v : x[0].values) s += v * v;
                       return number(std::sqrt(s));
                     }});
  };
  full("all", {{3, 4}});
  full("all_of_scalar", {{}});
  full("all_of_none", {{0, 3}});
  full("all_transposed", {{3, 4}, kTransposed});
  full("all_expanded", {{1, 4}, kExpanded});
  full("all_channels_last", {{1, 3, 2, 2}, kChannelsLast});
  full("all_large", {{37, 1999}});
  for (const int dim : {0, 1, -1}) {
    cases.push_back({"argmax",
                     "dim_" + std::to_string(dim + 2),
                     {{{4, 3}, kTransposed}},
                     [dim](const Tensors& x) { return argmax(x[0], dim); },
                     [dim](const Arrays& x) {
                       const bool rows = dim != 0;
                       return build({rows ? x[0].size(0) : x[0].size(1)}, [&](const Dims& at) {
                         double best = -std::numeric_limits<double>::infinity();
                         int64_t where = 0;
                         for (int64_t i = 0; i < x[0].size(rows ? 1 : 0); ++i) {
                           const double v = rows ? x[0].at({at[0], i}) : x[0].at({i, at[0]});
                           if (v > best) best = v, where = i;
                         }
                         return static_cast<double>(where);
                       });
                     },
                     false});
  }
}

void add_indexing(std::vector<OpCase>& cases) {
  const auto add = [&](const char* variant, const Input& input, int dim, int64_t count) {
    const Input index = {{count}, kDense,       0, static_cast<double>(input.sizes[dim]),
                         false,   DType::kInt64};
    cases.push_back({"index_select",
                     variant,
                     {input, index},
                     [dim](const Tensors& x) { return index_select(x[0], dim, x[1]); },
                     [dim](const Arrays& x) {
                       Dims sizes = x[0].sizes;
                       sizes[dim] = x[1].numel();
                       return build(sizes, [&](Dims at) {
                         at[dim] = static_cast<int64_t>(x[1].at({at[dim]}));
                         return x[0].at(at);
                       });
                     }});
  };
  add("rows", {{3, 4}}, 0, 2);
  add("repeated_rows", {{2, 3}}, 0, 5);
  add("columns", {{3, 4}, kTransposed}, 1, 3);
  add("middle", {{2, 3, 2}}, 1, 4);
  add("none", {{3, 2}}, 0, 0);
}

// A view op is described by where element `at` of the result comes from.
void add_view(std::vector<OpCase>& cases, const char* op, const char* variant, const Input& input,
              const Function& function, const Dims& sizes,
              const std::function<Dims(const Dims&)>& from) {
  cases.push_back({op, variant, {input}, function, [=](const Arrays& x) {
                     return build(sizes, [&](const Dims& at) { return x[0].at(from(at)); });
                   }});
}

// A view op that keeps the row-major order of the elements.
void add_reshape(std::vector<OpCase>& cases, const char* op, const char* variant,
                 const Input& input, const Function& function) {
  cases.push_back({op, variant, {input}, function, [](const Arrays& x) { return x[0]; }});
}

void add_views(std::vector<OpCase>& cases) {
  add_reshape(cases, "view", "matrix", {{2, 3}}, [](const Tensors& x) {
    return x[0].view({3, -1});
  });
  add_reshape(cases, "view", "scalar", {{}}, [](const Tensors& x) { return x[0].view({1, 1}); });
  add_reshape(cases, "view", "split", {{4, 3}, kTransposed}, [](const Tensors& x) {
    return x[0].view({2, 2, 3});
  });
  add_reshape(cases, "view", "empty", {{0, 3}}, [](const Tensors& x) {
    return x[0].view({3, 0, 2});
  });
  add_reshape(cases, "reshape", "dense", {{2, 6}}, [](const Tensors& x) {
    return x[0].reshape({2, 2, 3});
  });
  add_reshape(cases, "reshape", "copies", {{3, 4}, kTransposed},
              [](const Tensors& x) { return x[0].reshape({-1}); });
  add_reshape(cases, "reshape", "channels_last", {{1, 2, 2, 3}, kChannelsLast},
              [](const Tensors& x) {
                return x[0].reshape({2, 6});
              });
  add_reshape(cases, "reshape", "expanded", {{2, 3}, kExpanded}, [](const Tensors& x) {
    return x[0].reshape({3, 2});
  });
  add_reshape(cases, "flatten", "tail", {{2, 2, 3}},
              [](const Tensors& x) { return flatten(x[0], 1); });
  add_reshape(cases, "flatten", "scalar", {{}}, [](const Tensors& x) { return x[0].flatten(); });
  add_reshape(cases, "flatten", "channels_last", {{2, 2, 2, 1}, kChannelsLast},
              [](const Tensors& x) { return x[0].flatten(1); });
  add_reshape(cases, "squeeze", "one", {{2, 1, 3}},
              [](const Tensors& x) { return x[0].squeeze(1); });
  add_reshape(cases, "squeeze", "nothing", {{2, 3}},
              [](const Tensors& x) { return x[0].squeeze(0); });
  add_reshape(cases, "unsqueeze", "front", {{2, 3}, kTransposed},
              [](const Tensors& x) { return x[0].unsqueeze(0); });
  add_reshape(cases, "unsqueeze", "back", {{2, 3}},
              [](const Tensors& x) { return x[0].unsqueeze(-1); });
  add_reshape(cases, "clone", "transposed", {{2, 3}, kTransposed},
              [](const Tensors& x) { return x[0].clone(); });
  add_reshape(cases, "clone", "channels_last", {{1, 2, 2, 3}, kChannelsLast},
              [](const Tensors& x) { return x[0].clone(); });
  add_reshape(cases, "clone", "large", {{150, 130}, kTransposed},
              [](const Tensors& x) { return x[0].clone(); });
  add_reshape(cases, "contiguous", "transposed", {{2, 3}, kTransposed},
              [](const Tensors& x) { return x[0].contiguous(); });
  add_reshape(cases, "contiguous", "dense", {{2, 3}},
              [](const Tensors& x) { return x[0].contiguous(); });
  add_reshape(cases, "contiguous", "strided", {{2, 3}, kStrided},
              [](const Tensors& x) { return x[0].contiguous(); });
  add_reshape(cases, "to", "device", {{2, 3}},
              [](const Tensors& x) { return x[0].to(Device{}) * 1; });

  add_view(
      cases, "transpose", "matrix", {{2, 3}}, [](const Tensors& x) { return x[0].transpose(0, 1); },
      {3, 2},
      [](const Dims& at) {
        return Dims{at[1], at[0]};
      });
  add_view(
      cases, "transpose", "outer", {{2, 3, 2}},
      [](const Tensors& x) { return x[0].transpose(0, -1); }, {2, 3, 2},
      [](const Dims& at) {
        return Dims{at[2], at[1], at[0]};
      });
  add_view(
      cases, "t", "matrix", {{2, 3}}, [](const Tensors& x) { return x[0].t(); }, {3, 2},
      [](const Dims& at) {
        return Dims{at[1], at[0]};
      });
  add_view(
      cases, "permute", "rotation", {{2, 3, 2}},
      [](const Tensors& x) {
        return x[0].permute({2, 0, -2});
      },
      {2, 2, 3},
      [](const Dims& at) {
        return Dims{at[1], at[2], at[0]};
      });
  add_view(
      cases, "expand", "rows", {{1, 3}},
      [](const Tensors& x) {
        return x[0].expand({4, -1});
      },
      {4, 3},
      [](const Dims& at) {
        return Dims{0, at[1]};
      });
  add_view(
      cases, "expand", "new_dim", {{3}},
      [](const Tensors& x) {
        return x[0].expand({2, 2, 3});
      },
      {2, 2, 3}, [](const Dims& at) { return Dims{at[2]}; });
  add_view(
      cases, "expand", "scalar", {{}},
      [](const Tensors& x) {
        return x[0].expand({2, 2});
      },
      {2, 2}, [](const Dims&) { return Dims{}; });
  add_view(
      cases, "select", "row", {{3, 2}}, [](const Tensors& x) { return x[0].select(0, -1); }, {2},
      [](const Dims& at) {
        return Dims{2, at[0]};
      });
  add_view(
      cases, "select", "column", {{3, 2}, kTransposed},
      [](const Tensors& x) { return x[0].select(1, 1); }, {3},
      [](const Dims& at) {
        return Dims{at[0], 1};
      });
  add_view(
      cases, "select", "bracket", {{3, 2}}, [](const Tensors& x) { return x[0][1][0]; }, {},
      [](const Dims&) {
        return Dims{1, 0};
      });
  add_view(
      cases, "narrow", "columns", {{2, 5}}, [](const Tensors& x) { return x[0].narrow(1, 1, 3); },
      {2, 3},
      [](const Dims& at) {
        return Dims{at[0], at[1] + 1};
      });
  add_view(
      cases, "narrow", "nothing", {{2, 3}}, [](const Tensors& x) { return x[0].narrow(0, 2, 0); },
      {0, 3}, [](const Dims& at) { return at; });
  add_view(
      cases, "slice", "step", {{7}}, [](const Tensors& x) { return x[0].slice(0, 1, 100, 2); }, {3},
      [](const Dims& at) { return Dims{1 + 2 * at[0]}; });
  add_view(
      cases, "slice", "from_the_end", {{6, 2}},
      [](const Tensors& x) { return x[0].slice(0, -4, -1); }, {3, 2},
      [](const Dims& at) {
        return Dims{at[0] + 2, at[1]};
      });
  // There and back through another precision: only float32 is exact in both.
  cases.push_back(
      {"to",
       "float32_and_back",
       {{{2, 3}}},
       [](const Tensors& x) { return x[0] + 0 * x[0].to(DType::kFloat32).to(x[0].dtype()); },
       [](const Arrays& x) { return x[0]; }});
  cases.push_back({"to",
                   "int64",
                   {{{2, 3}, kDense, -9, 9}},
                   [](const Tensors& x) { return x[0].to(DType::kInt64); },
                   [](const Arrays& x) {
                     return build(x[0].sizes,
                                  [&](const Dims& at) { return std::trunc(x[0].at(at)); });
                   },
                   false});
}

// In-place operations act on a clone, which is not a leaf.
void add_inplace(std::vector<OpCase>& cases) {
  const auto two = [&](const char* op, const char* variant, const std::vector<Input>& inputs,
                       const std::function<void(const Tensor&, const Tensor&)>& write,
                       double (*formula)(double, double)) {
    cases.push_back({op, variant, inputs,
                     [write](const Tensors& x) {
                       Tensor y = x[0].clone();
                       write(y, x[1]);
                       return y;
                     },
                     [formula](const Arrays& x) {
                       return build(x[0].sizes, [&](const Dims& at) {
                         return formula(x[0].at(at), broadcast_at(x[1], at));
                       });
                     }});
  };
  const auto one = [&](const char* op, const char* variant, const Function& function,
                       double (*formula)(double)) {
    cases.push_back({op, variant, {{{2, 3}}}, function, [formula](const Arrays& x) {
                       return build(x[0].sizes,
                                    [&](const Dims& at) { return formula(x[0].at(at)); });
                     }});
  };
  const std::vector<Input> same = {{{2, 3}}, {{2, 3}, kTransposed}};
  const std::vector<Input> broadcast = {{{1, 2, 2, 2}, kChannelsLast}, {{2, 1, 1}}};
  for (const bool wide : {false, true}) {
    const char* variant = wide ? "broadcast" : "same";
    const auto& inputs = wide ? broadcast : same;
    std::vector<Input> positive = inputs;
    positive[1].low = 0.5;
    two(
        "add_", variant, inputs, [](const Tensor& y, const Tensor& b) { y.add_(b); },
        [](double a, double b) { return a + b; });
    two(
        "add_", wide ? "scaled_broadcast" : "scaled", inputs,
        [](const Tensor& y, const Tensor& b) { y.add_(b, 0.5); },
        [](double a, double b) { return a + 0.5 * b; });
    two(
        "sub_", variant, inputs, [](const Tensor& y, const Tensor& b) { y.sub_(b, 2); },
        [](double a, double b) { return a - 2 * b; });
    two(
        "mul_", variant, inputs, [](const Tensor& y, const Tensor& b) { y.mul_(b); },
        [](double a, double b) { return a * b; });
    two(
        "div_", variant, positive, [](const Tensor& y, const Tensor& b) { y.div_(b); },
        [](double a, double b) { return a / b; });
    two(
        "copy_", variant, inputs, [](const Tensor& y, const Tensor& b) { y.copy_(b); },
        [](double, double b) { return b; });
  }
  one(
      "add_", "number", [](const Tensors& x) { return x[0].clone().add_(1.5); },
      [](double v) { return v + 1.5; });
  one(
      "sub_", "number", [](const Tensors& x) { return x[0].clone().sub_(1.5); },
      [](double v) { return v - 1.5; });
  one(
      "mul_", "number", [](const Tensors& x) { return x[0].clone().mul_(-3); },
      [](double v) { return v * -3; });
  one(
      "div_", "number", [](const Tensors& x) { return x[0].clone().div_(4); },
      [](double v) { return v / 4; });
  one(
      "mul_", "then_used", [](const Tensors& x) { return exp(x[0].clone().mul_(0.5)); },
      [](double v) { return std::exp(0.5 * v); });
  one(
      "fill_", "then_added", [](const Tensors& x) { return x[0] + (x[0] * 2).detach().fill_(7); },
      [](double v) { return v + 7; });
  one(
      "zero_", "then_added", [](const Tensors& x) { return x[0] + (x[0] * 2).detach().zero_(); },
      [](double v) { return v; });
}

void add_dropout(std::vector<OpCase>& cases) {
  // A scope starts the numbers over, so that every call draws the same mask.
  const auto add = [&](const char* variant, const Input& input, double p, bool training) {
    cases.push_back({"dropout", variant, {input}, [=](const Tensors& x) {
                       const RandomScope scope(1, 2);
                       return dropout(x[0], p, training);
                     },
                     training && p < 1 ? Reference() : [training](const Arrays& x) {
                       return build(x[0].sizes, [&](const Dims& at) {
                         return training ? 0.0 : x[0].at(at);
                       });
                     }});
  };
  add("evaluation", {{3, 4}}, 0.5, false);
  add("everything", {{3, 4}}, 1.0, true);
}

}  // namespace

void add_shape_cases(std::vector<OpCase>& cases) {
  add_sums(cases);
  add_indexing(cases);
  add_views(cases);
  add_inplace(cases);
  add_dropout(cases);
}

}  // namespace lockstep::testing
