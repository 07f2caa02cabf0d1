#include "lockstep/engine/tensor/dims.h"

#include <fmt/ranges.h>

#include "lockstep/engine/tensor/check.h"

namespace lockstep {
namespace {

void check_count(int64_t count) {
  check(count <= kMaxDims, "[dims] a tensor has at most {} dimensions, asked for {}", kMaxDims,
        count);
}

}  // namespace

Dims::Dims(std::span<const int64_t> values) {
  check_count(static_cast<int64_t>(values.size()));
  size_ = static_cast<int>(values.size());
  std::copy(values.begin(), values.end(), values_);
}

Dims Dims::filled(int count, int64_t value) {
  check_count(count);
  Dims d;
  d.size_ = count;
  std::fill_n(d.values_, count, value);
  return d;
}

void Dims::push_back(int64_t value) {
  check_count(size_ + 1);
  values_[size_++] = value;
}

void Dims::insert(int position, int64_t value) {
  check_count(size_ + 1);
  std::copy_backward(values_ + position, values_ + size_, values_ + size_ + 1);
  values_[position] = value;
  ++size_;
}

void Dims::erase(int position) {
  std::copy(values_ + position + 1, values_ + size_, values_ + position);
  --size_;
}

std::string Dims::str() const { return fmt::format("[{}]", fmt::join(begin(), end(), ", ")); }

Dims contiguous_strides(const Dims& sizes) {
  Dims strides = Dims::filled(sizes.size(), 1);
  for (int d = sizes.size() - 2; d >= 0; --d) {
    strides[d] = strides[d + 1] * std::max<int64_t>(sizes[d + 1], 1);
  }
  return strides;
}

Dims broadcast_shapes(const Dims& a, const Dims& b) {
  const int dims = std::max(a.size(), b.size());
  Dims out = Dims::filled(dims, 1);
  for (int d = dims - 1; d >= 0; --d) {  // the last dimension that does not match is named
    const int da = d - (dims - a.size());
    const int db = d - (dims - b.size());
    const int64_t na = da >= 0 ? a[da] : 1;
    const int64_t nb = db >= 0 ? b[db] : 1;
    check(na == nb || na == 1 || nb == 1,
          "The size of tensor a ({}) must match the size of tensor b ({}) at non-singleton "
          "dimension {}",
          na, nb, d);
    out[d] = na == 1 ? nb : na;
  }
  return out;
}

int wrap_dim(int64_t dim, int dims) {
  const int64_t range = std::max(dims, 1);
  check(dim >= -range && dim < range,
        "Dimension out of range (expected to be in range of [{}, {}], but got {})", -range,
        range - 1, dim);
  return static_cast<int>(dim < 0 ? dim + range : dim);
}

}  // namespace lockstep
