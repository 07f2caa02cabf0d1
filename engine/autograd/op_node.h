#pragma once

#include <array>
#include <vector>

#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/autograd/node.h"
#include "lockstep/engine/autograd/saved_tensor.h"

namespace lockstep::autograd {

// Base for the nodes of ops that are not pointwise: keeps kSaved tensors.
template <size_t kSaved>
class OpNode : public Node {
 public:
  void release_saved() final {
    for (auto& s : saved_) s.reset();
  }
  std::vector<Dims> saved_sizes() const final {
    std::vector<Dims> sizes;
    for (const auto& s : saved_) s.append_sizes(sizes);
    return sizes;
  }
  void save(size_t i, const Tensor& input) { saved_[i] = SavedTensor(input); }
  void save_output(size_t i, const Tensor& output, uint32_t output_nr = 0) {
    saved_[i] = SavedTensor::output(output, output_nr);
  }

 protected:
  Tensor saved(size_t i) { return saved_[i].unpack(this); }

 private:
  std::array<SavedTensor, kSaved> saved_;
};

// Makes `y` the output of a new node whose edges lead to `inputs`, in this order. Null when nothing
// needs to be recorded: grad mode is off or no input requires grad.
template <typename NodeType, typename... Inputs>
Ptr<NodeType> record(const Tensor& y, const Inputs&... inputs) {
  if (!grad_enabled() || !(inputs.requires_grad() || ...)) return nullptr;
  auto node = make_ptr<NodeType>();
  (node->add_edge(gradient_edge(inputs)), ...);
  set_history(y, node);
  return node;
}

}  // namespace lockstep::autograd
