#include "lockstep/engine/ops/pointwise_kernel.h"

#include <array>
#include <cmath>

#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/backend.h"
#include "lockstep/engine/ops/half.h"
#include "lockstep/engine/ops/implemented.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/overlap.h"
#include "lockstep/engine/tensor/same_device.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep::pointwise {
namespace {

int category(DType dtype) { return is_floating(dtype) ? 2 : (dtype == DType::kBool ? 0 : 1); }

void set_immediate(PointwiseCall::Operand& operand, DType dtype, Scalar value) {
  operand.data = nullptr;
  operand.immediate.bits = 0;
  switch (dtype) {
    case DType::kFloat32:
      operand.immediate.f32 = value.to<float>();
      break;
    case DType::kFloat64:
      operand.immediate.f64 = value.to<double>();
      break;
    case DType::kInt64:
      operand.immediate.i64 = value.to<int64_t>();
      break;
    case DType::kInt32:
      operand.immediate.i32 = value.to<int32_t>();
      break;
    case DType::kUInt8:
      operand.immediate.u8 = value.to<uint8_t>();
      break;
    case DType::kBool:
      operand.immediate.b = value.to<bool>();
      break;
    default:
      fail("[pointwise] no kernel computes in {}", name_of(dtype));
  }
}

bool same_dense_layout(const Tensor& a, const Tensor& b) {
  return a.sizes() == b.sizes() && ((a.is_contiguous() && b.is_contiguous()) ||
                                    (a.strides() == b.strides() && a.is_channels_last()));
}

// Strides of `t` broadcast to `sizes`.
void broadcast_strides(const Tensor& t, const Dims& sizes, int64_t* strides) {
  const int lead = sizes.size() - t.dim();
  for (int d = 0; d < sizes.size(); ++d) {
    strides[d] =
        d < lead || (t.sizes()[d - lead] == 1 && sizes[d] != 1) ? 0 : t.strides()[d - lead];
  }
}

// Orders dimensions by the output's strides and merges neighbours that every operand runs through
// evenly.
void set_geometry(PointwiseCall& call, const Tensor& out, std::span<const Tensor* const> inputs) {
  const Dims& sizes = out.sizes();
  int64_t strides[4][kMaxDims];
  broadcast_strides(out, sizes, strides[0]);
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i]) {
      broadcast_strides(*inputs[i], sizes, strides[i + 1]);
    } else {
      std::fill_n(strides[i + 1], sizes.size(), 0);
    }
  }
  int order[kMaxDims];
  int used = 0;
  for (int d = 0; d < sizes.size(); ++d) {
    if (sizes[d] != 1) order[used++] = d;
  }
  std::stable_sort(order, order + used,
                   [&](int a, int b) { return strides[0][a] > strides[0][b]; });
  const int operands = static_cast<int>(inputs.size()) + 1;
  int dims = 0;
  for (int k = 0; k < used; ++k) {
    const int d = order[k];
    bool merges = dims > 0;
    if (merges) {
      const int previous = order[k - 1];
      for (int o = 0; o < operands; ++o) {
        merges = merges && strides[o][previous] == strides[o][d] * sizes[d];
      }
    }
    if (!merges) {
      call.sizes[dims++] = 1;
    }
    call.sizes[dims - 1] *= sizes[d];
    for (int o = 0; o < operands; ++o) {
      (o == 0 ? call.out : call.in[o - 1]).strides[dims - 1] = strides[o][d];
    }
  }
  if (dims == 0) {  // a single element
    dims = 1;
    call.sizes[0] = 1;
    for (int o = 0; o < operands; ++o) (o == 0 ? call.out : call.in[o - 1]).strides[0] = 0;
  }
  call.dims = dims;
}

void set_flat_geometry(PointwiseCall& call, std::span<const Tensor* const> inputs) {
  call.dims = 1;
  call.sizes[0] = call.numel;
  call.out.strides[0] = 1;
  for (size_t i = 0; i < inputs.size(); ++i) call.in[i].strides[0] = inputs[i] ? 1 : 0;
}

