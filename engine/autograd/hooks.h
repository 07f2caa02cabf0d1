#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

namespace lockstep {

class Tensor;

namespace autograd {

using TensorHook = std::function<Tensor(const Tensor& gradient)>;
using PostAccumulateHook = std::function<void(const Tensor& leaf)>;
// On a graph node: the gradients of its outputs; and the gradients it computed with those it got.
using NodePreHook = std::function<void(std::span<Tensor> gradients)>;
using NodeHook = std::function<void(std::span<Tensor> results, std::span<const Tensor> gradients)>;

// Removes a hook when destroyed. Must be kept for as long as the hook is wanted; release() leaves
// the hook in place for the tensor's life.
class [[nodiscard]] HookHandle {
 public:
  HookHandle() = default;
  explicit HookHandle(std::function<void()> remove) : remove_(std::move(remove)) {}
  HookHandle(HookHandle&& other) noexcept : remove_(std::move(other.remove_)) {
    other.remove_ = nullptr;
  }
  HookHandle& operator=(HookHandle&& other) noexcept {
    if (this != &other) {
      remove();
      remove_ = std::move(other.remove_);
      other.remove_ = nullptr;
    }
    return *this;
  }
  ~HookHandle() { remove(); }

  void remove() {
    if (remove_) remove_();
    remove_ = nullptr;
  }
  void release() { remove_ = nullptr; }

 private:
  std::function<void()> remove_;
};

}  // namespace autograd
}  // namespace lockstep
