#pragma once

#include <cstdint>
#include <functional>

#include "lockstep/engine/tensor/tensor.h"

namespace lockstep::autograd {

// A leaf's place in somebody's flat gradient memory (a bucket). While a leaf has a slot, grad() is
// `view`, or undefined while the slot is empty; the first gradient is stored, later ones are added.
struct GradientSlot {
  enum class State : uint8_t {
    kEmpty,         // no gradient yet; the memory holds anything
    kAccumulating,  // this rank's own contributions
    kReduced,       // the sum over the ranks
  };
  Tensor view;
  State state = State::kEmpty;
  // Called when a gradient arrives for a reduced slot; must leave the slot empty with the reduced
  // values set aside.
  std::function<void()> reopen;
};

// Makes `leaf` accumulate into the slot from now on, or, cleared, into a grad() of its own again.
// Either way it has no gradient then.
void clear_gradient_slot(const Tensor& leaf);
void set_gradient_slot(const Tensor& leaf, std::shared_ptr<GradientSlot> slot);
std::shared_ptr<GradientSlot> gradient_slot(const Tensor& leaf);

}  // namespace lockstep::autograd
