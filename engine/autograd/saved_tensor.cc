#include "lockstep/engine/autograd/saved_tensor.h"

#include "lockstep/engine/autograd/accumulate.h"
#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep::autograd {

SavedTensor::SavedTensor(const Tensor& input) : tensor_(input), saved_(true) {
  if (!input.defined()) return;
  check<Error>(
      !input.impl()->inference,
      "Inference tensors cannot be saved for backward. To work around you can make a clone "
      "to get a normal tensor and use it in autograd.");
  version_ = input.version();
  if (SavedTensorHooks::current()) pack(input);
}

SavedTensor SavedTensor::output(const Tensor& output, uint32_t output_nr) {
  SavedTensor s;
  s.tensor_ = output.detach();
  s.version_ = output.version();
  s.output_nr_ = output_nr;
  s.is_output_ = true;
  s.saved_ = true;
  if (SavedTensorHooks::current()) s.pack(output);
  return s;
}

void SavedTensor::pack(const Tensor& tensor) {
  packed_ = std::make_shared<Packed>();
  packed_->hooks = SavedTensorHooks::current();
  if (!is_output_) packed_->edge = gradient_edge(tensor);
  packed_->value = packed_->hooks->pack(tensor.detach());
  tensor_ = Tensor();
}

Tensor SavedTensor::unpack_with_hooks(Node* node) const {
  const Tensor values = packed_->hooks->unpack(packed_->value);
  check<Error>(values.defined(), "[saved tensor hooks] unpack returned an undefined tensor");
  if (!grad_enabled()) return values.detach();
  if (const auto* leaf = dynamic_cast<AccumulateGrad*>(packed_->edge.function.get())) {
    return leaf->leaf();
  }
  const Tensor tensor = values.detach();
  if (is_output_ || packed_->edge.function) {
    AutogradMeta& meta = tensor.impl()->meta();
    meta.grad_fn = is_output_ ? Ptr<Node>(node) : packed_->edge.function;
    meta.output_nr = is_output_ ? output_nr_ : packed_->edge.input_nr;
  }
  return tensor;
}

Tensor SavedTensor::unpack(Node* node) const {
  check<Error>(
      !released_,
      "Trying to backward through the graph a second time (or directly access saved tensors "
      "after they have already been freed). Saved intermediate values of the graph are "
      "freed when you call .backward() or autograd.grad(). Specify retain_graph=True if you "
      "need to backward through the graph a second time or if you need to access saved "
      "tensors after calling backward.");
  if (packed_) return unpack_with_hooks(node);
  if (!tensor_.defined()) return tensor_;
  if (tensor_.version() != version_) {
    const auto producer = is_output_ ? Ptr<Node>(node) : tensor_.grad_fn();
    const std::string origin =
        producer ? fmt::format(", which is output {} of {},",
                               is_output_ ? output_nr_ : tensor_.output_nr(), producer->name())
                 : "";
    fail<Error>(
        "one of the variables needed for gradient computation has been modified by an inplace "
        "operation: [{} {}]{} is at version {}; expected version {} instead. Hint: write the "
        "result "
        "to a new tensor, or clone() the tensor before it is changed.",
        name_of(tensor_.dtype()), tensor_.sizes().str(), origin, tensor_.version(), version_);
  }
  if (!is_output_ || !grad_enabled()) return tensor_;
  Tensor output = tensor_.detach();
  AutogradMeta& meta = output.impl()->meta();
  meta.grad_fn = Ptr<Node>(node);
  meta.output_nr = output_nr_;
  return output;
}

}  // namespace lockstep::autograd
