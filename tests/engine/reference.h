#pragma once

#include <cmath>
#include <functional>
#include <vector>

#include "lockstep/engine/tensor/tensor.h"

// What the tests compute by themselves: plain loops over row-major doubles, slow and obvious.
namespace lockstep::testing {

struct Array {
  Dims sizes;
  std::vector<double> values;

  Array() = default;
  explicit Array(const Dims& s) : sizes(s), values(static_cast<size_t>(s.product())) {}
  explicit Array(const Tensor& t) : sizes(t.sizes()), values(t.to_vector()) {}

  int64_t size(int d) const { return sizes[d]; }
  size_t offset(const Dims& index) const {
    int64_t at = 0;
    for (int d = 0; d < sizes.size(); ++d) at = at * sizes[d] + index[d];
    return static_cast<size_t>(at);
  }
  double& at(const Dims& index) { return values[offset(index)]; }
  double at(const Dims& index) const { return values[offset(index)]; }

  // The index of the flat position.
  Dims index(int64_t position) const {
    Dims result = Dims::filled(sizes.size(), 0);
    for (int d = sizes.size() - 1; d >= 0; --d) {
      result[d] = position % sizes[d];
      position /= sizes[d];
    }
    return result;
  }
  int64_t numel() const { return static_cast<int64_t>(values.size()); }
};

// out[i] = fn(i) for every index.
inline Array build(const Dims& sizes, const std::function<double(const Dims&)>& fn) {
  Array out(sizes);
  for (int64_t i = 0; i < out.numel(); ++i) out.values[static_cast<size_t>(i)] = fn(out.index(i));
  return out;
}

// Element `index` of a result, read from an argument that was broadcast to it.
inline double broadcast_at(const Array& x, const Dims& index) {
  Dims own = Dims::filled(x.sizes.size(), 0);
  const int lead = index.size() - own.size();
  for (int d = 0; d < own.size(); ++d) own[d] = x.sizes[d] == 1 ? 0 : index[d + lead];
  return x.at(own);
}

// Sum over the marked dimensions, which keep size 1.
inline Array reduce_sum(const Array& x, const std::vector<int>& dims) {
  Dims kept = x.sizes;
  for (int d : dims) kept[d] = 1;
  Array out(kept);
  for (int64_t i = 0; i < x.numel(); ++i) {
    Dims index = x.index(i);
    for (int d : dims) index[d] = 0;
    out.at(index) += x.values[static_cast<size_t>(i)];
  }
  return out;
}

}  // namespace lockstep::testing
