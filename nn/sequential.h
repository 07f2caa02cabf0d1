#pragma once

#include <concepts>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "lockstep/nn/module.h"

namespace lockstep::nn {

// Layers one after the other, named "0", "1", ...: Sequential net(Linear(784, 128), ReLU(),
// Linear(128, 10)).
class Sequential : public Layer {
 public:
  template <std::derived_from<Layer>... Layers>
  explicit Sequential(Layers&&... layers) {
    (append(std::make_unique<std::remove_cvref_t<Layers>>(std::forward<Layers>(layers))), ...);
  }

  // Its layers live on the heap, so unlike other modules with children it can be moved.
  Sequential(Sequential&& other) {  // NOLINT(performance-noexcept-move-constructor)
    other.check_movable();
    for (auto& layer : other.layers_) append(std::move(layer));
    train(other.is_training());
  }

  Sequential& append(std::unique_ptr<Layer> layer) {
    register_module(std::to_string(layers_.size()), *layer);
    layers_.push_back(std::move(layer));
    return *this;
  }
  Tensor forward(const Tensor& x) override {
    Tensor h = x;
    for (const auto& layer : layers_) h = layer->forward(h);
    return h;
  }
  size_t size() const { return layers_.size(); }
  Layer& operator[](size_t i) { return *layers_.at(i); }

 private:
  std::vector<std::unique_ptr<Layer>> layers_;
};

}  // namespace lockstep::nn
