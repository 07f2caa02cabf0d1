#include "lockstep/engine/tensor/tensor.h"

#include <algorithm>
#include <limits>
#include <ostream>

#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/backend.h"
#include "lockstep/engine/sync_debug.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/print.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep {
namespace {

const TensorImpl& checked(const Ptr<TensorImpl>& impl) {
  if (!impl) [[unlikely]] {
    throw ValueError("[tensor] an undefined tensor has no geometry and no values");
  }
  return *impl;
}

int existing_dim(const Tensor& t, int64_t dim) {
  check(t.dim() > 0, "Dimension specified as {} but tensor has no dimensions", dim);
  return wrap_dim(dim, t.dim());
}

bool dense_in_order(const Dims& sizes, const Dims& strides, const int* order, int dims) {
  int64_t expected = 1;
  for (int i = dims - 1; i >= 0; --i) {
    const int d = order[i];
    if (sizes[d] == 1) continue;
    if (strides[d] != expected) return false;
    expected *= sizes[d];
  }
  return true;
}

template <typename T>
Scalar scalar_of(const void* data) {
  if constexpr (std::is_same_v<T, BFloat16> || std::is_same_v<T, Float16>) {
    return Scalar(static_cast<float>(*static_cast<const T*>(data)));
  } else {
    return Scalar(*static_cast<const T*>(data));
  }
}

Scalar read_scalar(DType dtype, const void* data) {
  switch (dtype) {
    case DType::kFloat32:
      return scalar_of<float>(data);
    case DType::kFloat64:
      return scalar_of<double>(data);
    case DType::kBFloat16:
      return scalar_of<BFloat16>(data);
    case DType::kFloat16:
      return scalar_of<Float16>(data);
    case DType::kInt64:
      return scalar_of<int64_t>(data);
    case DType::kInt32:
      return scalar_of<int32_t>(data);
    case DType::kUInt8:
      return scalar_of<uint8_t>(data);
    case DType::kBool:
      return scalar_of<bool>(data);
  }
  fail("[item] unknown dtype");
}

}  // namespace

void intrusive_retain(const TensorImpl* impl) { impl->retain(); }
void intrusive_release(const TensorImpl* impl) { impl->release(); }

TensorImpl::TensorImpl(Ptr<Storage> storage, int64_t offset, const Dims& sizes, const Dims& strides,
                       DType dtype)
    : storage(std::move(storage)), offset(offset), sizes(sizes), strides(strides), dtype(dtype) {
  inference = autograd::inference_mode_enabled();
  refresh();
}

TensorImpl::~TensorImpl() { stop_retaining_grad(); }

bool TensorImpl::stop_retaining_grad() {
  if (!autograd || !autograd->retains_grad) return false;
  autograd->retains_grad = false;
  if (auto* extras = autograd->grad_fn->extras_or_null()) {
    std::erase_if(extras->retained, [this](const auto& entry) { return entry.second == this; });
  }
  return true;
}

namespace {

// The product of sizes, none of them negative; -1 if it does not fit. Without elements any do.
int64_t product_or_overflow(const Dims& sizes) {
  int64_t n = 1;
  bool overflow = false;
  for (const int64_t size : sizes) overflow = __builtin_mul_overflow(n, size, &n) || overflow;
  if (!overflow) [[likely]]
    return n;
  return std::find(sizes.begin(), sizes.end(), 0) != sizes.end() ? 0 : -1;
}

}  // namespace

void TensorImpl::refresh() {
  numel = product_or_overflow(sizes);
  check(numel >= 0, "numel: integer multiplication overflow, sizes={}", sizes);
  contiguous = true;
  int64_t expected = 1;
  for (int d = sizes.size() - 1; d >= 0 && numel > 0; --d) {
    if (sizes[d] == 1) continue;
    contiguous = contiguous && strides[d] == expected;
    expected *= sizes[d];
  }
}

Tensor empty_dense(const Dims& sizes, DType dtype, Device device) {
  const int64_t numel = product_or_overflow(sizes);
  const auto width = static_cast<int64_t>(size_of(dtype));
  check(numel >= 0 && numel <= std::numeric_limits<int64_t>::max() / width,
        "Storage size calculation overflowed with sizes={}", sizes);
  return Tensor(
      make_ptr<TensorImpl>(Storage::allocate(static_cast<size_t>(numel) * size_of(dtype), device),
                           0, sizes, contiguous_strides(sizes), dtype));
}

Tensor empty_channels_last(const Dims& sizes, DType dtype, Device device) {
  const Tensor t = empty_dense(sizes, dtype, device);
  const int64_t c = sizes[1], h = sizes[2], w = sizes[3];
  t.impl()->strides = Dims{h * w * c, 1, w * c, c};
  t.impl()->refresh();
  return t;
}

Tensor alias_of(const Tensor& source, const Dims& sizes, const Dims& strides, int64_t offset) {
  const TensorImpl& from = *source.impl();
  return Tensor(make_ptr<TensorImpl>(from.storage, offset, sizes, strides, from.dtype));
}

const Dims& Tensor::sizes() const { return checked(impl_).sizes; }
const Dims& Tensor::strides() const { return checked(impl_).strides; }
int64_t Tensor::size(int64_t d) const { return sizes()[existing_dim(*this, d)]; }
int64_t Tensor::stride(int64_t d) const { return strides()[existing_dim(*this, d)]; }
int Tensor::dim() const { return sizes().size(); }
int64_t Tensor::numel() const { return checked(impl_).numel; }
int64_t Tensor::storage_offset() const { return checked(impl_).offset; }
DType Tensor::dtype() const { return checked(impl_).dtype; }
Device Tensor::device() const { return checked(impl_).storage->device(); }
bool Tensor::is_contiguous() const { return checked(impl_).contiguous; }

bool Tensor::is_channels_last() const {
  const TensorImpl& t = checked(impl_);
  constexpr int kOrder[4] = {0, 2, 3, 1};
  return t.sizes.size() == 4 && dense_in_order(t.sizes, t.strides, kOrder, 4);
}

void* Tensor::data_ptr() const { return checked(impl_).data(); }

void Tensor::check_dtype(DType wanted) const {
  check(dtype() == wanted, "[data] the tensor is {}, not {}", name_of(dtype()), name_of(wanted));
}

Scalar Tensor::item_scalar() const {
  const TensorImpl& t = checked(impl_);
  check(t.numel == 1, "a Tensor with {} elements cannot be converted to Scalar", t.numel);
  alignas(8) unsigned char bytes[8];
  const SyncCause cause("item()");
  backend_of(device()).copy_to_host(bytes, t.data(), size_of(t.dtype));
  return read_scalar(t.dtype, bytes);
}

std::vector<double> Tensor::to_vector() const {
  const autograd::NoGrad no_grad;
  const SyncCause cause("to_vector()");
  const Tensor host = detach().to(DType::kFloat64).to(Device{}).contiguous();
  const double* values = host.data<double>();
  return {values, values + host.numel()};
}

std::string Tensor::str() const { return format_tensor(*this); }

std::ostream& operator<<(std::ostream& out, const Tensor& tensor) { return out << tensor.str(); }

}  // namespace lockstep
