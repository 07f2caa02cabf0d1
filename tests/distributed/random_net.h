#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "lockstep/engine/autograd/checkpoint.h"
#include "lockstep/engine/ops/ops.h"
#include "lockstep/nn/nn.h"

// A model drawn from a seed.
namespace lockstep::distributed::testing {

constexpr int64_t kInputs = 4, kTargets = 5;

// Numbers from a seed, in the order in which they are asked for: the same on every rank.
class Draw {
 public:
  explicit Draw(uint64_t seed) : engine_(seed) {}
  int64_t below(int64_t n) { return static_cast<int64_t>(engine_() % static_cast<uint64_t>(n)); }
  int64_t between(int64_t low, int64_t high) { return low + below(high - low + 1); }
  bool one_in(int64_t n) { return below(n) == 0; }
  template <typename T>
  void shuffle(std::vector<T>& values) {
    for (size_t i = values.size(); i > 1; --i) {
      std::swap(values[i - 1], values[static_cast<size_t>(below(static_cast<int64_t>(i)))]);
    }
  }

 private:
  std::mt19937_64 engine_;
};

enum class Kind {
  kLinear,        // a layer
  kResidual,      // a branch around a layer
  kCheckpointed,  // a layer whose activations are computed again in backward
  kTwice,         // one layer in two places
  kTied,          // an earlier layer's weight, under a second name, with a bias of its own
  kScale,         // one factor per column
  kExpert,        // a layer for the samples of one class: idle where a micro-batch has none
  kTable,         // a row of a table for each sample's class
  kSecondLoss,    // a branch that ends in the loss
  kUnused,        // in no graph at all
};
inline constexpr int64_t kKinds = 10;

struct Layer {
  Kind kind{};
  int64_t target = 0;  // of an expert
  Tensor weight, bias;
};

inline bool has_square_weight(Kind kind) {
  return kind != Kind::kTied && kind != Kind::kScale && kind != Kind::kTable;
}

// Layers of one width between a first and a last one, which is never frozen. The parameters are
// registered in any order.
class RandomNet : public nn::Module {
 public:
  explicit RandomNet(uint64_t seed) {
    Draw draw(seed);
    const int64_t width = draw.between(2, 9);
    const int64_t dtypes = draw.below(3);  // float32, float64, both
    first_ = {Kind::kLinear, 0, parameter({width, kInputs}), parameter({width})};
    last_ = {Kind::kLinear, 0, parameter({kTargets, width}), parameter({kTargets})};
    const int64_t layers = draw.between(1, 8);
    for (int64_t i = 0; i < layers; ++i) layers_.push_back(make_layer(draw, width));

    NamedTensors all = {{"first_weight", first_.weight},
                        {"first_bias", first_.bias},
                        {"last_weight", last_.weight},
                        {"last_bias", last_.bias}};
    for (size_t i = 0; i < layers_.size(); ++i) {
      all.emplace_back("weight_" + std::to_string(i), layers_[i].weight);
      if (layers_[i].bias.defined()) all.emplace_back("bias_" + std::to_string(i), layers_[i].bias);
    }
    if (draw.one_in(2)) draw.shuffle(all);
    for (const auto& [name, p] : all) {
      const bool wide = dtypes == 1 || (dtypes == 2 && draw.one_in(2));
      if (wide) p.set_data(p.detach().to(DType::kFloat64));
      register_parameter(name, p);
    }
  }

  // A mean over the samples.
  Tensor loss(const Tensor& x, const Tensor& y) const {
    Tensor h = apply(first_, x);
    Tensor second;
    for (const Layer& layer : layers_) {
      if (layer.kind == Kind::kSecondLoss) {
        const Tensor term = mean(square(apply(layer, h))).to(DType::kFloat64) * 0.25;
        second = second.defined() ? second + term : term;
      } else {
        h = forward(layer, h, y);
      }
    }
    const Tensor main = cross_entropy(apply(last_, h), y);
    return second.defined() ? main.to(DType::kFloat64) + second : main;
  }

  bool has(Kind kind) const {
    return std::any_of(layers_.begin(), layers_.end(),
                       [&](const Layer& layer) { return layer.kind == kind; });
  }
  const std::vector<Layer>& layers() const { return layers_; }

 private:
  static Tensor parameter(const Dims& sizes) {
    const double fan_in = sizes.size() == 2 ? static_cast<double>(sizes[1]) : 1.0;
    return (randn(sizes) * (0.7 / std::sqrt(fan_in))).detach();
  }

  Layer make_layer(Draw& draw, int64_t width) {
    Layer layer{static_cast<Kind>(draw.below(kKinds)), draw.below(kTargets), {}, {}};
    if (layer.kind == Kind::kTied) {
      for (const Layer& other : layers_) {
        if (has_square_weight(other.kind)) layer.weight = other.weight;
      }
      if (!layer.weight.defined()) layer.kind = Kind::kLinear;
    }
    if (layer.kind == Kind::kScale) layer.weight = parameter({width});
    if (layer.kind == Kind::kTable) layer.weight = parameter({kTargets, width});
    if (!layer.weight.defined()) layer.weight = parameter({width, width});
    if (layer.kind != Kind::kScale && layer.kind != Kind::kTable) layer.bias = parameter({width});
    return layer;
  }

  // Weight and bias may differ in dtype.
  static Tensor apply(const Layer& layer, const Tensor& x) {
    const Tensor y = matmul(x.to(layer.weight.dtype()), layer.weight.t());
    return y.to(layer.bias.dtype()) + layer.bias;
  }

  static Tensor forward(const Layer& layer, const Tensor& h, const Tensor& y) {
    switch (layer.kind) {
      case Kind::kResidual:
        return h + tanh(apply(layer, h)).to(h.dtype());
      case Kind::kCheckpointed:
        return autograd::checkpoint(
            [&layer](const std::vector<Tensor>& inputs) { return tanh(apply(layer, inputs[0])); },
            {h});
      case Kind::kTwice:
        return tanh(apply(layer, tanh(apply(layer, h))));
      case Kind::kScale:
        return h.to(layer.weight.dtype()) * layer.weight;
      case Kind::kExpert: {
        const Tensor rows = nonzero(y == layer.target).view({-1});
        if (rows.numel() == 0) return h;
        const Tensor result = tanh(apply(layer, index_select(h, 0, rows)));
        return index_add(h, 0, rows, result.to(h.dtype()));
      }
      case Kind::kTable:
        return h + embedding(y, layer.weight).to(h.dtype());
      case Kind::kUnused:
        return h;
      default:
        return tanh(apply(layer, h));
    }
  }

  Layer first_, last_;
  std::vector<Layer> layers_;
};

}  // namespace lockstep::distributed::testing
