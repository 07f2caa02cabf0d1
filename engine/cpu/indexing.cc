#include "lockstep/engine/cpu/indexing.h"

#include <algorithm>

#include "lockstep/engine/cpu/thread_pool.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::cpu {
namespace {

constexpr int64_t kTile = 4096;  // elements per parallel tile

// Visits positions [begin, end) of a contiguous box of `sizes` and the offset of each within
// something with `strides`.
template <typename F>
void walk(const Dims& sizes, const Dims& strides, int64_t begin, int64_t end, F&& fn) {
  int64_t at[kMaxDims];
  int64_t rest = begin, offset = 0;
  for (int d = sizes.size() - 1; d >= 0; --d) {
    at[d] = rest % sizes[d];
    rest /= sizes[d];
    offset += at[d] * strides[d];
  }
  for (int64_t i = begin; i < end; ++i) {
    fn(i, offset);
    for (int d = sizes.size() - 1; d >= 0; --d) {
      offset += strides[d];
      if (++at[d] < sizes[d]) break;
      offset -= sizes[d] * strides[d];
      at[d] = 0;
    }
  }
}

// Strides that leave `dim` out: its offset comes from the index.
Dims strides_but(const Tensor& t, int dim) {
  Dims strides = t.strides();
  if (!strides.empty()) strides[dim] = 0;
  return strides;
}

int64_t stride_of(const Tensor& t, int dim) { return t.dim() > 0 ? t.strides()[dim] : 1; }

template <typename T>
void gather_as(const Tensor& out, const Tensor& in, int dim, const Tensor& index) {
  const Dims strides = strides_but(in, dim);
  const int64_t step = stride_of(in, dim), n = index.numel();
  const int64_t* at = index.data<int64_t>();
  const T* from = static_cast<const T*>(in.data_ptr());
  T* to = static_cast<T*>(out.data_ptr());
  parallel_for((n + kTile - 1) / kTile, [&](int64_t tile) {
    walk(index.sizes(), strides, tile * kTile, std::min(n, (tile + 1) * kTile),
         [&](int64_t i, int64_t offset) { to[i] = from[offset + at[i] * step]; });
  });
}

// One thread: an element may be hit from anywhere.
template <typename T>
void scatter_add_as(const Tensor& out, int dim, const Tensor& index, const Tensor& in) {
  const Dims out_strides = strides_but(out, dim);
  const int64_t step = stride_of(out, dim);
  const int64_t* at = index.data<int64_t>();
  const T* from = in.data<T>();
  T* to = out.data<T>();
  walk(index.sizes(), out_strides, 0, index.numel(), [&](int64_t i, int64_t offset) {
    T& target = to[offset + at[i] * step];
    target = static_cast<T>(target + from[i]);
  });
}

}  // namespace

void gather_elements(const Tensor& out, const Tensor& in, int dim, const Tensor& index) {
  if (index.numel() == 0) return;
  switch (size_of(in.dtype())) {
    case 8:
      return gather_as<uint64_t>(out, in, dim, index);
    case 4:
      return gather_as<uint32_t>(out, in, dim, index);
    case 2:
      return gather_as<uint16_t>(out, in, dim, index);
    default:
      return gather_as<uint8_t>(out, in, dim, index);
  }
}

void scatter_add_elements(const Tensor& out, int dim, const Tensor& index, const Tensor& in) {
  if (index.numel() == 0) return;
  switch (out.dtype()) {
    case DType::kFloat32:
      return scatter_add_as<float>(out, dim, index, in);
    case DType::kFloat64:
      return scatter_add_as<double>(out, dim, index, in);
    case DType::kInt64:
      return scatter_add_as<int64_t>(out, dim, index, in);
    case DType::kInt32:
      return scatter_add_as<int32_t>(out, dim, index, in);
    case DType::kUInt8:
      return scatter_add_as<uint8_t>(out, dim, index, in);
    case DType::kBool:
      return scatter_add_as<bool>(out, dim, index, in);
    default:
      fail("[scatter_add] no kernel for {}", name_of(out.dtype()));
  }
}

}  // namespace lockstep::cpu
