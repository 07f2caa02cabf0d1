#pragma once

#include <functional>
#include <ostream>
#include <string>
#include <vector>

#include "lockstep/engine/tensor/tensor.h"

#include "engine/reference.h"

// The table of op cases. A row names a public op, says what its arguments look like and how to call
// it; op_cases_test.cc runs every check over every row. A pointwise op of pointwise_list.h without
// a row does not compile; another op of engine/ops/ without one fails OpTable.CoversEveryOp.
namespace lockstep::testing {

enum class Layout {
  kDense,
  kTransposed,    // the last two dimensions stored the other way round
  kStrided,       // every second element of the last dimension of something wider
  kExpanded,      // stride 0 in the first dimension
  kChannelsLast,  // 4-d only
};

struct Input {
  Dims sizes;
  Layout layout = Layout::kDense;
  double low = -2, high = 2;      // values are drawn from [low, high)
  bool differentiable = true;     // else it takes no gradient
  DType dtype = DType::kFloat64;  // kInt64 and kBool stay what they are in every precision
};

using Function = std::function<Tensor(const std::vector<Tensor>&)>;
using Reference = std::function<Array(const std::vector<Array>&)>;

struct OpCase {
  std::string op;
  std::string variant;
  std::vector<Input> inputs;
  Function function;
  Reference reference;       // may be empty
  bool has_gradient = true;  // false: integer or bool results
  std::string id() const { return op + "_" + variant; }
};
inline void PrintTo(const OpCase& c, std::ostream* out) { *out << c.id(); }

const std::vector<OpCase>& all_op_cases();

// The arguments of a case with floating ones in `dtype`; the same values at every call, exactly
// representable in float32. No two values of one argument are closer than 1e-3 (unless there are
// too many of them), and none is that close to an integer or to a half: no kink within a step of
// the numerical derivative.
std::vector<Tensor> make_inputs(const OpCase& c, DType dtype, Device device = {});

}  // namespace lockstep::testing
