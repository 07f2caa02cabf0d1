#pragma once

#include <concepts>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "lockstep/nn/module.h"

namespace lockstep::nn {

// Modules named "0", "1", ... that their owner calls as it likes. They live on the heap:
//
//   nn::ModuleList<Block> blocks;
//   for (int i = 0; i < layers; ++i) blocks.emplace(width);
//   for (Block& block : blocks) x = block(x);
template <std::derived_from<Module> T = Module>
class ModuleList : public Module {
 public:
  class Iterator {
   public:
    using difference_type = std::ptrdiff_t;
    using value_type = T;

    Iterator() = default;
    explicit Iterator(const std::unique_ptr<T>* place) : place_(place) {}
    T& operator*() const { return **place_; }
    T* operator->() const { return place_->get(); }
    Iterator& operator++() {
      ++place_;
      return *this;
    }
    Iterator operator++(int) { return Iterator(place_++); }
    bool operator==(const Iterator&) const = default;

   private:
    const std::unique_ptr<T>* place_ = nullptr;
  };

  // Makes a module at the end and returns it.
  template <std::derived_from<T> U = T, typename... Args>
  U& emplace(Args&&... args) {
    return append(std::make_unique<U>(std::forward<Args>(args)...));
  }
  template <std::derived_from<T> U>
  U& append(std::unique_ptr<U> module) {
    U& added = *module;
    register_module(std::to_string(modules_.size()), added);
    modules_.push_back(std::move(module));
    return added;
  }

  size_t size() const { return modules_.size(); }
  bool empty() const { return modules_.empty(); }
  T& operator[](size_t i) const { return *modules_.at(i); }
  Iterator begin() const { return Iterator(modules_.data()); }
  Iterator end() const { return Iterator(modules_.data() + modules_.size()); }

 private:
  std::vector<std::unique_ptr<T>> modules_;
};

}  // namespace lockstep::nn
