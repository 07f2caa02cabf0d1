#pragma once

#include <any>
#include <memory>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <typeinfo>
#include <utility>
#include <vector>

#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/autograd/node.h"
#include "lockstep/engine/autograd/saved_tensor.h"
#include "lockstep/engine/tensor/tensor.h"

namespace lockstep::autograd {

// What a custom function keeps between its forward and its backward. Forward says it by the first
// members; each call replaces what the one before said.
class FunctionContext {
 public:
  // Inputs or outputs of forward; backward notices if they were changed in place.
  void save_for_backward(std::vector<Tensor> tensors) { to_save_ = std::move(tensors); }
  // Arguments that forward has written in place. It must return them, and they get the function's
  // history. A view must be the first tensor argument and the only output.
  void mark_dirty(std::vector<Tensor> arguments) { dirty_ = std::move(arguments); }
  // Outputs that no gradient passes through. Integer and bool ones need not be named.
  void mark_non_differentiable(std::vector<Tensor> outputs) {
    non_differentiable_ = std::move(outputs);
  }
  // Whether backward gets zeros (the default) or an undefined tensor where an output has no
  // gradient.
  void set_materialize_grads(bool materialize) { materialize_grads_ = materialize; }

  // In backward: what was saved, in the same order.
  std::vector<Tensor> saved_tensors() const;
  // In backward: whether a gradient for this tensor argument of forward is wanted.
  bool needs_input_grad(size_t tensor_argument) const;
  // Anything else that backward wants to know.
  std::any data;

 private:
  friend class FunctionNode;
  std::vector<Tensor> to_save_, dirty_, non_differentiable_;
  bool materialize_grads_ = true;
  std::vector<SavedTensor> saved_;
  Node* node_ = nullptr;
};

// Internal: the graph node of a custom function.
class FunctionNode final : public Node {
 public:
  using Backward = std::vector<Tensor> (*)(FunctionContext&, const std::vector<Tensor>&);
  // `name` is a literal, or lives as long as one.
  FunctionNode(std::string_view name, Backward backward) : name_(name), backward_(backward) {
    context.node_ = this;
  }
  std::string_view name() const override { return name_; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override;
  void release_saved() override;
  std::vector<Dims> saved_sizes() const override;

  void add_argument(const Tensor& tensor);
  void add_other_argument() { is_tensor_.push_back(false); }
  // Ends forward of `inputs`: makes the outputs this node's and takes what was saved. An input that
  // forward returned as it is, or an output that it returned twice, becomes a view of itself: a
  // tensor has one history only.
  void finish(std::vector<Tensor>& outputs, const std::vector<Tensor>& inputs, bool records);

  FunctionContext context;

 private:
  void write_history(const Tensor& y, const std::vector<Tensor>& inputs, size_t outputs);
  void save(const std::vector<Tensor>& tensors, const std::vector<Tensor>& outputs,
            const std::vector<bool>& differentiable);
  std::vector<Tensor> of_tensors(std::vector<Tensor> computed) const;

  std::string_view name_;
  Backward backward_;
  std::vector<bool> is_tensor_;  // of each argument of forward
};

// Internal: what apply() makes of an argument's type. Tensors and ranges of tensors get gradients;
// tensors anywhere else would silently get none.
template <typename T>
concept TensorRange = requires(const T& t) {
  t.end();
  requires std::is_same_v<std::remove_cvref_t<decltype(*t.begin())>, Tensor>;
};

template <typename T>
constexpr bool holds_tensors() {
  using U = std::remove_cvref_t<T>;
  if constexpr (std::is_same_v<U, Tensor>) {
    return true;
  } else if constexpr (requires(const U& u) { *u.begin(); }) {
    using Element = std::remove_cvref_t<decltype(*std::declval<const U&>().begin())>;
    if constexpr (!std::is_same_v<Element, U>) return holds_tensors<Element>();
  } else if constexpr (requires { std::tuple_size<U>::value; }) {
    return []<size_t... i>(std::index_sequence<i...>) {
      return (holds_tensors<std::tuple_element_t<i, U>>() || ...);
    }
    (std::make_index_sequence<std::tuple_size_v<U>>());
  } else if constexpr (requires(const U& u) { *u; }) {  // an optional or a pointer
    using Element = std::remove_cvref_t<decltype(*std::declval<const U&>())>;
    if constexpr (!std::is_same_v<Element, U>) return holds_tensors<Element>();
  }
  return false;
}

template <typename T>
constexpr bool is_function_argument() {
  using U = std::remove_cvref_t<T>;
  return std::is_same_v<U, Tensor> || TensorRange<U> || !holds_tensors<U>();
}

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
// forward runs without recording; it takes any arguments and returns a Tensor or a
// std::vector<Tensor>. The Tensors among the arguments and those in a range of them (std::vector,
// std::span, ...) get gradients. backward gets one gradient per output, zeros where none came, and
// returns one per tensor argument, in order, undefined where there is none (undefined ones in the
// places of the other arguments, as in PyTorch, are right too); written in differentiable ops it
// can itself be differentiated.
template <typename Derived>
class Function {
 public:
  template <typename... Args>
  static auto apply(Args&&... args) {
    static_assert((is_function_argument<Args>() && ...),
                  "autograd::Function: pass tensors as Tensor, an absent one as Tensor(), or as a "
                  "plain range such as std::vector<Tensor>. Inside an optional, a pair, a tuple, a "
                  "pointer or a nested container they would get no gradient.");
    static const std::string kName = function_name(typeid(Derived));
    auto node = make_ptr<FunctionNode>(kName, &Derived::backward);
    std::vector<Tensor> inputs;
    const auto visit = [&]<typename T>(const T& argument) {
      if constexpr (std::is_same_v<T, Tensor>) {
        inputs.push_back(argument);
        node->add_argument(argument);
      } else if constexpr (TensorRange<T>) {
        for (const Tensor& tensor : argument) {
          inputs.push_back(tensor);
          node->add_argument(tensor);
        }
      } else {
        node->add_other_argument();
      }
    };
    (visit(args), ...);
    bool records = false;
    for (const Tensor& input : inputs) records = records || input.requires_grad();
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
      static_assert(std::is_same_v<decltype(result), std::vector<Tensor>>,
                    "autograd::Function: forward returns a Tensor or a std::vector<Tensor>");
      node->finish(result, inputs, records);
    }
    return result;
  }
};

}  // namespace lockstep::autograd
