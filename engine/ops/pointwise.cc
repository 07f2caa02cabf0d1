#include "lockstep/engine/ops/pointwise.h"

#include <array>
#include <cmath>

#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/autograd/node.h"
#include "lockstep/engine/autograd/op_node.h"
#include "lockstep/engine/autograd/saved_tensor.h"
#include "lockstep/engine/backend.h"
#include "lockstep/engine/ops/autocast.h"
#include "lockstep/engine/ops/functors.h"
#include "lockstep/engine/ops/pointwise_kernel.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep {
namespace {

using autograd::Node;
using autograd::SavedTensor;
using pointwise::DTypes;

// What a gradient formula reads besides g.
enum Saves : unsigned { kNone = 0, kX = 1, kA = 1, kB = 2, kY = 4 };

// An argument as a node keeps it: a saved tensor or a number. Numbers count as saved, too: like a
// tensor's, their values cannot be had again after a backward that frees them.
struct SavedOperand {
  SavedTensor tensor;  // undefined for a number
  Scalar scalar = 0;
  bool is_tensor = false;

  void save(const Operand& operand) {
    is_tensor = operand.is_tensor();
    tensor = SavedTensor(is_tensor ? operand.tensor() : Tensor());
    if (!is_tensor) scalar = operand.scalar();
  }
};

// d max(a, b) / d a, halved on ties and whole where either is NaN, as in PyTorch. For min the
// arguments change places, and the last one says which of them is differentiated.
Tensor extreme_gradient(const Tensor& g, const Operand& winner, const Operand& loser) {
  return where(lt(winner, loser), zeros_like(g), where(eq(winner, loser), mul(g, 0.5), g));
}
Tensor extreme_gradient(const Tensor& g, const Operand& winner, const Operand& loser,
                        const Operand&) {
  return extreme_gradient(g, winner, loser);
}

constexpr double kTwoOverSqrtPi = 1.12837916709551257390;

// Second derivatives of the activations, in differentiable ops.
Tensor gelu_erf_second(const Operand& x) {  // pdf(x) (2 - x^2)
  const Tensor squared = mul(x, x);
  return mul(mul(exp(mul(squared, -0.5)), functor::kInvSqrt2Pi), sub(2, squared));
}
// With u = k (x + c x^3) and t = tanh(u): (1 - t^2) (u' + x u'' / 2 - x t u'^2).
Tensor gelu_tanh_second(const Operand& x) {
  constexpr double k = functor::kSqrt2OverPi, c = functor::kGeluCubic;
  const Tensor squared = mul(x, x);
  const Tensor t = tanh(mul(mul(x, add(mul(squared, c), 1)), k));
  const Tensor slope = mul(add(mul(squared, 3 * c), 1), k);
  const Tensor bend = sub(mul(squared, 3 * k * c), mul(mul(x, t), mul(slope, slope)));
  return mul(sub(1, mul(t, t)), add(slope, bend));
}
Tensor silu_second(const Operand& x) {  // s (1 - s) (2 + x (1 - 2 s))
  const Tensor s = sigmoid(mul(x, 1));
  return mul(mul(s, sub(1, s)), add(mul(x, sub(1, mul(s, 2))), 2));
}
Tensor softplus_second(const Tensor& ga, const Operand& x, double beta, double threshold) {
  const Tensor s = sigmoid(mul(x, beta));
  return where(gt(mul(x, beta), threshold), zeros_like(ga), mul(ga, mul(mul(s, sub(1, s)), beta)));
}

// d a^b / d a, which is 0 for b = 0 even where a = 0.
Tensor pow_base_gradient(const Tensor& g, const Operand& a, const Operand& b) {
  return where(eq(b, 0), 0.0, mul(g, mul(b, pow_tensor(a, sub(b, 1)))));
}
// d a^b / d b = a^b log(a), 0 where a = 0 and b >= 0.
Tensor pow_exponent_gradient(const Tensor& g, const Operand& a, const Operand& b) {
  const Tensor y = pow_tensor(a, b);
  const Tensor slope =
      mul(y, a.is_tensor() ? Operand(log(a.tensor())) : std::log(a.scalar().to<double>()));
  if (!a.is_tensor() && a.scalar().to<double>() != 0) return mul(g, slope);
  const Tensor flat = a.is_tensor() ? logical_and(eq(a, 0), ge(b, 0)) : ge(b, 0);
  return where(flat, 0.0, mul(g, slope));
}

template <int kArity>
class PointwiseNode : public Node {
 public:
  std::array<SavedOperand, kArity> args;
  SavedTensor result;
  std::array<Dims, kArity> sizes;  // of the tensor arguments, to undo broadcasting
  std::array<DType, kArity> dtypes;
  double p = 0, q = 0;
  bool number_first = false;  // the first of two arguments is a number
  bool writes = false;        // the argument is overwritten

