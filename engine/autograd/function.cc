#include "lockstep/engine/autograd/function.h"

#include <algorithm>
#include <cstdlib>

#include <cxxabi.h>

#include "lockstep/engine/tensor/check.h"
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

void FunctionNode::apply(std::span<Tensor> gradients, std::span<Tensor> results) {
  const auto computed = backward_(context, {gradients.begin(), gradients.end()});
  check<Error>(computed.size() == results.size(),
               "function {} returned an incorrect number of gradients (expected {}, got {})", name_,
               results.size(), computed.size());
  for (size_t i = 0; i < results.size(); ++i) {
    if (needs(i)) results[i] = computed[i];
  }
}

void FunctionNode::release_saved() {
  for (SavedTensor& s : context.saved_) s.reset();
}

void FunctionNode::finish(std::vector<Tensor>& outputs, const std::vector<Tensor>& inputs,
                          bool records) {
  if (records) {
    for (auto y_at = outputs.begin(); y_at != outputs.end(); ++y_at) {
      Tensor& y = *y_at;
      check<Error>(y.defined() && is_floating(y.dtype()),
                   "[{}] a recorded function returns floating tensors", name_);
      const auto is_y = [&](const Tensor& t) { return t.is_same(y); };
      if (std::any_of(inputs.begin(), inputs.end(), is_y) ||
          std::any_of(outputs.begin(), y_at, is_y)) {
        y = view_of(y, y.sizes(), y.strides(), y.storage_offset());
      }
      if (y.impl()->base) y.impl()->creation = ViewCreation::kFunction;
      set_history(y, Ptr<Node>(this));
    }
    for (const Tensor& t : context.to_save_) {
      const auto own = std::find_if(outputs.begin(), outputs.end(),
                                    [&](const Tensor& y) { return y.is_same(t); });
      context.saved_.push_back(
          own == outputs.end()
              ? SavedTensor(t)
              : SavedTensor::output(t, static_cast<uint32_t>(own - outputs.begin())));
    }
  }
  context.to_save_.clear();
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
