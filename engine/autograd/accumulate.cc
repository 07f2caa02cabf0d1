#include "lockstep/engine/autograd/accumulate.h"

#include <mutex>

#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/autograd/gradient_slot.h"
#include "lockstep/engine/backend.h"
#include "lockstep/engine/ops/pointwise.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep::autograd {
namespace {

// Guards the weak accumulator pointers of all leaves; held for a few instructions.
std::mutex& accumulator_mutex() {
  static std::mutex mutex;
  return mutex;
}

// Whether `gradient` can become grad() as it is: nobody else sees it or its memory.
bool can_steal(const Tensor& gradient) {
  return gradient.impl()->use_count() == 1 && gradient.impl()->storage->use_count() == 1 &&
         gradient.is_contiguous();
}

void accumulate_into_slot(GradientSlot& slot, const Tensor& gradient) {
  check<Error>(!grad_enabled(),
               "[backward] create_graph=true cannot accumulate into a bucket of a data-parallel "
               "model; use autograd::grad(), which returns the gradients");
  if (slot.state == GradientSlot::State::kReduced) slot.reopen();
  if (slot.state == GradientSlot::State::kEmpty) {
    // A backward that used gradient_destination() has already written in place.
    if (gradient.data_ptr() != slot.view.data_ptr() || !gradient.is_contiguous()) {
      backend_of(gradient).copy(slot.view, gradient);
    }
    slot.state = GradientSlot::State::kAccumulating;
  } else {
    slot.view.add_(gradient);
  }
}

void accumulate_into_grad(AutogradMeta& meta, Tensor& gradient) {
  if (!meta.grad.defined()) {
    if (grad_enabled()) {
      meta.grad = gradient.clone();  // stays in the graph: create_graph
    } else {
      const bool dense = gradient.is_contiguous();
      meta.grad = can_steal(gradient) ? std::move(gradient)
                  : dense             ? gradient.clone()
                                      : gradient.contiguous();
    }
  } else if (grad_enabled()) {
    meta.grad = meta.grad + gradient;
  } else {
    meta.grad.add_(gradient);
  }
}

}  // namespace

void check_replacement(const Tensor& gradient, const Tensor& replacement) {
  check<Error>(replacement.sizes() == gradient.sizes() && replacement.dtype() == gradient.dtype() &&
                   replacement.device() == gradient.device(),
               "[hook] a hook returned {} of {} for a gradient of {} of {}; both must be the same",
               replacement.sizes().str(), name_of(replacement.dtype()), gradient.sizes().str(),
               name_of(gradient.dtype()));
}

AccumulateGrad::~AccumulateGrad() {
  const std::lock_guard lock(accumulator_mutex());
  AutogradMeta& meta = leaf_.impl()->meta();
  if (meta.accumulator == this) meta.accumulator = nullptr;
}

Tensor AccumulateGrad::run_hooks(Tensor gradient) const {
  const AutogradMeta& meta = leaf_.impl()->meta();
  if (!meta.hooks) return gradient;
  const auto hooks = meta.hooks->hooks;  // a hook may remove itself
  for (const auto& [id, hook] : hooks) {
    Tensor replacement = hook(gradient);
    if (!replacement.defined()) continue;
    check_replacement(gradient, replacement);
    gradient = std::move(replacement);
  }
  return gradient;
}

void AccumulateGrad::apply(std::span<Tensor> gradients, std::span<Tensor>) {
  AutogradMeta& meta = leaf_.impl()->meta();
  if (!meta.requires_grad) return;  // frozen since forward
  Tensor gradient = run_hooks(std::move(gradients[0]));
  {
    const std::lock_guard lock(mutex_);
    if (meta.slot) {
      accumulate_into_slot(*meta.slot, gradient);
    } else {
      accumulate_into_grad(meta, gradient);
    }
  }
  if (meta.post_accumulate_hooks) {
    const auto hooks = meta.post_accumulate_hooks->hooks;
    for (const auto& [id, hook] : hooks) hook(leaf_);
  }
}

Ptr<Node> accumulator_of(const Tensor& leaf) {
  const std::lock_guard lock(accumulator_mutex());
  AutogradMeta& meta = leaf.impl()->meta();
  if (meta.accumulator && meta.accumulator->try_retain()) return Ptr<Node>::adopt(meta.accumulator);
  auto node = make_ptr<AccumulateGrad>(leaf);
  meta.accumulator = node.get();
  return node;
}

void set_gradient_slot(const Tensor& leaf, std::shared_ptr<GradientSlot> slot) {
  check(slot && leaf.is_leaf() && is_floating(leaf.dtype()),
        "[set_gradient_slot] only a leaf of floating-point dtype has a gradient slot");
  check(slot->view.sizes() == leaf.sizes() && slot->view.dtype() == leaf.dtype() &&
            slot->view.is_contiguous(),
        "[set_gradient_slot] the slot must be contiguous and of the leaf's shape {} and dtype {}",
        leaf.sizes().str(), name_of(leaf.dtype()));
  leaf.impl()->meta().slot = std::move(slot);
  leaf.impl()->meta().grad = Tensor();
}

void clear_gradient_slot(const Tensor& leaf) {
  if (leaf.impl()->autograd) leaf.impl()->autograd->slot = nullptr;
}

std::shared_ptr<GradientSlot> gradient_slot(const Tensor& leaf) {
  return leaf.impl()->autograd ? leaf.impl()->autograd->slot : nullptr;
}

}  // namespace lockstep::autograd
