// The members of Tensor that concern its place in the graph.
#include <algorithm>

#include "lockstep/engine/autograd/backward.h"
#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep {

using autograd::AutogradMeta;

bool Tensor::requires_grad() const { return impl_ && impl_->requires_grad(); }

const Tensor& Tensor::requires_grad_(bool requires_grad) const {
  check(!requires_grad || is_floating(dtype()),
        "Only Tensors of floating point and complex dtype can require gradients");
  if (!is_leaf()) {
    check<Error>(requires_grad,
                 "you can only change requires_grad flags of leaf variables. If you want to use a "
                 "computed variable in a subgraph that doesn't require differentiation use "
                 "var_no_grad = var.detach().");
    return *this;
  }
  check<Error>(
      !requires_grad || !impl_->inference || autograd::inference_mode_enabled(),
      "Setting requires_grad=True on inference tensor outside InferenceMode is not allowed.");
  if (requires_grad || impl_->autograd) impl_->meta().requires_grad = requires_grad;
  return *this;
}

bool Tensor::is_leaf() const { return !grad_fn(); }

Ptr<autograd::Node> Tensor::grad_fn() const {
  if (!impl_) return nullptr;
  impl_->sync_with_base();
  return impl_->autograd ? impl_->autograd->grad_fn : nullptr;
}

uint32_t Tensor::output_nr() const { return impl_->autograd ? impl_->autograd->output_nr : 0; }

Tensor Tensor::grad() const {
  if (!impl_ || !impl_->autograd) return {};
  const AutogradMeta& meta = *impl_->autograd;
  if (!meta.slot) return meta.grad;
  return meta.slot->state == autograd::GradientSlot::State::kEmpty ? Tensor() : meta.slot->view;
}

void Tensor::set_grad(const Tensor& grad) const {
  AutogradMeta& meta = impl_->meta();
  if (grad.defined()) {
    check(grad.sizes() == sizes() && grad.dtype() == dtype() && grad.device() == device(),
          "assigned grad has data of a different size or type: {} {} for a tensor of {} {}",
          name_of(grad.dtype()), grad.sizes().str(), name_of(dtype()), sizes().str());
  }
  if (!meta.slot) {
    meta.grad = grad;
  } else if (!grad.defined()) {
    meta.slot->state = autograd::GradientSlot::State::kEmpty;
  } else {
    const autograd::NoGrad no_grad;
    meta.slot->view.copy_(grad);
    // What replaces a reduced gradient stands for the sum over the ranks, as that did.
    if (meta.slot->state == autograd::GradientSlot::State::kEmpty) {
      meta.slot->state = autograd::GradientSlot::State::kAccumulating;
    }
  }
}

void Tensor::retain_grad() const {
  check<Error>(requires_grad(), "can't retain_grad on Tensor that has requires_grad=False");
  AutogradMeta& meta = impl_->meta();
  if (is_leaf() || meta.retains_grad) return;
  meta.retains_grad = true;
  meta.grad_fn->extras().retained.emplace_back(meta.output_nr, impl_.get());
}

uint32_t Tensor::version() const { return impl_->storage->version(); }

void Tensor::backward(const Tensor& gradient, bool retain_graph, bool create_graph) const {
  autograd::backward(std::span(this, 1), std::span(&gradient, 1), retain_graph, create_graph);
}

autograd::HookHandle Tensor::register_hook(autograd::TensorHook hook) const {
  check<Error>(requires_grad(), "cannot register a hook on a tensor that doesn't require gradient");
  AutogradMeta& meta = impl_->meta();
  auto handle = autograd::HookList<autograd::TensorHook>::add(meta.hooks, std::move(hook));
  if (meta.grad_fn) {
    // A non-leaf's hooks hang on the node that sees its gradient; they outlive this handle.
    auto& lists = meta.grad_fn->extras().hooks;
    const auto known = std::find_if(lists.begin(), lists.end(),
                                    [&](const auto& entry) { return entry.second == meta.hooks; });
    if (known == lists.end()) lists.emplace_back(meta.output_nr, meta.hooks);
  }
  return handle;
}

autograd::HookHandle Tensor::register_post_accumulate_grad_hook(
    autograd::PostAccumulateHook hook) const {
  check<Error>(is_leaf(), "post accumulate grad hooks cannot be registered on non-leaf tensors");
  check<Error>(requires_grad(), "cannot register a hook on a tensor that doesn't require gradient");
  return autograd::HookList<autograd::PostAccumulateHook>::add(impl_->meta().post_accumulate_hooks,
                                                               std::move(hook));
}

Tensor Tensor::detach() const { return alias_of(*this, sizes(), strides(), storage_offset()); }

const Tensor& Tensor::detach_() const {
  check<Error>(!impl_->base || is_leaf(), "Can't detach views in-place. Use detach() instead.");
  impl_->stop_retaining_grad();
  impl_->autograd = nullptr;
  return *this;
}

Tensor Tensor::data_tensor() const {
  const TensorImpl& t = *impl_;
  auto storage = Storage::alias(t.storage->data(), t.storage->bytes(), t.storage);
  return Tensor(make_ptr<TensorImpl>(std::move(storage), t.offset, t.sizes, t.strides, t.dtype));
}

void Tensor::set_data(const Tensor& source) const {
  check(source.defined() && source.sizes() == sizes(), "[set_data] expects sizes {}, got {}",
        sizes().str(), source.defined() ? source.sizes().str() : "an undefined tensor");
  check<Error>(
      source.dtype() == dtype() || !impl_->autograd || !impl_->autograd->slot,
      "[set_data] a parameter of a data-parallel model cannot change from {} to {}; convert "
      "the model before DataParallel is made",
      name_of(dtype()), name_of(source.dtype()));
  if (source.dtype() != dtype() && impl_->autograd) impl_->autograd->grad = Tensor();
  impl_->storage = source.impl()->storage;
  impl_->dtype = source.dtype();
  impl_->offset = source.impl()->offset;
  impl_->strides = source.impl()->strides;
  impl_->refresh();
}

}  // namespace lockstep
