#pragma once

#include <array>
#include <cstddef>
#include <vector>

namespace lockstep {

// A vector whose first N elements live in place. Grows, never shrinks; clear() drops everything.
template <typename T, size_t N>
class InlineVector {
 public:
  void push_back(T value) {
    if (size_ < N) {
      inline_[size_] = std::move(value);
    } else {
      if (size_ == N) {
        heap_.reserve(2 * N);
        for (auto& v : inline_) heap_.push_back(std::move(v));
      }
      heap_.push_back(std::move(value));
    }
    ++size_;
  }
  void clear() {
    for (size_t i = 0; i < size_ && i < N; ++i) inline_[i] = T();
    heap_.clear();
    size_ = 0;
  }
  void resize(size_t count) {
    while (size_ < count) push_back(T());
  }

  size_t size() const { return size_; }
  T* data() { return size_ <= N ? inline_.data() : heap_.data(); }
  const T* data() const { return size_ <= N ? inline_.data() : heap_.data(); }
  T& operator[](size_t i) { return data()[i]; }
  const T& operator[](size_t i) const { return data()[i]; }
  T* begin() { return data(); }
  T* end() { return data() + size_; }
  const T* begin() const { return data(); }
  const T* end() const { return data() + size_; }

 private:
  std::array<T, N> inline_{};
  std::vector<T> heap_;
  size_t size_ = 0;
};

}  // namespace lockstep