// Runs `op` over operands already converted to `dtype`; null tensors stand for immediates.
void launch(PointwiseOp op, DType dtype, const Tensor& out, std::span<const Tensor* const> inputs,
            std::span<const Operand> operands, double p, double q) {
  PointwiseCall call;
  call.dtype = dtype;
  call.inputs = static_cast<int>(inputs.size());
  call.numel = out.numel();
  call.p = p;
  call.q = q;
  call.out.data = out.data_ptr();
  bool flat = out.is_contiguous() || out.is_channels_last();
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i]) {
      call.in[i].data = inputs[i]->data_ptr();
      flat = flat && same_dense_layout(out, *inputs[i]);
    } else {
      set_immediate(call.in[i], dtype, operands[i].scalar());
    }
  }
  if (flat) {
    set_flat_geometry(call, inputs);
  } else {
    set_geometry(call, out, inputs);
  }
  if (call.numel > 0) backend_of(out).pointwise(op, call);
}

bool is_comparison(PointwiseOp op) { return op >= PointwiseOp::k_eq && op <= PointwiseOp::k_ge; }

// Whether a number's nearest neighbour in the tensor's dtype is meant: 0.1 equals the 16-bit 0.1.
// What is computed with, on the other hand, keeps its precision until the result is rounded.
bool rounds_operands(PointwiseOp op) {
  switch (op) {
    case PointwiseOp::k_maximum:
    case PointwiseOp::k_minimum:
    case PointwiseOp::k_clamp:
    case PointwiseOp::k_clamp_backward:
    case PointwiseOp::k_hardtanh:
    case PointwiseOp::k_hardtanh_backward:
      return true;
    default:
      return is_comparison(op);
  }
}

double rounded(double x, DType dtype) {
  const auto narrow = static_cast<float>(x);
  return dtype == DType::kBFloat16 ? static_cast<float>(static_cast<BFloat16>(narrow))
                                   : static_cast<float>(static_cast<Float16>(narrow));
}

// Arithmetic that truth values have too: "or" for sums and maxima, "and" for products and minima.
// It is computed in bytes.
bool has_truths(PointwiseOp op) {
  return op == PointwiseOp::k_add || op == PointwiseOp::k_add_scaled || op == PointwiseOp::k_mul ||
         op == PointwiseOp::k_maximum || op == PointwiseOp::k_minimum || op == PointwiseOp::k_sign;
}

// The name that texts give an op: gelu for both of its rows, abs for abs_.
std::string_view public_name(std::string_view name) {
  if (name.starts_with("gelu_")) return "gelu";
  if (name.ends_with('_')) name.remove_suffix(1);
  return name;
}

[[noreturn]] void refuse_bool(PointwiseOp op, const char* name) {
  check(op != PointwiseOp::k_neg,
        "Negation, the `-` operator, on a bool tensor is not supported. If you are trying to "
        "invert a mask, use the `~` or `logical_not()` operator instead.");
  check(op != PointwiseOp::k_relu, "Boolean inputs not supported for relu");
  check(op != PointwiseOp::k_hardtanh, "Bool inputs not supported for hardtanh");
  not_implemented(public_name(name), DType::kBool);
}

// The dtype to compute in, from the dtype of the expression.
DType compute_dtype(PointwiseOp op, const char* name, DTypes dtypes, DType result) {
  if (!is_floating(result)) {
    if (dtypes == DTypes::kFloating) return DType::kFloat32;
    if (dtypes == DTypes::kFloatingOnly) not_implemented(public_name(name), result);
  }
  if (dtypes == DTypes::kArithmetic && result == DType::kBool) {
    if (!has_truths(op)) refuse_bool(op, name);
    return DType::kUInt8;
  }
  if (result == DType::kBFloat16 || result == DType::kFloat16) return DType::kFloat32;
  return result;
}

bool is_fraction(double x) { return !std::isinf(x) && x != std::trunc(x); }  // or NaN

// The dtypes of an op whose parameters may be bounds: integers between bounds that are not integers
// become floating. Throws where the dtype cannot hold a bound; beyond int64_t, which an integer
// bound cannot be, it bounds nothing.
DTypes dtypes_of_unary(PointwiseOp op, DTypes dtypes, DType dtype, double p, double q) {
  if (op != PointwiseOp::k_clamp && op != PointwiseOp::k_hardtanh) return dtypes;
  check(op != PointwiseOp::k_hardtanh || dtype != DType::kUInt8 || (p >= 0 && q >= 0),
        "cannot do hardtanh on an unsigned type with negative limits");
  const bool fractions = is_fraction(p) || is_fraction(q);
  if (fractions && !is_floating(dtype)) dtype = DType::kFloat32;
  for (double bound : {p, q}) {
    if (is_floating(dtype)) {
      check_fits(bound, dtype);
    } else if (std::fabs(bound) < 0x1p63) {
      check_fits(static_cast<int64_t>(bound), dtype);
    }
  }
  return fractions ? DTypes::kFloating : dtypes;
}

