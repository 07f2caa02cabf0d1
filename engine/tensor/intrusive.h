#pragma once

#include <atomic>
#include <cstdint>
#include <utility>

namespace lockstep {

// Base of objects that carry their own reference count: one allocation per object and a handle the
// size of a pointer, which is what keeps the cost of a tiny operation down.
class RefCounted {
 public:
  RefCounted() = default;
  RefCounted(const RefCounted&) = delete;
  RefCounted& operator=(const RefCounted&) = delete;
  virtual ~RefCounted() = default;

  void retain() const { count_.fetch_add(1, std::memory_order_relaxed); }
  void release() const {
    if (count_.fetch_sub(1, std::memory_order_acq_rel) == 1)
      const_cast<RefCounted*>(this)->dispose();
  }
  // For weak references: takes a reference unless the object is already being destroyed.
  bool try_retain() const {
    uint32_t count = count_.load(std::memory_order_relaxed);
    while (count != 0) {
      if (count_.compare_exchange_weak(count, count + 1, std::memory_order_acq_rel)) return true;
    }
    return false;
  }
  uint32_t use_count() const { return count_.load(std::memory_order_acquire); }

 protected:
  // Called when the last reference is gone. Graph nodes override it to avoid deep recursion.
  virtual void dispose() { delete this; }

 private:
  mutable std::atomic<uint32_t> count_{0};
};

// What Ptr calls. A class that must be held while incomplete overloads both.
inline void intrusive_retain(const RefCounted* object) { object->retain(); }
inline void intrusive_release(const RefCounted* object) { object->release(); }

// Owning handle of a RefCounted object.
template <typename T>
class Ptr {
 public:
  Ptr() = default;
  Ptr(std::nullptr_t) {}
  explicit Ptr(T* object) : object_(object) {
    if (object_) intrusive_retain(object_);
  }
  Ptr(const Ptr& other) : Ptr(other.object_) {}
  Ptr(Ptr&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  template <typename U>
  Ptr(const Ptr<U>& other) : Ptr(other.get()) {}
  template <typename U>
  Ptr(Ptr<U>&& other) noexcept : object_(other.take()) {}
  Ptr& operator=(Ptr other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  ~Ptr() {
    if (object_) intrusive_release(object_);  // NOLINT(clang-analyzer-cplusplus.NewDelete)
  }

  // Adopts a reference that the caller already holds (see RefCounted::try_retain).
  static Ptr adopt(T* object) {
    Ptr p;
    p.object_ = object;
    return p;
  }
  T* take() { return std::exchange(object_, nullptr); }
  void reset() { *this = Ptr(); }

  T* get() const { return object_; }
  T* operator->() const { return object_; }
  T& operator*() const { return *object_; }
  explicit operator bool() const { return object_ != nullptr; }
  friend bool operator==(const Ptr& a, const Ptr& b) { return a.object_ == b.object_; }

 private:
  T* object_ = nullptr;
};

template <typename T, typename... Args>
Ptr<T> make_ptr(Args&&... args) {
  return Ptr<T>(new T(std::forward<Args>(args)...));
}

}  // namespace lockstep
