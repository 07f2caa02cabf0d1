#include "lockstep/engine/autograd/function.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

#include <cxxabi.h>

#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep::autograd {

std::vector<Tensor> FunctionContext::saved_tensors() const {
  std::vector<Tensor> tensors;
  for (const SavedTensor& s : saved_) tensors.push_back(s.unpack(node_));
  return tensors;
}

bool FunctionContext::needs_input_grad(size_t tensor_argument) const {
  return tensor_argument < node_->edges().size() && node_->needs(tensor_argument);
}

void FunctionNode::add_argument(const Tensor& tensor) {
  is_tensor_.push_back(true);
  add_edge(gradient_edge(tensor));
}

// Without what backward returned for arguments that are no tensors.
std::vector<Tensor> FunctionNode::of_tensors(std::vector<Tensor> computed) const {
  const size_t wanted = edges().size();
  const bool for_every_argument =
      is_tensor_.size() > wanted && computed.size() >= is_tensor_.size();
  if (for_every_argument) {
    std::vector<Tensor> kept;
    for (size_t i = 0; i < computed.size(); ++i) {
      if (i >= is_tensor_.size() || is_tensor_[i]) {
        kept.push_back(std::move(computed[i]));
        continue;
      }
      check<Error>(!computed[i].defined(),
                   "function {} returned a gradient different from None at position {}, but the "
                   "corresponding forward input was not a Variable",
                   name_, i);
    }
    computed = std::move(kept);
  }
  const size_t got = computed.size();
  while (computed.size() > wanted && !computed.back().defined()) computed.pop_back();
  check<Error>(computed.size() == wanted,
               "function {} returned an incorrect number of gradients (expected {}, got {})", name_,
               wanted, got);
  return computed;
}

void FunctionNode::apply(std::span<Tensor> gradients, std::span<Tensor> results) {
  std::vector<Tensor> given(gradients.begin(), gradients.end());
  for (size_t i = 0; context.materialize_grads_ && i < given.size(); ++i) {
    const OutputInfo& output = outputs()[i];
    if (!given[i].defined()) given[i] = zeros(output.sizes, {output.dtype, output.device});
  }
  const std::vector<Tensor> computed = of_tensors(backward_(context, given));
  for (size_t i = 0; i < results.size(); ++i) {
    if (needs(i)) results[i] = computed[i];
  }
}

void FunctionNode::release_saved() {
  for (SavedTensor& s : context.saved_) s.reset();
}

std::vector<Dims> FunctionNode::saved_sizes() const {
  std::vector<Dims> sizes;
  for (const SavedTensor& s : context.saved_) s.append_sizes(sizes);
  return sizes;
}

namespace {

bool among(std::span<const Tensor> tensors, const Tensor& tensor) {
  return std::any_of(tensors.begin(), tensors.end(),
                     [&](const Tensor& t) { return t.is_same(tensor); });
}

}  // namespace

// The history of an argument that forward has written.
void FunctionNode::write_history(const Tensor& y, const std::vector<Tensor>& inputs,
                                 size_t outputs) {
  check<Error>(!y.is_leaf() || !y.requires_grad(),
               "a leaf Variable that requires grad has been used in an in-place operation.");
  if (y.impl()->base) {
    check<Error>(
        outputs == 1,
        "If your Function modifies inplace an input that is a view of another Tensor, your "
        "Function cannot return more than one Tensor. This is not supported by the current "
        "autograd engine. You should either make sure the input is not a view (using .clone() for "
        "example) or make your Function only return one Tensor (potentially splitting it into two "
        "Functions: one doing the inplace that returns a single Tensor and a second one that does "
        "the other operations).");
    check<Error>(inputs[0].is_same(y),
                 "[{}] a view that is marked dirty must be the first tensor argument", name_);
    check_view_write(y);
  }
  check_inplace(y);
  rebase_history(y, Ptr<Node>(this));
}

void FunctionNode::finish(std::vector<Tensor>& outputs, const std::vector<Tensor>& inputs,
                          bool records) {
  // Taken out of the context, which must not own what owns it.
  const auto to_save = std::exchange(context.to_save_, {});
  const auto dirty = std::exchange(context.dirty_, {});
  const auto non_differentiable = std::exchange(context.non_differentiable_, {});
  for (const Tensor& t : dirty) {
    check<Error>(among(outputs, t),
                 "Some elements marked as dirty during the forward method were not returned as "
                 "output. The inputs that are modified inplace must all be outputs of the "
                 "Function.");
    check<Error>(among(inputs, t), "[{}] only arguments can be marked dirty", name_);
    bump_version(t);
  }
  std::vector<bool> differentiable;
  for (size_t i = 0; i < outputs.size(); ++i) {
    Tensor& y = outputs[i];
    check<Error>(y.defined(), "[{}] forward returned an undefined tensor", name_);
    differentiable.push_back(records && is_floating(y.dtype()) && !among(non_differentiable, y));
    if (!differentiable.back()) {
      add_output(y);
      if (y.requires_grad()) y = y.detach();
      continue;
    }
    const bool repeated = among(std::span(outputs).first(i), y);
    if (among(dirty, y) && !repeated) {
      write_history(y, inputs, outputs.size());
      continue;
    }
    if (repeated || among(inputs, y)) y = view_of(y, y.sizes(), y.strides(), y.storage_offset());
    if (y.impl()->base) y.impl()->creation = ViewCreation::kFunction;
    set_history(y, Ptr<Node>(this));
  }
  if (records) save(to_save, outputs, differentiable);
}

void FunctionNode::save(const std::vector<Tensor>& tensors, const std::vector<Tensor>& outputs,
                        const std::vector<bool>& differentiable) {
  for (const Tensor& t : tensors) {
    size_t own = 0;
    while (own < outputs.size() && !(differentiable[own] && outputs[own].is_same(t))) ++own;
    context.saved_.push_back(own == outputs.size()
                                 ? SavedTensor(t)
                                 : SavedTensor::output(t, static_cast<uint32_t>(own)));
  }
}

std::string function_name(const std::type_info& type) {
  int status = 0;
  char* text = abi::__cxa_demangle(type.name(), nullptr, nullptr, &status);
  std::string name = status == 0 ? text : type.name();
  std::free(text);
  const size_t scope = name.rfind("::");
  return (scope == std::string::npos ? name : name.substr(scope + 2)) + "Backward";
}

}  // namespace lockstep::autograd
