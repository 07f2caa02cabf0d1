#include "lockstep/engine/autograd/node.h"

#include "lockstep/engine/autograd/accumulate.h"
#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/overlap.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep::autograd {
namespace {

uint64_t next_sequence_number() {
  thread_local uint64_t next = 0;
  return next++;
}

// Nodes whose last reference went while another was being deleted on this thread.
struct Graveyard {
  std::vector<Node*> waiting;
  bool digging = false;
};
Graveyard& graveyard() {
  thread_local Graveyard g;
  return g;
}

}  // namespace

Node::Node() : sequence_number_(next_sequence_number()) {}

// Deleting a node drops its edges, which may drop the last reference to the node before, and so on
// down the chain. Instead of recursing, the inner nodes queue up and the outermost call deletes
// them.
void Node::dispose() {
  Graveyard& g = graveyard();
  if (g.digging) {
    g.waiting.push_back(this);
    return;
  }
  g.digging = true;
  delete this;
  while (!g.waiting.empty()) {
    Node* node = g.waiting.back();
    g.waiting.pop_back();
    delete node;
  }
  g.digging = false;
}

uint32_t Node::add_output(const Tensor& tensor) {
  outputs_.push_back({tensor.sizes(), tensor.dtype(), tensor.device()});
  return static_cast<uint32_t>(outputs_.size() - 1);
}

void Node::replace_output(uint32_t output_nr, const Tensor& tensor) {
  outputs_[output_nr] = {tensor.sizes(), tensor.dtype(), tensor.device()};
}

Node::Extras& Node::extras() {
  if (!extras_) extras_ = std::make_unique<Extras>();
  return *extras_;
}

HookHandle Node::register_prehook(NodePreHook hook) {
  return HookList<NodePreHook>::add(extras().pre_hooks, std::move(hook));
}

HookHandle Node::register_hook(NodeHook hook) {
  return HookList<NodeHook>::add(extras().post_hooks, std::move(hook));
}

Edge gradient_edge(const Tensor& tensor) {
  if (!tensor.defined()) return {};
  tensor.impl()->sync_with_base();
  const auto& meta = tensor.impl()->autograd;
  if (!meta) return {};
  if (meta->grad_fn) return {meta->grad_fn, meta->output_nr};
  if (meta->requires_grad) return {accumulator_of(tensor), 0};
  return {};
}

void set_history(const Tensor& tensor, const Ptr<Node>& node) {
  AutogradMeta& meta = tensor.impl()->meta();
  meta.output_nr = node->add_output(tensor);
  meta.grad_fn = node;
  meta.requires_grad = false;
}

void check_inplace(const Tensor& self, bool uniform) {
  check<Error>(uniform || !overlaps_itself(self),
               "unsupported operation: more than one element of the written-to tensor refers to a "
               "single memory location. Please clone() the tensor before performing the "
               "operation.");
  check<Error>(!self.impl()->inference || inference_mode_enabled(),
               "Inplace update to inference tensor outside InferenceMode is not allowed. You can "
               "make a clone to get a normal tensor before doing inplace update.");
  if (!grad_enabled()) return;
  const auto& base = self.impl()->base;
  if (base && (base->requires_grad() || self.requires_grad())) check_view_write(self);
  const bool view_of_leaf = base && base->requires_grad() && !base->autograd->grad_fn;
  check<Error>(
      !view_of_leaf,
      "a view of a leaf Variable that requires grad is being used in an in-place operation.");
  check<Error>(!self.requires_grad() || !self.is_leaf(),
               "a leaf Variable that requires grad is being used in an in-place operation.");
}

void replace_history(const Tensor& tensor, const Ptr<Node>& node) {
  // Hooks see the gradient of the value they were registered on; a retained gradient is that of the
  // tensor's last value.
  const bool retained = tensor.impl()->stop_retaining_grad();
  tensor.impl()->meta().hooks = nullptr;
  set_history(tensor, node);
  if (retained) tensor.retain_grad();
}

void rebase_history(const Tensor& self, const Ptr<Node>& node) {
  if (self.impl()->base) {
    self.impl()->storage->set_last_writer("CopySlices");
    rebase_through_view(self, node);
    self.impl()->sync_with_base();
    return;
  }
  self.impl()->storage->set_last_writer(node->name());
  replace_history(self, node);
  ++self.impl()->meta().history_epoch;  // its views, if it has any, start over from here
}

void bump_version(const Tensor& self) { self.impl()->storage->bump_version(); }

}  // namespace lockstep::autograd
