#include "lockstep/engine/tensor/factory.h"

#include <cmath>

#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/backend.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep {
namespace {

Tensor finish(const Tensor& t, const TensorOptions& options) {
  if (options.requires_grad) t.requires_grad_();
  return t;
}

Tensor like(const Tensor& other, Scalar value) {
  const Tensor t = empty_like(other);
  t.fill_(value);
  return t;
}

Tensor integer_range(Scalar start, Scalar end, Scalar step, const TensorOptions& options) {
  const auto s = start.to<int64_t>(), e = end.to<int64_t>(), d = step.to<int64_t>();
  check(d != 0, "step must be nonzero");
  check(d > 0 ? s <= e : s >= e, "upper bound and larger bound inconsistent with step sign");
  // Unsigned: the way may be longer than the largest int64_t.
  const auto from = static_cast<uint64_t>(s), to = static_cast<uint64_t>(e),
             stride = static_cast<uint64_t>(d);
  const uint64_t way = d > 0 ? to - from : from - to, pace = d > 0 ? stride : -stride;
  const uint64_t count = way / pace + (way % pace != 0);
  std::vector<int64_t> values(static_cast<size_t>(count));
  for (uint64_t i = 0; i < count; ++i) values[i] = static_cast<int64_t>(from + i * stride);
  const autograd::NoGrad no_grad;
  const Tensor t = from_span<int64_t>(values, {static_cast<int64_t>(count)}, {DType::kInt64});
  return finish(t.to(options.dtype).to(options.device), options);
}

}  // namespace

Tensor empty(const Dims& sizes, TensorOptions options) {
  for (int64_t n : sizes) {
    check(n >= 0, "Trying to create tensor with negative dimension {}: {}", n, sizes);
  }
  return finish(empty_dense(sizes, options.dtype, options.device), options);
}

Tensor full(const Dims& sizes, Scalar value, FullOptions options) {
  const TensorOptions made = {options.dtype.value_or(value.dtype()), options.device};
  check_fits(value, made.dtype);
  const Tensor t = empty(sizes, made);
  backend_of(t).fill(t, value);
  if (options.requires_grad) t.requires_grad_();
  return t;
}

Tensor zeros(const Dims& sizes, TensorOptions options) {
  return full(sizes, 0, {options.dtype, options.device, options.requires_grad});
}
Tensor ones(const Dims& sizes, TensorOptions options) {
  return full(sizes, 1, {options.dtype, options.device, options.requires_grad});
}

Tensor eye(int64_t n, TensorOptions options) {
  check(n >= 0, "n must be greater or equal to 0, got {}", n);
  const bool requires_grad = std::exchange(options.requires_grad, false);
  const Tensor t = zeros({n, n}, options);
  const Tensor diagonal = alias_of(t, {n}, {n + 1}, 0);
  backend_of(t).fill(diagonal, 1);
  options.requires_grad = requires_grad;
  return finish(t, options);
}

Tensor arange(Scalar start, Scalar end, Scalar step, TensorOptions options) {
  if (!is_floating(options.dtype)) return integer_range(start, end, step, options);
  const double s = start.to<double>(), e = end.to<double>(), d = step.to<double>();
  check(d != 0, "step must be nonzero");
  check(std::isfinite(s) && std::isfinite(e), "unsupported range: {} -> {}", s, e);
  check(d > 0 ? s <= e : s >= e, "upper bound and larger bound inconsistent with step sign");
  const auto count = static_cast<int64_t>(std::ceil((e - s) / d));
  std::vector<double> values(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    values[static_cast<size_t>(i)] = s + static_cast<double>(i) * d;
  }
  const autograd::NoGrad no_grad;
  return finish(
      from_span<double>(values, {count}, {DType::kFloat64}).to(options.dtype).to(options.device),
      options);
}

Tensor arange(Scalar start, Scalar end, Scalar step) {
  const bool floating = start.is_floating() || end.is_floating() || step.is_floating();
  return arange(start, end, step, {floating ? DType::kFloat32 : DType::kInt64});
}

