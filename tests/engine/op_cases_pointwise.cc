// One row per op of pointwise_list.h: a specialisation of Row. An op without one does not compile.
#include <algorithm>

#include "lockstep/engine/ops/ops.h"
#include "lockstep/engine/ops/pointwise_call.h"

#include "engine/op_case_groups.h"

namespace lockstep::testing {
namespace {

struct Range {
  double low = -2, high = 2;
};

struct PointwiseRow {
  std::vector<Range> ranges;  // one per argument
  Function function;
  std::function<double(const double* x)> reference;
  bool has_gradient = true;
};

template <PointwiseOp kOp>
struct Row;  // no definition: the op's row is missing below

// call: over x[0], x[1], ... as tensors. reference: over the same as doubles.
#define ROW(op, call, formula, has_gradient, ...)                          \
  template <>                                                              \
  struct Row<PointwiseOp::k_##op> {                                        \
    static PointwiseRow make() {                                           \
      return {{__VA_ARGS__},                                               \
              [](const std::vector<Tensor>& x) -> Tensor { return call; }, \
              [](const double* x) -> double { return formula; },           \
              has_gradient};                                               \
    }                                                                      \
  };

constexpr Range kAny = {-2, 2}, kPositive = {0.25, 3}, kUnit = {0.05, 0.95}, kSmall = {-0.95, 0.95};

ROW(neg, neg(x[0]), -x[0], true, kAny)
ROW(abs, abs(x[0]), std::fabs(x[0]), true, kAny)
ROW(sign, sign(x[0]), x[0] > 0 ? 1 : (x[0] < 0 ? -1 : 0), true, kAny)
ROW(exp, exp(x[0]), std::exp(x[0]), true, kAny)
ROW(log, log(x[0]), std::log(x[0]), true, kPositive)
ROW(sqrt, sqrt(x[0]), std::sqrt(x[0]), true, kPositive)
ROW(reciprocal, reciprocal(x[0]), 1 / x[0], true, kPositive)
ROW(sin, sin(x[0]), std::sin(x[0]), true, {-7, 7})
ROW(cos, cos(x[0]), std::cos(x[0]), true, {-7, 7})
ROW(tanh, tanh(x[0]), std::tanh(x[0]), true, kAny)
ROW(sigmoid, sigmoid(x[0]), 1 / (1 + std::exp(-x[0])), true, {-4, 4})
ROW(relu, relu(x[0]), std::max(x[0], 0.0), true, kAny)
ROW(clamp, clamp(x[0], -1.0, 0.5), std::clamp(x[0], -1.0, 0.5), true, kAny)
ROW(pow_scalar, pow_scalar(x[0], 2.5), std::pow(x[0], 2.5), true, kPositive)
ROW(add, add(x[0], x[1]), x[0] + x[1], true, kAny, kAny)
ROW(add_scaled, add_scaled(x[0], x[1], -0.75), x[0] - 0.75 * x[1], true, kAny, kAny)
ROW(sub, sub(x[0], x[1]), x[0] - x[1], true, kAny, kAny)
ROW(mul, mul(x[0], x[1]), x[0] * x[1], true, kAny, kAny)
ROW(div, div(x[0], x[1]), x[0] / x[1], true, kAny, kPositive)
ROW(maximum, maximum(x[0], x[1]), std::max(x[0], x[1]), true, kAny, {-1.003, 2.5})
ROW(minimum, minimum(x[0], x[1]), std::min(x[0], x[1]), true, kAny, {-1.003, 2.5})
ROW(relu_backward, relu_backward(x[0], x[1]), x[1] > 0 ? x[0] : 0, true, kAny, kAny)
ROW(sigmoid_backward, sigmoid_backward(x[0], x[1]), x[0] * x[1] * (1 - x[1]), true, kAny, kUnit)
ROW(tanh_backward, tanh_backward(x[0], x[1]), x[0] * (1 - x[1] * x[1]), true, kAny, kSmall)
ROW(clamp_backward, clamp_backward(x[0], x[1], -1.0, 0.5), x[1] >= -1 && x[1] <= 0.5 ? x[0] : 0,
    true, kAny, kAny)
ROW(eq, eq(x[0], x[1]), x[0] == x[1], false, kAny, kAny)
ROW(ne, ne(x[0], x[1]), x[0] != x[1], false, kAny, kAny)
ROW(lt, lt(x[0], x[1]), x[0] < x[1], false, kAny, kAny)
ROW(le, le(x[0], x[1]), x[0] <= x[1], false, kAny, kAny)
ROW(gt, gt(x[0], x[1]), x[0] > x[1], false, kAny, kAny)
ROW(ge, ge(x[0], x[1]), x[0] >= x[1], false, kAny, kAny)
// The condition is drawn as one more argument.
ROW(where, where(gt(x[0], 0), x[1], x[2]), x[0] > 0 ? x[1] : x[2], true, kAny, kAny, kAny)
#include "engine/pointwise_rows_more.h"
#undef ROW

struct Shapes {
  const char* name;
  std::vector<Input> inputs;
};

// Shapes and layouts for ops of one, two and three arguments; few elements, because the numerical
// derivative costs their square. The large ones take part in the forward and backward comparisons
// only, and are more than one tile of the parallel loop.
const std::vector<Shapes>& shapes_for(size_t arguments) {
  static const std::vector<Shapes> kOne = {
      {"scalar", {{{}}}},
      {"empty", {{{0, 3}}}},
      {"vector", {{{7}}}},
      {"matrix", {{{3, 4}}}},
      {"transposed", {{{3, 4}, Layout::kTransposed}}},
      {"strided", {{{2, 5}, Layout::kStrided}}},
      {"expanded", {{{2, 3}, Layout::kExpanded}}},
      {"channels_last", {{{1, 2, 2, 3}, Layout::kChannelsLast}}},
      {"large", {{{70000}}}},
      {"large_transposed", {{{130, 140}, Layout::kTransposed}}},
  };
  static const std::vector<Shapes> kTwo = {
      {"scalars", {{{}}, {{}}}},
      {"same", {{{3, 2}}, {{3, 2}}}},
      {"row", {{{3, 4}}, {{4}}}},
      {"outer", {{{3, 1}}, {{1, 2}}}},
      {"scalar_left", {{{}}, {{2, 3}}}},
      {"scalar_right", {{{2, 3}}, {{}}}},
      {"empty", {{{0, 3}}, {{3}}}},
      {"empty_from_one", {{{2, 0}}, {{2, 1}}}},
      {"transposed", {{{3, 2}, Layout::kTransposed}, {{3, 2}}}},
      {"strided", {{{2, 3}}, {{2, 3}, Layout::kStrided}}},
      {"expanded", {{{2, 3}}, {{2, 3}, Layout::kExpanded}}},
      {"channels_last", {{{1, 2, 2, 2}, Layout::kChannelsLast}, {{1, 2, 2, 2}}}},
      {"per_channel", {{{1, 2, 2, 2}, Layout::kChannelsLast}, {{1, 2, 1, 1}}}},
      {"large", {{{70000}}, {{70000}}}},
      {"large_rows", {{{300, 90}}, {{90}}}},
      {"large_columns", {{{300, 90}, Layout::kTransposed}, {{300, 1}}}},
  };
  static const std::vector<Shapes> kThree = {
      {"scalars", {{{}}, {{}}, {{}}}},
      {"same", {{{2, 3}}, {{2, 3}}, {{2, 3}}}},
      {"broadcast", {{{2, 1}}, {{3}}, {{}}}},
      {"empty", {{{0}}, {{1}}, {{0}}}},
      {"transposed", {{{2, 3}}, {{2, 3}, Layout::kTransposed}, {{2, 3}}}},
      {"large", {{{200, 100}}, {{100}}, {{200, 100}, Layout::kTransposed}}},
  };
  return arguments == 1 ? kOne : (arguments == 2 ? kTwo : kThree);
}

void add_row(std::vector<OpCase>& cases, const std::string& op, const PointwiseRow& row) {
  for (const Shapes& shapes : shapes_for(row.ranges.size())) {
    OpCase c;
    c.op = op;
    c.variant = shapes.name;
    c.inputs = shapes.inputs;
    for (size_t i = 0; i < c.inputs.size(); ++i) {
      c.inputs[i].low = row.ranges[i].low;
      c.inputs[i].high = row.ranges[i].high;
      if (op == "where" && i == 0) c.inputs[i].differentiable = false;
    }
    c.function = row.function;
    c.has_gradient = row.has_gradient;
    c.reference = [formula = row.reference](const std::vector<Array>& x) {
      Dims sizes;
      for (const Array& a : x) sizes = broadcast_shapes(sizes, a.sizes);
      return build(sizes, [&](const Dims& index) {
        double arguments[3] = {};
        for (size_t i = 0; i < x.size(); ++i) arguments[i] = broadcast_at(x[i], index);
        return formula(arguments);
      });
    };
    cases.push_back(c);
  }
}

// Exponents that take their own path, and a number as either argument.
void add_variants(std::vector<OpCase>& cases) {
  const auto unary = [&](const char* op, const char* variant, Range range, const Function& function,
                         double (*formula)(double)) {
    cases.push_back({op,
                     variant,
                     {{{3, 2}, Layout::kDense, range.low, range.high}},
                     function,
                     [formula](const std::vector<Array>& x) {
                       return build(x[0].sizes, [&](const Dims& i) { return formula(x[0].at(i)); });
                     }});
  };
  using Tensors = std::vector<Tensor>;
  unary(
      "pow", "zero", kAny, [](const Tensors& x) { return pow(x[0], 0); },
      [](double) { return 1.0; });
  unary(
      "pow", "one", kAny, [](const Tensors& x) { return pow(x[0], 1); },
      [](double v) { return v; });
  unary(
      "pow", "two", kAny, [](const Tensors& x) { return pow(x[0], 2); },
      [](double v) { return v * v; });
  unary(
      "pow", "three", kAny, [](const Tensors& x) { return pow(x[0], 3.0); },
      [](double v) { return v * v * v; });
  unary(
      "pow", "four", kAny, [](const Tensors& x) { return pow(x[0], 4); },
      [](double v) { return v * v * v * v; });
  unary(
      "pow", "minus_one", kPositive, [](const Tensors& x) { return pow(x[0], -1); },
      [](double v) { return 1 / v; });
  unary(
      "pow", "half", kPositive, [](const Tensors& x) { return pow(x[0], 0.5); },
      [](double v) { return std::sqrt(v); });
  unary(
      "square", "matrix", kAny, [](const Tensors& x) { return square(x[0]); },
      [](double v) { return v * v; });
  unary(
      "add", "number", kAny, [](const Tensors& x) { return x[0] + 1.5; },
      [](double v) { return v + 1.5; });
  unary(
      "sub", "number_first", kAny, [](const Tensors& x) { return 1 - x[0]; },
      [](double v) { return 1 - v; });
  unary(
      "mul", "number_first", kAny, [](const Tensors& x) { return 3 * x[0]; },
      [](double v) { return 3 * v; });
  unary(
      "mul", "with_itself", kAny, [](const Tensors& x) { return x[0] * x[0]; },
      [](double v) { return v * v; });
  unary(
      "div", "number", kAny, [](const Tensors& x) { return x[0] / 4; },
      [](double v) { return v / 4; });
  unary(
      "div", "number_first", kPositive, [](const Tensors& x) { return 2 / x[0]; },
      [](double v) { return 2 / v; });
  unary(
      "maximum", "number", kAny, [](const Tensors& x) { return maximum(x[0], 0.25); },
      [](double v) { return std::max(v, 0.25); });
  unary(
      "minimum", "number_first", kAny, [](const Tensors& x) { return minimum(0.25, x[0]); },
      [](double v) { return std::min(v, 0.25); });
  unary(
      "where", "numbers", kAny, [](const Tensors& x) { return where(gt(x[0], 0), x[0], 0.5); },
      [](double v) { return v > 0 ? v : 0.5; });
  cases.push_back({"sum_to_size",
                   "rows",
                   {{{3, 2}}},
                   [](const Tensors& x) {
                     return sum_to_size(x[0], {1, 2});
                   },
                   [](const std::vector<Array>& x) { return reduce_sum(x[0], {0}); }});
}

}  // namespace

void add_pointwise_cases(std::vector<OpCase>& cases) {
#define LOCKSTEP_OP(name, ...) add_row(cases, #name, Row<PointwiseOp::k_##name>::make());
  LOCKSTEP_POINTWISE_OPS(LOCKSTEP_OP)
#undef LOCKSTEP_OP
  add_variants(cases);
}

}  // namespace lockstep::testing
