#include "lockstep/engine/cpu/reduction.h"

#include <cstring>
#include <vector>

#include "lockstep/engine/cpu/caching_allocator.h"
#include "lockstep/engine/cpu/elementwise.h"
#include "lockstep/engine/cpu/reduction_kernels.h"
#include "lockstep/engine/cpu/thread_pool.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep::cpu {
namespace {

constexpr int64_t kChunk = 32768;   // elements of one row per parallel tile
constexpr int64_t kRowBlock = 256;  // rows of a column sum per parallel tile
constexpr int64_t kColumnTile = 1024;

template <typename T>
T row_sum(const T* x, int64_t n) {
  if constexpr (std::is_same_v<T, float>) return reduction_kernels().sum_f32(x, n);
  if constexpr (std::is_same_v<T, double>) return reduction_kernels().sum_f64(x, n);
  if constexpr (std::is_same_v<T, int64_t>) return reduction_kernels().sum_i64(x, n);
}

template <typename T>
void column_sum(T* out, const T* x, int64_t rows, int64_t stride, int64_t columns) {
  const auto& k = reduction_kernels();
  if constexpr (std::is_same_v<T, float>) k.columns_f32(out, x, rows, stride, columns);
  if constexpr (std::is_same_v<T, double>) k.columns_f64(out, x, rows, stride, columns);
  if constexpr (std::is_same_v<T, int64_t>) k.columns_i64(out, x, rows, stride, columns);
}

// out[i] = sum of row i of a dense (rows, n) matrix.
template <typename T>
void sum_rows(T* out, const T* x, int64_t rows, int64_t n) {
  const int64_t chunks = std::max<int64_t>(1, (n + kChunk - 1) / kChunk);
  if (chunks == 1) {
    const int64_t per_tile = std::max<int64_t>(1, kChunk / std::max<int64_t>(n, 1));
    parallel_for((rows + per_tile - 1) / per_tile, [&](int64_t tile) {
      for (int64_t i = tile * per_tile; i < std::min(rows, (tile + 1) * per_tile); ++i) {
        out[i] = row_sum(x + i * n, n);
      }
    });
    return;
  }
  std::vector<T> partial(static_cast<size_t>(rows * chunks));
  parallel_for(rows * chunks, [&](int64_t tile) {
    const int64_t begin = tile % chunks * kChunk;
    partial[static_cast<size_t>(tile)] =
        row_sum(x + tile / chunks * n + begin, std::min(kChunk, n - begin));
  });
  for (int64_t i = 0; i < rows; ++i) out[i] = row_sum(partial.data() + i * chunks, chunks);
}

// out[j] = sum of column j of a dense (rows, n) matrix.
template <typename T>
void sum_columns(T* out, const T* x, int64_t rows, int64_t n) {
  const int64_t blocks = std::max<int64_t>(1, (rows + kRowBlock - 1) / kRowBlock);
  const int64_t tiles = (n + kColumnTile - 1) / kColumnTile;
  const Workspace workspace(blocks > 1 ? static_cast<size_t>(blocks * n) * sizeof(T) : 0);
  T* partial = blocks > 1 ? workspace.as<T>() : out;
  parallel_for(blocks * tiles, [&](int64_t at) {
    const int64_t block = at / tiles, column = at % tiles * kColumnTile;
    column_sum(partial + block * n + column, x + block * kRowBlock * n + column,
               std::min(kRowBlock, rows - block * kRowBlock), n, std::min(kColumnTile, n - column));
  });
  if (blocks > 1) {
    parallel_for(tiles, [&](int64_t tile) {
      const int64_t column = tile * kColumnTile;
      column_sum(out + column, partial + column, blocks, n, std::min(kColumnTile, n - column));
    });
  }
}

template <typename T>
void sum_as(const Tensor& out, const Tensor& in) {
  T* to = out.data<T>();
  const int dims = in.dim();
  // Leading and trailing dimensions that are reduced, or have size 1 and so may count as either.
  const auto reduced = [&](int d) { return out.sizes()[d] == 1; };
  const auto kept = [&](int d) { return out.sizes()[d] == in.sizes()[d]; };
  int first_kept = 0;
  while (first_kept < dims && reduced(first_kept)) ++first_kept;
  int last_kept = dims;
  while (last_kept > 0 && reduced(last_kept - 1)) --last_kept;
  bool leading = true, trailing = true;
  for (int d = first_kept; d < dims; ++d) leading = leading && kept(d);
  for (int d = 0; d < last_kept; ++d) trailing = trailing && kept(d);
  const int64_t outputs = out.numel();
  const int64_t terms = outputs > 0 ? in.numel() / outputs : 0;
  if (in.is_contiguous() && trailing) {
    sum_rows(to, in.data<T>(), outputs, terms);
  } else if (in.is_contiguous() && leading) {
    sum_columns(to, in.data<T>(), terms, outputs);
  } else {
    // Anything else: the kept dimensions first, then the reduced ones.
    Dims sizes, strides;
    for (const bool want_kept : {true, false}) {
      for (int d = 0; d < dims; ++d) {
        if (kept(d) != want_kept) continue;
        sizes.push_back(in.sizes()[d]);
        strides.push_back(in.strides()[d]);
      }
    }
    const Tensor dense = empty_dense(sizes, in.dtype(), in.device());
    copy_strided(dense, alias_of(in, sizes, strides, in.storage_offset()));
    sum_rows(to, dense.data<T>(), outputs, terms);
  }
}

struct Slices {
  int64_t outer = 1, length, inner = 1;
  Slices(const Tensor& t, int dim) : length(t.dim() > 0 ? t.sizes()[dim] : 1) {
    for (int d = 0; d < dim; ++d) outer *= t.sizes()[d];
    for (int d = dim + 1; d < t.dim(); ++d) inner *= t.sizes()[d];
  }
};

template <typename T>
void extreme_as(const Tensor& values, const Tensor& indices, const Tensor& in, int dim,
                bool largest) {
  const Tensor dense = in.contiguous();
  const Slices s(dense, dim);
  const T* x = dense.data<T>();
  T* best_values = values.data<T>();
  int64_t* best_indices = indices.data<int64_t>();
  const int64_t per_tile = std::max<int64_t>(1, kChunk / std::max<int64_t>(1, s.length * s.inner));
  parallel_for((s.outer + per_tile - 1) / per_tile, [&](int64_t tile) {
    for (int64_t o = tile * per_tile; o < std::min(s.outer, (tile + 1) * per_tile); ++o) {
      for (int64_t i = 0; i < s.inner; ++i) {
        const T* at = x + o * s.length * s.inner + i;
        T best = at[0];
        int64_t index = 0;
        for (int64_t k = 1; k < s.length; ++k) {
          const T v = at[k * s.inner];
          const bool better = largest ? v > best : v < best;
          if ((better || v != v) && best == best) {  // the first NaN stays
            best = v;
            index = k;
          }
        }
        best_values[o * s.inner + i] = best;
        best_indices[o * s.inner + i] = index;
      }
    }
  });
}

template <typename T>
void add_slices_as(const Tensor& out, int dim, const Tensor& index, const Tensor& in) {
  const Slices s(out, dim);
  const int64_t count = index.numel();
  const int64_t* at = index.data<int64_t>();
  T* to = out.data<T>();
  const T* from = in.data<T>();
  // In index order within each outer slice, so repeated indices add up the same way every time.
  parallel_for(s.outer, [&](int64_t o) {
    for (int64_t k = 0; k < count; ++k) {
      T* row = to + (o * s.length + at[k]) * s.inner;
      const T* add = from + (o * count + k) * s.inner;
      for (int64_t i = 0; i < s.inner; ++i) row[i] = static_cast<T>(row[i] + add[i]);
    }
  });
}

}  // namespace

