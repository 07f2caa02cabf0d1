#pragma once

#include <memory>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "lockstep/engine/autograd/hooks.h"
#include "lockstep/engine/tensor/inline_vector.h"
#include "lockstep/engine/tensor/tensor.h"

namespace lockstep::autograd {

class Node;
template <typename F>
struct HookList;

// Where a gradient goes next: an input of the node that produced a tensor.
struct Edge {
  Ptr<Node> function;  // null where no gradient is wanted
  uint32_t input_nr = 0;
};

// What a node knows of each output of its forward: the shape its gradient must have.
struct OutputInfo {
  Dims sizes;
  DType dtype = DType::kFloat32;
  Device device{};
};

// The backward of one operation: turns the gradients of the operation's outputs into gradients of
// its inputs.
//
// Nodes own the nodes before them, so a chain of a million operations is a linked list of a million
// references. dispose() therefore tears graphs down iteratively.
class Node : public RefCounted {
 public:
  Node();

  virtual std::string_view name() const = 0;  // PyTorch's: "MulBackward0"

  // gradients: one per output, undefined standing for zero, at least one of them defined. Fills
  // `results`, one per edge; undefined stands for zero. Only edges with a function need be filled.
  virtual void apply(std::span<Tensor> gradients, std::span<Tensor> results) = 0;

  // Drops the saved tensors after a backward that does not retain the graph.
  virtual void release_saved() {}
  // The sizes of the tensors that the node keeps for backward; for pictures.
  virtual std::vector<Dims> saved_sizes() const { return {}; }

  const InlineVector<Edge, 3>& edges() const { return edges_; }
  void add_edge(Edge edge) { edges_.push_back(std::move(edge)); }
  bool needs(size_t input) const { return static_cast<bool>(edges_[input].function); }

  const InlineVector<OutputInfo, 1>& outputs() const { return outputs_; }
  uint32_t add_output(const Tensor& tensor);
  void replace_output(uint32_t output_nr, const Tensor& tensor);

  // Later nodes come first in backward; leaf accumulation outranks them all.
  uint64_t sequence_number() const { return sequence_number_; }
  static constexpr uint64_t kLeafSequence = ~uint64_t{0};

  // Hooks on the gradients of this node's outputs (Tensor::register_hook on a non-leaf), and the
  // tensors that keep theirs (retain_grad). Rare, so behind one pointer.
  struct Extras {
    std::shared_ptr<HookList<NodePreHook>> pre_hooks;
    std::shared_ptr<HookList<NodeHook>> post_hooks;
    std::vector<std::pair<uint32_t, std::shared_ptr<HookList<TensorHook>>>> hooks;
    std::vector<std::pair<uint32_t, TensorImpl*>> retained;  // a tensor removes itself when it dies
  };
  Extras& extras();
  Extras* extras_or_null() const { return extras_.get(); }

  // Runs before the node, on the gradients of its outputs, or after it, on what it computed; may
  // change them in place of the span.
  [[nodiscard]] HookHandle register_prehook(NodePreHook hook);
  [[nodiscard]] HookHandle register_hook(NodeHook hook);

 protected:
  explicit Node(uint64_t sequence_number) : sequence_number_(sequence_number) {}
  void dispose() override;

 private:
  InlineVector<Edge, 3> edges_;
  InlineVector<OutputInfo, 1> outputs_;
  uint64_t sequence_number_;
  std::unique_ptr<Extras> extras_;
};

// The edge along which the gradient of `tensor` travels: its grad_fn, its accumulator if it is a
// leaf that requires grad, else none.
Edge gradient_edge(const Tensor& tensor);

// Makes `tensor` the next output of `node`.
void set_history(const Tensor& tensor, const Ptr<Node>& node);

// The same for a tensor that has a history already; its hooks stay with the old value.
void replace_history(const Tensor& tensor, const Ptr<Node>& node);

// Before an in-place operation: throws PyTorch's errors for leaves and views of leaves that require
// grad, for inference tensors, and for tensors whose elements share memory, unless all of them get
// the same value (`uniform`).
void check_inplace(const Tensor& self, bool uniform = false);
// After it: `self` is now the output of `node`, whose edge 0 leads to what self was and whose name
// is a literal.
void rebase_history(const Tensor& self, const Ptr<Node>& node);
void bump_version(const Tensor& self);

}  // namespace lockstep::autograd
