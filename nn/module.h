#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lockstep/engine/tensor/tensor.h"

namespace lockstep::nn {

// Base of everything that has parameters. A module names its parameters, buffers and children; the
// children are ordinary data members:
//
//   struct Net : nn::Module {
//     nn::Linear fc1{784, 128}, fc2{128, 10};
//     Net() { register_modules({{"fc1", fc1}, {"fc2", fc2}}); }
//     Tensor forward(const Tensor& x) { return fc2(relu(fc1(x))); }
//   };
//
// Registration keeps addresses, so a module is neither copied nor moved once it is registered or
// has children; moving one then throws.
class Module {
 public:
  Module() = default;
  Module(Module&& other);  // NOLINT(performance-noexcept-move-constructor): see above
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;
  Module& operator=(Module&&) = delete;
  virtual ~Module() = default;

  // A tensor that is registered under several names (tied weights) appears once, under the first.
  std::vector<Tensor> parameters() const;
  // Full names ("fc1.weight"), in registration order: a module's own, then those of its children.
  NamedTensors named_parameters() const;
  NamedTensors named_buffers() const;
  std::vector<std::pair<std::string, Module*>> named_modules() const;  // this one first, as ""

  // Switches dropout, batch normalisation and the like, for all modules below.
  void train(bool training = true);
  void eval() { train(false); }
  bool is_training() const { return training_; }

  void requires_grad_(bool requires_grad = true) const;
  void zero_grad() const;
  // Moves parameters and buffers, or converts the floating ones; the tensors stay the same ones.
  void to(Device device) const;
  void to(DType dtype) const;

  // Parameters and persistent buffers, detached, sharing memory with the module; every name, tied
  // or not, as PyTorch's state_dict().
  NamedTensors state_dict() const;
  // Copies values in. Throws ValueError that lists every missing name, unexpected name and wrong
  // shape at once; nothing is changed then. Without `strict` only shapes matter.
  void load_state_dict(const NamedTensors& state, bool strict = true) const;

 protected:
  void check_movable() const;  // throws if this module is registered with another
  Tensor register_parameter(std::string name, Tensor value);
  Tensor register_buffer(std::string name, Tensor value, bool persistent = true);
  void register_module(std::string name, Module& child);
  void register_modules(
      std::initializer_list<std::pair<const char*, std::reference_wrapper<Module>>> children);

 private:
  struct Buffer {
    std::string name;
    Tensor value;
    bool persistent;
  };
  void check_name(const std::string& name) const;
  // Calls fn(prefix, module) for this module and all below, parents first.
  template <typename F>
  void walk(const std::string& prefix, F&& fn) const;

  NamedTensors parameters_;
  std::vector<Buffer> buffers_;
  std::vector<std::pair<std::string, Module*>> children_;
  bool registered_ = false;
  bool training_ = true;
};

// A module that maps one tensor to one tensor: what Sequential chains.
class Layer : public Module {
 public:
  virtual Tensor forward(const Tensor& x) = 0;
  Tensor operator()(const Tensor& x) { return forward(x); }
};

}  // namespace lockstep::nn