void sum_dims(const Tensor& out, const Tensor& in) {
  if (out.numel() == 0) return;
  if (in.numel() == 0) {
    fill_strided(out, 0);
    return;
  }
  switch (in.dtype()) {
    case DType::kFloat32:
      return sum_as<float>(out, in);
    case DType::kFloat64:
      return sum_as<double>(out, in);
    case DType::kInt64:
      return sum_as<int64_t>(out, in);
    default:
      fail("[sum] no kernel for {}", name_of(in.dtype()));
  }
}

void extreme_along(const Tensor& values, const Tensor& indices, const Tensor& in, int dim,
                   bool largest) {
  switch (in.dtype()) {
    case DType::kFloat32:
      return extreme_as<float>(values, indices, in, dim, largest);
    case DType::kFloat64:
      return extreme_as<double>(values, indices, in, dim, largest);
    case DType::kInt64:
      return extreme_as<int64_t>(values, indices, in, dim, largest);
    case DType::kInt32:
      return extreme_as<int32_t>(values, indices, in, dim, largest);
    case DType::kUInt8:
      return extreme_as<uint8_t>(values, indices, in, dim, largest);
    case DType::kBool:
      return extreme_as<bool>(values, indices, in, dim, largest);
    default:
      fail("[max] no kernel for {}", name_of(in.dtype()));
  }
}

void gather_slices(const Tensor& out, const Tensor& in, int dim, const Tensor& index) {
  const Slices s(in, dim);
  const int64_t count = index.numel();
  const int64_t* at = index.data<int64_t>();
  const size_t bytes = static_cast<size_t>(s.inner) * size_of(in.dtype());
  char* to = static_cast<char*>(out.data_ptr());
  const char* from = static_cast<const char*>(in.data_ptr());
  for (int64_t o = 0; o < s.outer; ++o) {
    for (int64_t k = 0; k < count; ++k) {
      std::memcpy(to + static_cast<size_t>(o * count + k) * bytes,
                  from + static_cast<size_t>(o * s.length + at[k]) * bytes, bytes);
    }
  }
}

void add_slices(const Tensor& out, int dim, const Tensor& index, const Tensor& in) {
  switch (out.dtype()) {
    case DType::kFloat32:
      return add_slices_as<float>(out, dim, index, in);
    case DType::kFloat64:
      return add_slices_as<double>(out, dim, index, in);
    case DType::kInt64:
      return add_slices_as<int64_t>(out, dim, index, in);
    case DType::kInt32:
      return add_slices_as<int32_t>(out, dim, index, in);
    case DType::kUInt8:
      return add_slices_as<uint8_t>(out, dim, index, in);
    case DType::kBool:
      return add_slices_as<bool>(out, dim, index, in);
    default:
      fail("[index_add] no kernel for {}", name_of(out.dtype()));
  }
}

}  // namespace lockstep::cpu
