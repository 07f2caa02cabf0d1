#pragma once

#include <cstddef>
#include <memory>

#include "lockstep/engine/cpu/conv.h"

// The one place that knows oneDNN's C++ interface for convolutions, of version 2.6 and of 3.
namespace lockstep::cpu {

enum class ConvPass : uint8_t { kForward, kBackwardData, kBackwardWeights };

// A convolution prepared for one shape. It runs on the calling thread alone and may be executed by
// several threads at once. Weights (and their gradient) are in an order of oneDNN's choice.
class ConvPlan {
 public:
  // Cached by the arguments. shape.n is the number of images of one execution.
  static std::shared_ptr<const ConvPlan> get(const Conv2dShape& shape, Layout layout, ConvPass pass,
                                             bool bias);
  virtual ~ConvPlan() = default;

  virtual bool weights_are_plain() const = 0;  // packing would copy without changing anything
  virtual size_t packed_weight_bytes() const = 0;
  virtual bool same_packing(const ConvPlan& other) const = 0;
  virtual void pack_weights(const float* plain, float* packed) const = 0;
  virtual void unpack_weights(const float* packed, float* plain) const = 0;

  // x, w, y are inputs or outputs as the pass has it: kForward writes y, kBackwardData x,
  // kBackwardWeights w and bias.
  virtual void execute(float* x, float* w, float* bias, float* y) const = 0;
};

}  // namespace lockstep::cpu