  void release_saved() final {
    for (auto& arg : args) arg.tensor.reset();
    result.reset();
  }
  std::vector<Dims> saved_sizes() const final {
    std::vector<Dims> saved;
    for (const auto& arg : args) arg.tensor.append_sizes(saved);
    result.append_sizes(saved);
    return saved;
  }

  void keep(const std::array<Operand, kArity>& operands, const std::array<unsigned, kArity>& saves,
            const Tensor& y) {
    unsigned needed = kNone;
    number_first = !operands[0].is_tensor();
    for (int i = 0; i < kArity; ++i) {
      if (operands[i].is_tensor()) {
        const Tensor& t = operands[i].tensor();
        sizes[i] = t.sizes();
        dtypes[i] = t.dtype();
        add_edge(autograd::gradient_edge(t));
      } else {
        add_edge({});
      }
      if (needs(i)) needed |= saves[i];
    }
    for (int i = 0; i < kArity; ++i) {
      if (needed & (1u << i)) args[i].save(operands[i]);
    }
    if (needed & kY) result = SavedTensor::output(y, 0);
  }

 protected:
  // Some of the forms that write, `number - tensor` and `number ** tensor` have names of their own
  // in PyTorch.
  std::string_view name_of_unary(std::string_view name) const {
    if (!writes) return name;
    if (name == "LeakyReluBackward0") return "LeakyReluBackward1";
    return name == "EluBackward0" ? "EluBackward1" : name;
  }
  std::string_view name_of_binary(std::string_view name) const {
    if (!number_first) return name;
    if (name == "SubBackward0") return "RsubBackward1";
    return name == "PowBackward1" ? "PowBackward2" : name;
  }
  Tensor fit(Tensor gradient, int i) const {
    gradient = sum_to_size(gradient, sizes[i]);
    return gradient.dtype() == dtypes[i] ? gradient : gradient.to(dtypes[i]);
  }
  // The argument as forward saw it; `storage` owns the tensor that the operand borrows.
  Operand unpack(int i, Tensor& storage) {
    storage = args[i].tensor.unpack(this);
    if (!args[i].is_tensor) return args[i].scalar;
    return storage;
  }
};

template <typename NodeType, int kArity>
Tensor record(Tensor y, const std::array<Operand, kArity>& operands,
              const std::array<unsigned, kArity>& saves, double p, double q) {
  if (!autograd::grad_enabled() || !is_floating(y.dtype())) return y;
  bool wanted = false;
  for (const auto& operand : operands) {
    wanted = wanted || (operand.is_tensor() && operand.tensor().requires_grad());
  }
  if (!wanted) return y;
  auto node = make_ptr<NodeType>();
  node->p = p;
  node->q = q;
  autograd::set_history(y, node);
  node->keep(operands, saves, y);
  return y;
}

// `plain` makes the same values without writing.
template <typename NodeType, typename Plain>
const Tensor& in_place(PointwiseOp op, const char* name, DTypes dtypes, const Tensor& self,
                       double p, double q, Plain&& plain) {
  autograd::check_inplace(self);
  constexpr unsigned kSaved = NodeType::kSaves[0];
  if constexpr ((kSaved & kY) != 0) {
    // The node of a write through a view is hidden in the base's CopySlices, where it cannot
    // differentiate what it saved of its result; that of a copy can.
    if (self.impl()->base && autograd::grad_enabled() && self.requires_grad()) {
      return self.copy_(plain());
    }
  }
  Ptr<NodeType> node;
  if (autograd::grad_enabled() && self.requires_grad()) {
    node = make_ptr<NodeType>();
    node->p = p;
    node->q = q;
    node->writes = true;
    const Tensor before = kSaved & kX ? self.clone() : self;  // a copy of what is overwritten
    node->keep({before}, {kSaved & ~unsigned{kY}}, before);
  }
  pointwise::unary_into(op, name, dtypes, self, p, q);
  autograd::bump_version(self);
  if (node) {
    autograd::rebase_history(self, node);
    if (kSaved & kY) node->result = SavedTensor::output(self, 0);
  }
  return self;
}

// -- the three shapes of a row: a node class and the function

#define LOCKSTEP_UNARY_NODE(op, Name, saved, gradient)                            \
  struct op##_node final : PointwiseNode<1> {                                     \
    static constexpr std::array<unsigned, 1> kSaves = {saved};                    \
    std::string_view name() const override { return name_of_unary(#Name); }       \
    void apply(std::span<Tensor> gradients, std::span<Tensor> results) override { \
      [[maybe_unused]] const Tensor& g = gradients[0];                            \
      [[maybe_unused]] Tensor x, y;                                               \
      if constexpr (((saved)&kX) != 0) x = args[0].tensor.unpack(this);           \
      if constexpr (((saved)&kY) != 0) y = result.unpack(this);                   \
      results[0] = fit(gradient, 0);                                              \
    }                                                                             \
  };
#define LOCKSTEP_BINARY_NODE(op, Name, saved_a, gradient_a, saved_b, gradient_b)          \
  struct op##_node : PointwiseNode<2> {                                                   \
    static constexpr std::array<unsigned, 2> kSaves = {saved_a, saved_b};                 \
    std::string_view name() const override { return name_of_binary(#Name); }              \
    void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {         \
      const unsigned needed = (needs(0) ? (saved_a) : 0u) | (needs(1) ? (saved_b) : 0u);  \
      [[maybe_unused]] const Tensor& g = gradients[0];                                    \
      Tensor a_storage, b_storage;                                                        \
      [[maybe_unused]] const Operand a = needed & kA ? unpack(0, a_storage) : Operand(0); \
      [[maybe_unused]] const Operand b = needed & kB ? unpack(1, b_storage) : Operand(0); \
      if (needs(0)) results[0] = fit(gradient_a, 0);                                      \
      if (needs(1)) results[1] = fit(gradient_b, 1);                                      \
    }                                                                                     \
  };

}  // namespace

#define LOCKSTEP_DEFINE_Unary(op, dtypes, Name, saved, gradient)                          \
  namespace {                                                                             \
  LOCKSTEP_UNARY_NODE(op, Name, saved, gradient)                                          \
  }                                                                                       \
  Tensor op(const Tensor& x) {                                                            \
    LOCKSTEP_AUTOCAST_AS(autocast::policy_of(PointwiseOp::k_##op), op, x);                \
    const Tensor y = pointwise::unary(PointwiseOp::k_##op, #op, DTypes::dtypes, x, 0, 0); \
    return record<op##_node, 1>(y, {x}, op##_node::kSaves, 0, 0);                         \
  }                                                                                       \
  const Tensor& op##_(const Tensor& x) {                                                  \
    return in_place<op##_node>(PointwiseOp::k_##op, #op "_", DTypes::dtypes, x, 0, 0,     \
                               [&] { return op(x); });                                    \
  }
#define LOCKSTEP_DEFINE_Unary1(op, dtypes, Name, saved, gradient)                         \
  namespace {                                                                             \
  LOCKSTEP_UNARY_NODE(op, Name, saved, gradient)                                          \
  }                                                                                       \
  Tensor op(const Tensor& x, double p) {                                                  \
    LOCKSTEP_AUTOCAST_AS(autocast::policy_of(PointwiseOp::k_##op), op, x, p);             \
    const Tensor y = pointwise::unary(PointwiseOp::k_##op, #op, DTypes::dtypes, x, p, 0); \
    return record<op##_node, 1>(y, {x}, op##_node::kSaves, p, 0);                         \
  }                                                                                       \
  const Tensor& op##_(const Tensor& x, double p) {                                        \
    return in_place<op##_node>(PointwiseOp::k_##op, #op "_", DTypes::dtypes, x, p, 0,     \
                               [&] { return op(x, p); });                                 \
  }
#define LOCKSTEP_DEFINE_Unary2(op, dtypes, Name, saved, gradient)                         \
  namespace {                                                                             \
  LOCKSTEP_UNARY_NODE(op, Name, saved, gradient)                                          \
  }                                                                                       \
  Tensor op(const Tensor& x, double p, double q) {                                        \
    LOCKSTEP_AUTOCAST_AS(autocast::policy_of(PointwiseOp::k_##op), op, x, p, q);          \
    const Tensor y = pointwise::unary(PointwiseOp::k_##op, #op, DTypes::dtypes, x, p, q); \
    return record<op##_node, 1>(y, {x}, op##_node::kSaves, p, q);                         \
  }                                                                                       \
  const Tensor& op##_(const Tensor& x, double p, double q) {                              \
    return in_place<op##_node>(PointwiseOp::k_##op, #op "_", DTypes::dtypes, x, p, q,     \
                               [&] { return op(x, p, q); });                              \
  }
#define LOCKSTEP_BINARY_BODY(op, dtypes, p, q)                                              \
  const Tensor y = pointwise::binary(PointwiseOp::k_##op, #op, DTypes::dtypes, a, b, p, q); \
  return record<op##_node, 2>(y, {a, b}, op##_node::kSaves, p, q);
#define LOCKSTEP_DEFINE_Binary(op, dtypes, Name, saved_a, gradient_a, saved_b, gradient_b) \
  namespace {                                                                              \
  LOCKSTEP_BINARY_NODE(op, Name, saved_a, gradient_a, saved_b, gradient_b)                 \
  }                                                                                        \
  Tensor op(const Operand& a, const Operand& b) {                                          \
    LOCKSTEP_AUTOCAST_AS(autocast::policy_of(PointwiseOp::k_##op), op, a, b);              \
    LOCKSTEP_BINARY_BODY(op, dtypes, 0, 0)                                                 \
  }
#define LOCKSTEP_DEFINE_Binary1(op, dtypes, Name, saved_a, gradient_a, saved_b, gradient_b) \
  namespace {                                                                               \
  LOCKSTEP_BINARY_NODE(op, Name, saved_a, gradient_a, saved_b, gradient_b)                  \
  }                                                                                         \
  Tensor op(const Operand& a, const Operand& b, double p) { LOCKSTEP_BINARY_BODY(op, dtypes, p, 0) }
#define LOCKSTEP_DEFINE_Binary2(op, dtypes, Name, saved_a, gradient_a, saved_b, gradient_b) \
  namespace {                                                                               \
  LOCKSTEP_BINARY_NODE(op, Name, saved_a, gradient_a, saved_b, gradient_b)                  \
  }                                                                                         \
  Tensor op(const Operand& a, const Operand& b, double p, double q) {                       \
    LOCKSTEP_BINARY_BODY(op, dtypes, p, q)                                                  \
  }
#define LOCKSTEP_DEFINE_Compare(op, dtypes)                                         \
  Tensor op(const Operand& a, const Operand& b) {                                   \
    return pointwise::binary(PointwiseOp::k_##op, #op, DTypes::dtypes, a, b, 0, 0); \
  }
#define LOCKSTEP_DEFINE_Where(op, dtypes)  // the one op with a condition, below

#define LOCKSTEP_OP(name, arity, ...) LOCKSTEP_DEFINE_##arity(name, __VA_ARGS__)
LOCKSTEP_POINTWISE_OPS(LOCKSTEP_OP)
#undef LOCKSTEP_OP

namespace {

struct WhereBackward0 final : PointwiseNode<3> {
  static constexpr std::array<unsigned, 3> kSaves = {0, 1, 1};  // both sides read the condition
  std::string_view name() const override { return "WhereBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    const Tensor& g = gradients[0];
    const Tensor condition = args[0].tensor.unpack(this);
    if (needs(1)) results[1] = fit(where(condition, g, 0), 1);
    if (needs(2)) results[2] = fit(where(condition, 0, g), 2);
  }
};

}  // namespace

Tensor where(const Tensor& condition, const Operand& a, const Operand& b) {
  const Tensor y = pointwise::where(condition, a, b);
  return record<WhereBackward0, 3>(y, {condition, a, b}, WhereBackward0::kSaves, 0, 0);
}

namespace {

void check_exponent(DType dtype, Scalar exponent) {
  check(is_floating(dtype) || exponent.is_floating() || exponent.to<int64_t>() >= 0,
        "Integers to negative integer powers are not allowed.");
  check_fits(exponent, exponent.promote_with(dtype));
}

}  // namespace

Tensor pow(const Tensor& x, Scalar exponent) {
  check_exponent(x.dtype(), exponent);
  const DType wanted = exponent.promote_with(x.dtype());
  return pow_scalar(wanted == x.dtype() ? x : x.to(wanted), exponent.to<double>());
}

const Tensor& pow_(const Tensor& x, Scalar exponent) {
  check_exponent(x.dtype(), exponent);
  const DType wanted = exponent.promote_with(x.dtype());
  check(wanted == x.dtype() || is_floating(x.dtype()), "Found dtype {} but expected {}",
        type_name(x.dtype()), type_name(wanted));
  return pow_scalar_(x, exponent.to<double>());
}

Tensor pow(const Tensor& x, const Tensor& exponent) { return pow_tensor(x, exponent); }
Tensor pow(Scalar base, const Tensor& exponent) { return pow_tensor(base, exponent); }

Tensor square(const Tensor& x) { return pow(x, 2); }

Tensor gelu(const Tensor& x, std::string_view approximate) {
  if (approximate == "none") return gelu_erf(x);
  check(approximate == "tanh", "approximate argument must be either none or tanh.");
  return gelu_tanh(x);
}

}  // namespace lockstep
