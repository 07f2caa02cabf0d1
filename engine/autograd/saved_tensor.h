#pragma once

#include <any>
#include <memory>
#include <string>
#include <vector>

#include "lockstep/engine/autograd/node.h"
#include "lockstep/engine/autograd/saved_tensor_hooks.h"
#include "lockstep/engine/tensor/tensor.h"

namespace lockstep::autograd {

// A tensor kept for backward. Notices when it was freed or changed in place since.
//
// What is kept is the values and the place in the graph, not the tensor itself: an in-place
// operation gives the tensor a new place behind this one, and a node that owned it then would own
// itself (y.add_(y * w)). Leaves that require grad cannot be written in place; they stay
// themselves.
class SavedTensor {
 public:
  SavedTensor() = default;
  explicit SavedTensor(const Tensor& input);
  // An output of the node that saves it: kept without its grad_fn, which would be a cycle.
  static SavedTensor output(const Tensor& output, uint32_t output_nr);

  // The tensor as it was in forward, with its place in the graph. `node` is the saver.
  Tensor unpack(Node* node) const;
  void reset() {
    tensor_ = Tensor();
    edge_ = {};
    packed_ = nullptr;
    released_ = saved_;
  }
  bool saved() const { return saved_; }
  // Adds the tensor's sizes if there is one.
  void append_sizes(std::vector<Dims>& to) const;

 private:
  // What saved-tensor hooks made of the tensor, and what is needed to undo it.
  struct Packed {
    std::shared_ptr<SavedTensorHooks::Pair> hooks;
    std::any value;
    Dims sizes;
  };
  void pack(const Tensor& tensor);
  Tensor with_history(const Tensor& values, Node* node) const;
  std::string producer(Node* node) const;

  Tensor tensor_;
  Edge edge_;  // of an input: its place in the graph; of an output only the number
  std::shared_ptr<Packed> packed_;
  uint32_t version_ = 0;
  bool is_output_ = false;
  bool is_view_ = false;
  bool saved_ = false;     // something was saved, perhaps an undefined tensor
  bool released_ = false;  // ... and has been freed
};

}  // namespace lockstep::autograd
