#pragma once

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "lockstep/engine/autograd/gradient_slot.h"
#include "lockstep/engine/autograd/node.h"
#include "lockstep/engine/autograd/view_history.h"
#include "lockstep/engine/tensor/tensor.h"

// Internal: what a Tensor handle points to.
namespace lockstep {

namespace autograd {

// Hooks by registration order; shared with the handles that remove them.
template <typename F>
struct HookList {
  std::vector<std::pair<uint64_t, F>> hooks;
  uint64_t next_id = 0;

  static HookHandle add(std::shared_ptr<HookList>& list, F hook) {
    if (!list) list = std::make_shared<HookList>();
    const uint64_t id = list->next_id++;
    list->hooks.emplace_back(id, std::move(hook));
    return HookHandle([weak = std::weak_ptr<HookList>(list), id] {
      if (auto alive = weak.lock()) {
        std::erase_if(alive->hooks, [id](const auto& entry) { return entry.first == id; });
      }
    });
  }
};

// The part of a tensor that only tensors inside a graph pay for.
struct AutogradMeta {
  bool requires_grad = false;  // leaves; a non-leaf requires grad through its grad_fn
  bool retains_grad = false;
  uint32_t output_nr = 0;
  uint32_t history_epoch = 0;  // of a base: how often its history was rewritten
  Ptr<Node> grad_fn;
  Tensor grad;
  Node* accumulator = nullptr;  // weak: the graphs own it (see accumulate.cc)
  std::shared_ptr<GradientSlot> slot;
  std::shared_ptr<HookList<TensorHook>> hooks;  // of a leaf; a non-leaf's live on its grad_fn
  std::shared_ptr<HookList<PostAccumulateHook>> post_accumulate_hooks;
};

}  // namespace autograd

struct TensorImpl final : RefCounted {
  TensorImpl(Ptr<Storage> storage, int64_t offset, const Dims& sizes, const Dims& strides,
             DType dtype);
  ~TensorImpl() override;

  void* data() const {
    return static_cast<char*>(storage->data()) + static_cast<size_t>(offset) * size_of(dtype);
  }
  bool requires_grad() {
    sync_with_base();
    return autograd && (autograd->requires_grad || autograd->grad_fn);
  }
  // Brings a view's history up to date after a write through another view (view_history.h).
  void sync_with_base() {
    if (base && base->autograd && base->autograd->history_epoch != seen_epoch) [[unlikely]] {
      autograd::regenerate_history(*this);
    }
  }
  autograd::AutogradMeta& meta() {
    if (!autograd) autograd = std::make_unique<autograd::AutogradMeta>();
    return *autograd;
  }
  // Undoes retain_grad(): the grad_fn forgets this tensor. Returns whether there was anything to
  // undo.
  bool stop_retaining_grad();
  // Recomputes what is derived from sizes and strides.
  void refresh();

  Ptr<Storage> storage;
  int64_t offset;  // in elements
  Dims sizes;
  Dims strides;
  int64_t numel;
  DType dtype;
  bool contiguous;
  bool inference = false;   // made in inference mode
  Ptr<TensorImpl> base;     // the tensor that this one is a view of
  uint32_t seen_epoch = 0;  // the base's history_epoch that this view's history stands for
  autograd::ViewCreation creation = autograd::ViewCreation::kRecorded;  // of a view
  std::unique_ptr<autograd::AutogradMeta> autograd;
};

// A dense, uninitialised tensor; the workhorse of every op.
Tensor empty_dense(const Dims& sizes, DType dtype, Device device);
// As empty_dense but stored as (N, H, W, C); sizes are (N, C, H, W).
Tensor empty_channels_last(const Dims& sizes, DType dtype, Device device);
// A view of the same storage, outside the graph.
Tensor alias_of(const Tensor& source, const Dims& sizes, const Dims& strides, int64_t offset);

// A view of `source`: a write through either is seen by the other's history. The caller records how
// gradients pass.
Tensor view_of(const Tensor& source, const Dims& sizes, const Dims& strides, int64_t offset);

}  // namespace lockstep