// Where to compute with tensors of two devices: a CPU tensor without dimensions counts as a number.
Device common_device(const char* name, Device device, bool is_number, const Tensor& t) {
  if (t.dim() == 0 && t.device().is_cpu()) return device;
  if (!is_number || !device.is_cpu()) fail_on_devices(name, device, t.device());
  return t.device();
}

template <size_t kInputs>
Tensor run(PointwiseOp op, const char* name, DTypes dtypes, std::array<Operand, kInputs> operands,
           double p, double q, const Tensor* self) {
  const autograd::NoGrad no_grad;
  DType result;
  Dims sizes;
  Device device;
  const Tensor* first = nullptr;
  bool same_shape = true, same_device = true;
  for (const auto& operand : operands) {
    if (!operand.is_tensor()) continue;
    const Tensor& t = operand.tensor();
    check(t.defined(), "[{}] an argument is an undefined tensor", name);
    if (!first) {
      first = &t;
      sizes = t.sizes();
      device = t.device();
    } else {
      if (t.device() != device) [[unlikely]] {
        device = common_device(name, device, first->dim() == 0, t);
        same_device = false;
      }
      if (!(t.sizes() == sizes)) {
        sizes = broadcast_shapes(sizes, t.sizes());
        same_shape = false;
      }
    }
  }
  check(first != nullptr, "[{}] needs at least one tensor", name);
  if (self && !same_device) check_on_device(name, device, *self);
  if constexpr (kInputs == 2) {
    if (op == PointwiseOp::k_sub) check_subtraction(operands[0], operands[1]);
  }
  result = result_type(operands);
  const DType compute = compute_dtype(op, name, dtypes, result);
  // Whatever is true counts once.
  if (op == PointwiseOp::k_add_scaled && result == DType::kBool) p = p != 0;
  // where's condition is bool whatever the values are; everything computes in one dtype.
  std::array<Tensor, kInputs> converted;
  if (is_half(result) && rounds_operands(op)) [[unlikely]] {
    p = rounded(p, result);
    q = rounded(q, result);
    for (size_t i = 0; i < kInputs; ++i) {
      if (!operands[i].is_tensor()) {
        operands[i] = Scalar(rounded(operands[i].scalar().template to<double>(), result));
      } else if (operands[i].tensor().dtype() != result) {
        converted[i] = operands[i].tensor().to(result);
        operands[i] = converted[i];
      }
    }
  }
  std::array<const Tensor*, kInputs> inputs{};
  const Tensor* shape_giver = nullptr;
  for (size_t i = 0; i < kInputs; ++i) {
    if (!operands[i].is_tensor()) continue;
    const Tensor& t = operands[i].tensor();
    if (t.dtype() != compute || !same_device) {
      converted[i] = t.to(device).to(compute);
      inputs[i] = &converted[i];
    } else if (self && overlap_of(*self, t) == Overlap::kUnknown) {
      converted[i] = t.clone();  // it might change while it is read
      inputs[i] = &converted[i];
    } else {
      inputs[i] = &t;
    }
    if (!shape_giver && (same_shape || t.sizes() == sizes)) shape_giver = inputs[i];
  }
  if (self) {
    if (!(self->sizes() == sizes)) [[unlikely]] {
      fail("output with shape {} doesn't match the broadcast shape {}", self->sizes(), sizes);
    }
    const DType natural = dtypes == DTypes::kFloating && !is_floating(result) ? compute : result;
    check(category(self->dtype()) >= category(natural),
          "result type {} can't be cast to the desired output type {}", type_name(natural),
          type_name(self->dtype()));
    if (self->dtype() == compute) {
      launch(op, compute, *self, inputs, operands, p, q);
    } else {
      const Tensor wide = empty_dense(sizes, compute, device);
      launch(op, compute, wide, inputs, operands, p, q);
      backend_of(*self).copy(*self, wide);
    }
    return *self;
  }
  const DType out_dtype = is_comparison(op) ? DType::kBool : compute;
  const Tensor out = shape_giver && !shape_giver->is_contiguous() && shape_giver->is_channels_last()
                         ? empty_channels_last(sizes, out_dtype, device)
                         : empty_dense(sizes, out_dtype, device);
  launch(op, compute, out, inputs, operands, p, q);
  const bool as_bytes = result == DType::kBool && compute == DType::kUInt8;
  const bool narrow = !is_comparison(op) && result != compute && (is_floating(result) || as_bytes);
  return narrow ? out.to(result) : out;
}

}  // namespace

