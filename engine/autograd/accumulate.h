#pragma once

#include <mutex>

#include "lockstep/engine/autograd/node.h"

namespace lockstep::autograd {

// The end of the gradient's way: adds what arrives to a leaf's grad(), runs its hooks. One per leaf
// and alive as long as some graph leads to it.
class AccumulateGrad final : public Node {
 public:
  explicit AccumulateGrad(const Tensor& leaf) : Node(kLeafSequence), leaf_(leaf) {
    add_output(leaf);
  }
  ~AccumulateGrad() override;

  std::string_view name() const override { return "AccumulateGrad"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override;
  const Tensor& leaf() const { return leaf_; }
  Tensor run_hooks(Tensor gradient) const;  // the leaf's tensor hooks

 private:
  Tensor leaf_;
  std::mutex mutex_;  // threads may run backward into one leaf
};

// Throws unless what a tensor hook returned can stand for the gradient it was given.
void check_replacement(const Tensor& gradient, const Tensor& replacement);

// The accumulator of a leaf that requires grad.
Ptr<Node> accumulator_of(const Tensor& leaf);

}  // namespace lockstep::autograd
