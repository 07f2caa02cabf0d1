#include "lockstep/engine/autograd/saved_tensor.h"

#include "lockstep/engine/autograd/accumulate.h"
#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep::autograd {

SavedTensor::SavedTensor(const Tensor& input) : saved_(true) {
  if (!input.defined()) return;
  check<Error>(
      !input.impl()->inference,
      "Inference tensors cannot be saved for backward. To work around you can make a clone "
      "to get a normal tensor and use it in autograd.");
  version_ = input.version();
  is_view_ = static_cast<bool>(input.impl()->base);
  if (SavedTensorHooks::current()) {
    edge_ = gradient_edge(input);
    pack(input);
    return;
  }
  const auto& meta = input.impl()->autograd;
  if (meta && meta->requires_grad && !meta->grad_fn) {
    tensor_ = input;
  } else {
    edge_ = gradient_edge(input);
    tensor_ = input.detach();
  }
}

SavedTensor SavedTensor::output(const Tensor& output, uint32_t output_nr) {
  SavedTensor s;
  s.version_ = output.version();
  s.edge_.input_nr = output_nr;
  s.is_output_ = true;
  s.saved_ = true;
  if (SavedTensorHooks::current()) {
    s.pack(output);
  } else {
    s.tensor_ = output.detach();
  }
  return s;
}

void SavedTensor::pack(const Tensor& tensor) {
  packed_ = std::make_shared<Packed>();
  packed_->hooks = SavedTensorHooks::current();
  packed_->sizes = tensor.sizes();
  packed_->value = packed_->hooks->pack(tensor.detach());
}

void SavedTensor::append_sizes(std::vector<Dims>& to) const {
  if (packed_) {
    to.push_back(packed_->sizes);
  } else if (tensor_.defined()) {
    to.push_back(tensor_.sizes());
  }
}

// The values as a tensor at the saved place in the graph.
Tensor SavedTensor::with_history(const Tensor& values, Node* node) const {
  if (const auto* leaf = dynamic_cast<AccumulateGrad*>(edge_.function.get())) return leaf->leaf();
  Tensor tensor = values.detach();
  if (is_output_ || edge_.function) {
    AutogradMeta& meta = tensor.impl()->meta();
    meta.grad_fn = is_output_ ? Ptr<Node>(node) : edge_.function;
    meta.output_nr = edge_.input_nr;
  }
  return tensor;
}

// For the message about a changed tensor: the last recorded write to it, else what made it.
std::string SavedTensor::producer(Node* node) const {
  const std::string_view writer = tensor_.impl()->storage->last_writer();
  const auto clause = [](uint32_t output_nr, std::string_view name) {
    return fmt::format(", which is output {} of {},", output_nr, name);
  };
  if (is_output_) return clause(edge_.input_nr, node->name());
  if (!writer.empty()) {
    return clause(0, is_view_ && writer == "CopySlices" ? "AsStridedBackward0" : writer);
  }
  return edge_.function ? clause(edge_.input_nr, edge_.function->name()) : "";
}

Tensor SavedTensor::unpack(Node* node) const {
  check<Error>(
      !released_,
      "Trying to backward through the graph a second time (or directly access saved tensors "
      "after they have already been freed). Saved intermediate values of the graph are "
      "freed when you call .backward() or autograd.grad(). Specify retain_graph=True if you "
      "need to backward through the graph a second time or if you need to access saved "
      "tensors after calling backward.");
  if (packed_) {
    const Tensor values = packed_->hooks->unpack(packed_->value);
    check<Error>(values.defined(), "[saved tensor hooks] unpack returned an undefined tensor");
    return grad_enabled() ? with_history(values, node) : values.detach();
  }
  if (!tensor_.defined()) return tensor_;
  if (tensor_.version() != version_) {
    fail<Error>(
        "one of the variables needed for gradient computation has been modified by an inplace "
        "operation: [{} {}]{} is at version {}; expected version {} instead. Hint: write the "
        "result to a new tensor, or clone() the tensor before it is changed.",
        name_of(tensor_.dtype()), tensor_.sizes().str(), producer(node), tensor_.version(),
        version_);
  }
  const bool leaf = !is_output_ && !edge_.function;
  return leaf || !grad_enabled() ? tensor_ : with_history(tensor_, node);
}

}  // namespace lockstep::autograd
