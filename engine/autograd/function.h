#pragma once

#include <any>
#include <memory>
#include <string>
#include <tuple>
#include <type_traits>
#include <typeinfo>
#include <vector>

#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/autograd/node.h"
#include "lockstep/engine/autograd/saved_tensor.h"
#include "lockstep/engine/tensor/tensor.h"

namespace lockstep::autograd {

// What a custom function keeps between its forward and its backward.
class FunctionContext {
 public:
  // Inputs or outputs of forward; backward notices if they were changed in place. Once, in forward.
  void save_for_backward(std::vector<Tensor> tensors) { to_save_ = std::move(tensors); }
  // In backward: what was saved, in the same order.
  std::vector<Tensor> saved_tensors() const;
  // In backward: whether a gradient for this tensor argument of forward is wanted.
  bool needs_input_grad(size_t tensor_argument) const;
  // Anything else that backward wants to know.
  std::any data;

 private:
  friend class FunctionNode;
  std::vector<Tensor> to_save_;
  std::vector<SavedTensor> saved_;
  Node* node_ = nullptr;
};

// Internal: the graph node of a custom function.
class FunctionNode final : public Node {
 public:
  using Backward = std::vector<Tensor> (*)(FunctionContext&, const std::vector<Tensor>&);
  FunctionNode(std::string name, Backward backward) : name_(std::move(name)), backward_(backward) {
    context.node_ = this;
  }
  std::string_view name() const override { return name_; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override;
  void release_saved() override;
  // Ends forward of `inputs`: makes the outputs this node's and takes what was saved. An input that
  // forward returned as it is, or an output that it returned twice, becomes a view of itself: a
  // tensor has one history only.
  void finish(std::vector<Tensor>& outputs, const std::vector<Tensor>& inputs, bool records);

  FunctionContext context;

 private:
  std::string name_;
  Backward backward_;
};

std::string function_name(const std::type_info& type);  // "MyExpBackward" for MyExp

// An operation with a derivative of its own:
//
//   struct Cube : autograd::Function<Cube> {
//     static Tensor forward(autograd::FunctionContext& context, const Tensor& x) {
//       context.save_for_backward({x});
//       return x * x * x;
//     }
//     static std::vector<Tensor> backward(autograd::FunctionContext& context,
//                                         const std::vector<Tensor>& gradients) {
//       const auto x = context.saved_tensors()[0];
//       return {3.0 * x * x * gradients[0]};
//     }
//   };
//   auto y = Cube::apply(x);
//
// forward runs without recording; it takes any arguments, of which the tensors get gradients, and
// returns a Tensor or a std::vector<Tensor>. backward gets one gradient per output (undefined where
// none came) and returns one per tensor argument, undefined where there is none; written in
// differentiable ops it can itself be differentiated.
template <typename Derived>
class Function {
 public:
  template <typename... Args>
  static auto apply(Args&&... args) {
    auto node = make_ptr<FunctionNode>(function_name(typeid(Derived)), &Derived::backward);
    bool records = false;
    std::vector<Tensor> inputs;
    const auto visit = [&](const auto& argument) {
      if constexpr (std::is_same_v<std::remove_cvref_t<decltype(argument)>, Tensor>) {
        records = records || argument.requires_grad();
        node->add_edge(gradient_edge(argument));
        inputs.push_back(argument);
      }
    };
    (visit(args), ...);
    records = records && grad_enabled();
    const auto call = [&] {
      const NoGrad no_grad;
      return Derived::forward(node->context, std::forward<Args>(args)...);
    };
    auto result = call();
    if constexpr (std::is_same_v<decltype(result), Tensor>) {
      std::vector<Tensor> outputs = {std::move(result)};
      node->finish(outputs, inputs, records);
      result = std::move(outputs[0]);
    } else {
      node->finish(result, inputs, records);
    }
    return result;
  }
};

}  // namespace lockstep::autograd