DType result_type(std::span<const Operand> operands) {
  bool have_dimensioned = false, have_zero_dim = false;
  DType dimensioned = DType::kBool, zero_dim = DType::kBool;
  for (const auto& operand : operands) {
    if (!operand.is_tensor()) continue;
    const Tensor& t = operand.tensor();
    bool& have = t.dim() > 0 ? have_dimensioned : have_zero_dim;
    DType& dtype = t.dim() > 0 ? dimensioned : zero_dim;
    dtype = have ? promote(dtype, t.dtype()) : t.dtype();
    have = true;
  }
  DType result = have_dimensioned ? dimensioned : zero_dim;
  if (have_dimensioned && have_zero_dim && category(zero_dim) > category(dimensioned)) {
    result = zero_dim;
  }
  for (const auto& operand : operands) {
    if (!operand.is_tensor()) result = operand.scalar().promote_with(result);
  }
  return result;
}

Tensor unary(PointwiseOp op, const char* name, DTypes dtypes, const Tensor& x, double p, double q) {
  if (op == PointwiseOp::k_clamp && x.dtype() == DType::kBool && !is_fraction(p) &&
      !is_fraction(q)) {
    return unary(op, name, dtypes, x.to(DType::kInt64), p, q);
  }
  return run<1>(op, name, dtypes_of_unary(op, dtypes, x.dtype(), p, q), {Operand(x)}, p, q,
                nullptr);
}

Tensor binary(PointwiseOp op, const char* name, DTypes dtypes, const Operand& a, const Operand& b,
              double p, double q) {
  return run<2>(op, name, dtypes, {a, b}, p, q, nullptr);
}

Tensor where(const Tensor& condition, const Operand& a, const Operand& b) {
  check(condition.dtype() == DType::kBool || condition.dtype() == DType::kUInt8,
        "where expected condition to be a boolean tensor, but got a tensor with dtype {}",
        type_name(condition.dtype()));
  const std::array<Operand, 2> values = {a, b};
  // Two numbers: PyTorch's default dtypes for literals.
  DType result = a.is_tensor() || b.is_tensor()
                     ? result_type(values)
                     : (a.scalar().is_floating() || b.scalar().is_floating() ? DType::kFloat32
                                                                             : DType::kInt64);
  for (const Operand& value : values) {
    if (!value.is_tensor()) check_fits(value.scalar(), result);
  }
  const bool to_bool = result == DType::kBool;  // computed as bytes
  if (to_bool) result = DType::kUInt8;
  const autograd::NoGrad no_grad;
  const Tensor mask = condition.to(result);
  const Tensor y = run<3>(PointwiseOp::k_where, "where", DTypes::kArithmetic, {Operand(mask), a, b},
                          0, 0, nullptr);
  return to_bool ? y.to(DType::kBool) : y;
}

void unary_into(PointwiseOp op, const char* name, DTypes dtypes, const Tensor& self, double p,
                double q) {
  run<1>(op, name, dtypes_of_unary(op, dtypes, self.dtype(), p, q), {Operand(self)}, p, q, &self);
}

void binary_into(PointwiseOp op, const char* name, DTypes dtypes, const Tensor& self,
                 const Operand& other, double p, double q) {
  if (other.is_tensor()) check_no_partial_overlap(self, other.tensor());
  run<2>(op, name, dtypes, {Operand(self), other}, p, q, &self);
}

void check_subtraction(const Operand& a, const Operand& b) {
  const auto is_bool = [](const Operand& x) {
    return x.is_tensor() ? x.tensor().dtype() == DType::kBool : x.scalar().is_bool();
  };
  check(!is_bool(a) || !is_bool(b),
        "Subtraction, the `-` operator, with two bool tensors is not supported. Use the `^` or "
        "`logical_xor()` operator instead.");
  check(!is_bool(a) && !is_bool(b),
        "Subtraction, the `-` operator, with a bool tensor is not supported. If you are trying to "
        "invert a mask, use the `~` or `logical_not()` operator instead.");
}

void check_alpha(const Tensor& a, const Tensor& b, Scalar alpha) {
  check(!alpha.is_floating() || is_floating(a.dtype()) || is_floating(b.dtype()),
        "For integral input tensors, argument alpha must not be a floating point number.");
}

}  // namespace lockstep::pointwise
