#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

namespace lockstep {

inline constexpr int kMaxDims = 8;

// Sizes, strides or a list of dimensions: at most kMaxDims integers, held in place.
class Dims {
 public:
  Dims() = default;
  Dims(std::initializer_list<int64_t> values) : Dims(std::span(values.begin(), values.size())) {}
  explicit Dims(std::span<const int64_t> values);  // throws ValueError beyond kMaxDims
  static Dims filled(int count, int64_t value);

  int size() const { return size_; }
  bool empty() const { return size_ == 0; }
  int64_t operator[](int i) const { return values_[i]; }
  int64_t& operator[](int i) { return values_[i]; }
  int64_t back() const { return values_[size_ - 1]; }
  const int64_t* begin() const { return values_; }
  const int64_t* end() const { return values_ + size_; }
  int64_t* begin() { return values_; }
  int64_t* end() { return values_ + size_; }
  const int64_t* data() const { return values_; }

  void push_back(int64_t value);  // throws ValueError beyond kMaxDims
  void insert(int position, int64_t value);
  void erase(int position);

  int64_t product() const {
    int64_t n = 1;
    for (int64_t v : *this) n *= v;
    return n;
  }
  std::string str() const;  // "[2, 3]"

  friend bool operator==(const Dims& a, const Dims& b) {
    return a.size_ == b.size_ && std::equal(a.begin(), a.end(), b.begin());
  }

 private:
  int64_t values_[kMaxDims];
  int size_ = 0;
};

// Row-major strides of a dense tensor with these sizes.
Dims contiguous_strides(const Dims& sizes);

// PyTorch's broadcasting; throws ValueError with PyTorch's text when the shapes do not agree.
Dims broadcast_shapes(const Dims& a, const Dims& b);

// Maps a dimension that may count from the end (-1 is the last) to 0..dims-1.
int wrap_dim(int64_t dim, int dims);

}  // namespace lockstep
