#include "lockstep/engine/cpu/scan.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "lockstep/engine/cpu/thread_pool.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::cpu {
namespace {

constexpr int64_t kTile = 8192;  // elements per parallel tile, about

// Calls fn(first element, step between elements) for every line along `dim`, in parallel.
template <typename F>
void for_each_line(const Tensor& t, int dim, F&& fn) {
  const int64_t length = t.dim() > 0 ? t.sizes()[dim] : 1;
  const int64_t lines = length > 0 ? t.numel() / length : 0;
  int64_t step = 1;
  for (int d = dim + 1; d < t.dim(); ++d) step *= t.sizes()[d];
  const int64_t per_tile = std::max<int64_t>(1, kTile / std::max<int64_t>(1, length));
  parallel_for((lines + per_tile - 1) / per_tile, [&](int64_t tile) {
    for (int64_t line = tile * per_tile; line < std::min(lines, (tile + 1) * per_tile); ++line) {
      fn(line / step * step * length + line % step, step, length);
    }
  });
}

template <typename T, typename Sum>
void cumsum_as(const Tensor& out, const Tensor& in, int dim, bool reverse) {
  const T* from = in.data<T>();
  T* to = out.data<T>();
  for_each_line(in, dim, [&](int64_t first, int64_t step, int64_t length) {
    Sum total = 0;
    for (int64_t k = 0; k < length; ++k) {
      const int64_t at = first + (reverse ? length - 1 - k : k) * step;
      total += from[at];
      to[at] = static_cast<T>(total);
    }
  });
}

template <typename T>
void sort_as(const Tensor& values, const Tensor& indices, const Tensor& in, int dim,
             bool descending) {
  const T* from = in.data<T>();
  T* to = values.data<T>();
  int64_t* places = indices.data<int64_t>();
  for_each_line(in, dim, [&](int64_t first, int64_t step, int64_t length) {
    std::vector<int64_t> order(static_cast<size_t>(length));
    std::iota(order.begin(), order.end(), int64_t{0});
    const auto less = [](T a, T b) { return a < b || (b != b && a == a); };
    std::stable_sort(order.begin(), order.end(), [&](int64_t i, int64_t j) {
      const T a = from[first + i * step], b = from[first + j * step];
      return descending ? less(b, a) : less(a, b);
    });
    for (int64_t k = 0; k < length; ++k) {
      const int64_t place = order[static_cast<size_t>(k)];
      to[first + k * step] = from[first + place * step];
      places[first + k * step] = place;
    }
  });
}

}  // namespace

void cumsum_along(const Tensor& out, const Tensor& in, int dim, bool reverse) {
  switch (in.dtype()) {
    case DType::kFloat32:
      return cumsum_as<float, double>(out, in, dim, reverse);
    case DType::kFloat64:
      return cumsum_as<double, double>(out, in, dim, reverse);
    case DType::kInt64:
      return cumsum_as<int64_t, int64_t>(out, in, dim, reverse);
    default:
      fail("[cumsum] no kernel for {}", name_of(in.dtype()));
  }
}

void sort_along(const Tensor& values, const Tensor& indices, const Tensor& in, int dim,
                bool descending) {
  switch (in.dtype()) {
    case DType::kFloat32:
      return sort_as<float>(values, indices, in, dim, descending);
    case DType::kFloat64:
      return sort_as<double>(values, indices, in, dim, descending);
    case DType::kInt64:
      return sort_as<int64_t>(values, indices, in, dim, descending);
    case DType::kInt32:
      return sort_as<int32_t>(values, indices, in, dim, descending);
    case DType::kUInt8:
      return sort_as<uint8_t>(values, indices, in, dim, descending);
    case DType::kBool:
      return sort_as<bool>(values, indices, in, dim, descending);
    default:
      fail("[sort] no kernel for {}", name_of(in.dtype()));
  }
}

}  // namespace lockstep::cpu