Tensor arange(Scalar end) { return arange(0, end); }

Tensor rand(const Dims& sizes, TensorOptions options) {
  const Tensor t = empty(sizes, {options.dtype, options.device});
  t.uniform_();
  return finish(t, options);
}

Tensor randn(const Dims& sizes, TensorOptions options) {
  const Tensor t = empty(sizes, {options.dtype, options.device});
  t.normal_();
  return finish(t, options);
}

Tensor empty_like(const Tensor& other) {
  return !other.is_contiguous() && other.is_channels_last()
             ? empty_channels_last(other.sizes(), other.dtype(), other.device())
             : empty_dense(other.sizes(), other.dtype(), other.device());
}
Tensor zeros_like(const Tensor& other) { return like(other, 0); }
Tensor ones_like(const Tensor& other) { return like(other, 1); }

template <typename T>
Tensor from_span(std::span<const T> values, const Dims& sizes, TensorOptions options) {
  check(static_cast<int64_t>(values.size()) == sizes.product(),
        "[from_span] {} values do not fill sizes {}", values.size(), sizes);
  const Tensor host = empty_dense(sizes, kDTypeOf<T>, Device{});
  if (!values.empty()) {
    backend_of(Device{}).copy_from_host(host.data_ptr(), values.data(), values.size_bytes());
  }
  const autograd::NoGrad no_grad;
  return finish(host.to(options.dtype).to(options.device), options);
}
template Tensor from_span(std::span<const float>, const Dims&, TensorOptions);
template Tensor from_span(std::span<const double>, const Dims&, TensorOptions);
template Tensor from_span(std::span<const int64_t>, const Dims&, TensorOptions);
template Tensor from_span(std::span<const int32_t>, const Dims&, TensorOptions);
template Tensor from_span(std::span<const uint8_t>, const Dims&, TensorOptions);
template Tensor from_span(std::span<const bool>, const Dims&, TensorOptions);

Tensor from_memory(void* data, const Dims& sizes, DType dtype, std::shared_ptr<void> owner,
                   Device device) {
  const size_t bytes = static_cast<size_t>(sizes.product()) * size_of(dtype);
  return Tensor(make_ptr<TensorImpl>(Storage::alias(data, bytes, device, std::move(owner)), 0,
                                     sizes, contiguous_strides(sizes), dtype));
}

Literal::Literal(std::initializer_list<Literal> parts)
    : sizes_{static_cast<int64_t>(parts.size())} {
  if (parts.size() == 0) return;
  const Dims& inner = parts.begin()->sizes_;
  for (int64_t n : inner) sizes_.push_back(n);
  for (const Literal& part : parts) {
    check(part.sizes_ == inner, "[tensor] rows have {} and {} elements; they must be equally long",
          inner.empty() ? 1 : inner[0], part.sizes_.empty() ? 1 : part.sizes_[0]);
    values_.insert(values_.end(), part.values_.begin(), part.values_.end());
  }
}

Tensor tensor(const Literal& literal, LiteralOptions options) {
  // As torch.tensor: a float among the numbers makes it float32, else an integer int64, else bool.
  bool floats = literal.values().empty(), integers = false;
  for (const Scalar& v : literal.values()) {
    floats = floats || v.is_floating();
    integers = integers || !v.is_bool();
  }
  Tensor t;
  if (floats) {
    std::vector<double> values;
    for (const Scalar& v : literal.values()) values.push_back(v.to<double>());
    t = from_span<double>(values, literal.sizes(), {options.dtype.value_or(DType::kFloat32)});
  } else {
    std::vector<int64_t> values;
    for (const Scalar& v : literal.values()) values.push_back(v.to<int64_t>());
    const DType natural = integers ? DType::kInt64 : DType::kBool;
    t = from_span<int64_t>(values, literal.sizes(), {options.dtype.value_or(natural)});
  }
  if (!(options.device == t.device())) t = t.to(options.device);
  if (options.requires_grad) t.requires_grad_();
  return t;
}

}  // namespace lockstep
