#include "lockstep/nn/module.h"

#include <algorithm>
#include <map>
#include <set>

#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::nn {

namespace {

std::string full_name(const std::string& prefix, const std::string& name) {
  return prefix.empty() ? name : fmt::format("{}.{}", prefix, name);
}

// Keeps the first of entries that are the same tensor.
NamedTensors without_repeats(const NamedTensors& all) {
  std::set<const TensorImpl*> seen;
  NamedTensors result;
  for (const auto& entry : all) {
    if (seen.insert(entry.second.impl()).second) result.push_back(entry);
  }
  return result;
}

}  // namespace

template <typename F>
void Module::walk(const std::string& prefix, F&& fn) const {
  fn(prefix, *this);
  for (const auto& [name, child] : children_) {
    child->walk(full_name(prefix, name), fn);
  }
}

// NOLINTNEXTLINE(performance-noexcept-move-constructor): refuses to move what is registered
Module::Module(Module&& other) : training_(other.training_) {
  other.check_movable();  // before anything is taken: the other one stays whole
  check<Error>(other.children_.empty(),
               "[module] a module with children cannot be moved; hold it by std::unique_ptr, or "
               "build it where it is to live");
  parameters_ = std::move(other.parameters_);
  buffers_ = std::move(other.buffers_);
}

void Module::check_movable() const {
  check<Error>(!registered_, "[module] a registered module cannot be moved");
}

void Module::check_name(const std::string& name) const {
  check(!name.empty() && name.find('.') == std::string::npos,
        "[module] \"{}\" cannot be a name: names are not empty and contain no dot", name);
  const auto taken = [&](const auto& list) {
    return std::any_of(list.begin(), list.end(), [&](const auto& e) { return e.first == name; });
  };
  const bool buffer = std::any_of(buffers_.begin(), buffers_.end(),
                                  [&](const Buffer& b) { return b.name == name; });
  check(!taken(parameters_) && !taken(children_) && !buffer,
        "[module] the name \"{}\" is registered already", name);
}

Tensor Module::register_parameter(std::string name, Tensor value) {
  check_name(name);
  check(value.defined() && value.is_leaf(), "[module] parameter \"{}\" must be a leaf tensor",
        name);
  value.requires_grad_();
  parameters_.emplace_back(std::move(name), value);
  return value;
}

Tensor Module::register_buffer(std::string name, Tensor value, bool persistent) {
  check_name(name);
  check(value.defined(), "[module] buffer \"{}\" is undefined", name);
  buffers_.push_back({std::move(name), value, persistent});
  return value;
}

void Module::register_module(std::string name, Module& child) {
  check_name(name);
  check(&child != this, "[module] \"{}\" cannot be its own child", name);
  child.registered_ = true;
  children_.emplace_back(std::move(name), &child);
}

void Module::register_modules(
    std::initializer_list<std::pair<const char*, std::reference_wrapper<Module>>> children) {
  for (const auto& [name, child] : children) register_module(name, child.get());
}

NamedTensors Module::named_parameters() const {
  NamedTensors all;
  walk("", [&](const std::string& prefix, const Module& m) {
    for (const auto& [name, p] : m.parameters_) all.emplace_back(full_name(prefix, name), p);
  });
  return without_repeats(all);
}

NamedTensors Module::named_buffers() const {
  NamedTensors all;
  walk("", [&](const std::string& prefix, const Module& m) {
    for (const auto& b : m.buffers_) all.emplace_back(full_name(prefix, b.name), b.value);
  });
  return without_repeats(all);
}

std::vector<Tensor> Module::parameters() const {
  std::vector<Tensor> result;
  for (auto& [name, p] : named_parameters()) result.push_back(p);
  return result;
}

std::vector<std::pair<std::string, Module*>> Module::named_modules() const {
  std::vector<std::pair<std::string, Module*>> result;
  walk("", [&](const std::string& prefix, const Module& m) {
    result.emplace_back(prefix, const_cast<Module*>(&m));
  });
  return result;
}

void Module::train(bool training) {
  for (const auto& [name, m] : named_modules()) m->training_ = training;
}

void Module::requires_grad_(bool requires_grad) const {
  for (const auto& [name, p] : named_parameters()) p.requires_grad_(requires_grad);
}

void Module::zero_grad() const {
  for (const auto& [name, p] : named_parameters()) p.set_grad({});
}

void Module::to(Device device) const {
  const autograd::NoGrad no_grad;
  for (const auto& list : {named_parameters(), named_buffers()}) {
    for (const auto& [name, t] : list) {
      if (!(t.device() == device)) t.set_data(t.detach().to(device));
    }
  }
}

void Module::to(DType dtype) const {
  check(is_floating(dtype), "[module] to() takes a floating dtype, got {}", name_of(dtype));
  const autograd::NoGrad no_grad;
  for (const auto& list : {named_parameters(), named_buffers()}) {
    for (const auto& [name, t] : list) {
      if (is_floating(t.dtype()) && t.dtype() != dtype) t.set_data(t.detach().to(dtype));
    }
  }
}

NamedTensors Module::state_dict() const {
  NamedTensors state;
  walk("", [&](const std::string& prefix, const Module& m) {
    for (const auto& [name, p] : m.parameters_) {
      state.emplace_back(full_name(prefix, name), p.detach());
    }
    for (const auto& b : m.buffers_) {
      if (b.persistent) state.emplace_back(full_name(prefix, b.name), b.value.detach());
    }
  });
  return state;
}

void Module::load_state_dict(const NamedTensors& state, bool strict) const {
  std::map<std::string_view, const Tensor*> given, known;
  for (const auto& [name, t] : state) {
    check(t.defined(), "[load_state_dict] \"{}\" is undefined", name);
    given[name] = &t;
  }
  const NamedTensors own = state_dict();
  std::vector<std::string> missing, unexpected, wrong;
  for (const auto& [name, t] : own) {
    known[name] = &t;
    const auto found = given.find(name);
    if (found == given.end()) {
      missing.push_back(fmt::format("\"{}\"", name));
      continue;
    }
    if (!(found->second->sizes() == t.sizes())) {
      wrong.push_back(
          fmt::format("size mismatch for {}: copying a param with shape {} from "
                      "checkpoint, the shape in current model is {}.",
                      name, found->second->sizes().str(), t.sizes().str()));
    }
  }
  for (const auto& [name, t] : state) {
    if (!known.contains(name)) unexpected.push_back(fmt::format("\"{}\"", name));
  }
  std::string problems;
  if (strict && !missing.empty()) {
    problems += fmt::format("\n\tMissing key(s) in state_dict: {}.", fmt::join(missing, ", "));
  }
  if (strict && !unexpected.empty()) {
    problems +=
        fmt::format("\n\tUnexpected key(s) in state_dict: {}.", fmt::join(unexpected, ", "));
  }
  for (const auto& text : wrong) problems += "\n\t" + text;
  check(problems.empty(), "Error(s) in loading state_dict:{}", problems);
  const autograd::NoGrad no_grad;
  for (const auto& [name, t] : own) {
    if (const auto found = given.find(name); found != given.end()) t.copy_(*found->second);
  }
}

}  // namespace lockstep::nn
