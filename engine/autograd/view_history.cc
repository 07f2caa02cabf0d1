#include "lockstep/engine/autograd/view_history.h"

#include "lockstep/engine/autograd/op_node.h"
#include "lockstep/engine/ops/pointwise.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep::autograd {
namespace {

// Where a view lies within its base. A base is never a view itself, so it is dense: its elements,
// in some order, are all that its storage has.
struct Part {
  Dims base_sizes, base_strides;
  Dims sizes, strides;
  int64_t offset = 0;  // from the base's first element

  Tensor as_base(const Tensor& flat) const { return alias_of(flat, base_sizes, base_strides, 0); }
  Tensor as_part(const Tensor& flat) const { return alias_of(flat, sizes, strides, offset); }
};

Part part_of(const TensorImpl& view) {
  return {view.base->sizes, view.base->strides, view.sizes, view.strides,
          view.offset - view.base->offset};
}

Tensor take_part(const Tensor& x, const Part& part);
Tensor embed_part(const Tensor& g, const Part& part);

struct AsStridedBackward0 final : OpNode<1> {
  Part part;
  std::string_view name() const override { return "AsStridedBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    results[0] = embed_part(gradients[0], part);
  }
};

struct EmbedPartBackward final : OpNode<1> {
  Part part;
  std::string_view name() const override { return "AsStridedBackwardBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    results[0] = take_part(gradients[0], part);
  }
};

// The part of a tensor of the base's shape, as a copy.
Tensor take_part(const Tensor& x, const Part& part) {
  Tensor y;
  {
    const NoGrad no_grad;
    const Tensor flat = empty_dense({x.numel()}, x.dtype(), x.device());
    part.as_base(flat).copy_(x);
    y = part.as_part(flat).clone();
  }
  if (auto node = record<AsStridedBackward0>(y, x)) node->part = part;
  return y;
}

// Its adjoint: g in the part's place, zeros elsewhere. Parts may overlap themselves (expand).
Tensor embed_part(const Tensor& g, const Part& part) {
  Tensor y;
  {
    const NoGrad no_grad;
    const Tensor flat = zeros({part.base_sizes.product()}, {g.dtype(), g.device()});
    Dims sizes = part.sizes, strides = part.strides;
    Tensor source = g;
    for (int d = sizes.size() - 1; d >= 0; --d) {
      if (strides[d] != 0 || sizes[d] == 1) continue;
      source = source.sum({d}, true);
      sizes[d] = 1;
    }
    alias_of(flat, sizes, strides, part.offset).add_(source);
    y = part.as_base(flat);
  }
  if (auto node = record<EmbedPartBackward>(y, g)) node->part = part;
  return y;
}

// g with zeros in the part's place; its own adjoint.
Tensor clear_part(const Tensor& g, const Part& part);

struct ClearPartBackward final : OpNode<1> {
  Part part;
  std::string_view name() const override { return "SliceScatterBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    results[0] = clear_part(gradients[0], part);
  }
};

Tensor clear_part(const Tensor& g, const Part& part) {
  Tensor y;
  {
    const NoGrad no_grad;
    const Tensor flat = empty_dense({part.base_sizes.product()}, g.dtype(), g.device());
    y = part.as_base(flat);
    y.copy_(g);
    part.as_part(flat).zero_();
  }
  if (auto node = record<ClearPartBackward>(y, g)) node->part = part;
  return y;
}

// Edge 0 leads to the base's history before the write, the others to the writing op's other inputs.
struct CopySlices final : Node {
  Part part;
  Ptr<Node> write;
  std::string_view name() const override { return "CopySlices"; }
  void release_saved() override { write->release_saved(); }
  std::vector<Dims> saved_sizes() const override { return write->saved_sizes(); }

  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    const Tensor& g = gradients[0];
    std::vector<Tensor> inner = {take_part(g, part)};
    std::vector<Tensor> inner_results(write->edges().size());
    write->apply(inner, inner_results);
    if (needs(0)) {
      results[0] = clear_part(g, part);
      if (inner_results[0].defined()) {
        results[0] = add(results[0], embed_part(inner_results[0], part));
      }
    }
    for (size_t i = 1; i < results.size(); ++i) results[i] = inner_results[i];
  }
};

// What is wrong with a write that gives `view` a new history; `indirect` if the write was to its
// base or to another view of that.
void check_creation(const TensorImpl& view, bool indirect) {
  using enum ViewCreation;
  if (view.creation == kRecorded) return;
  const char* what = indirect ? "its base or another view of its base has been" : "is being";
  const bool inference = view.creation == kInferenceMode;
  const char* block = inference ? "inference_mode" : "no_grad";
  const auto& meta = view.autograd;
  std::string text;
  if (inference || view.creation == kNoGrad || !meta || !meta->grad_fn) {
    text = fmt::format("A view was created in {} mode and {} modified inplace {}.",
                       inference ? "inference" : block, what,
                       inference ? "in normal mode" : "with grad mode enabled");
  } else {
    text = fmt::format("Output {} of {} is a view and {} modified inplace.", meta->output_nr,
                       meta->grad_fn->name(), what);
  }
  if (view.creation == kOneOfSeveral) {
    fail<Error>(
        "{} This view is the output of a function that returns multiple views. Such functions do "
        "not allow the output views to be modified inplace. You should replace the inplace "
        "operation by an out-of-place one.",
        text);
  }
  if (view.creation == kFunction) {
    fail<Error>(
        "{} This view was created inside a custom Function (or because an input was returned "
        "as-is) and the autograd logic to handle view+inplace would override the custom backward "
        "associated with the custom Function, leading to incorrect gradients. This behavior is "
        "forbidden. You can fix this by cloning the output of the custom Function.",
        text);
  }
  fail<Error>(
      "{} Given that this use case is ambiguous and error-prone, it is forbidden. You can clarify "
      "your code by moving both the view and the inplace either both inside the {} block (if you "
      "don't want the inplace to be tracked) or both outside (if you want the inplace to be "
      "tracked).",
      text, block);
}

}  // namespace

void check_view_write(const Tensor& view) {
  if (view.impl()->base) check_creation(*view.impl(), false);
}

void rebase_through_view(const Tensor& view, const Ptr<Node>& node) {
  const Tensor base(view.impl()->base);
  auto copy = make_ptr<CopySlices>();
  copy->part = part_of(*view.impl());
  copy->write = node;
  copy->add_edge(gradient_edge(base));
  for (size_t i = 1; i < node->edges().size(); ++i) copy->add_edge(node->edges()[i]);
  node->add_output(view);
  replace_history(base, copy);
  ++base.impl()->meta().history_epoch;
}

void regenerate_history(TensorImpl& view) {
  TensorImpl& base = *view.base;
  check_creation(view, true);
  view.seen_epoch = base.autograd->history_epoch;
  auto node = make_ptr<AsStridedBackward0>();
  node->part = part_of(view);
  node->add_edge(gradient_edge(Tensor(view.base)));
  const Tensor handle{Ptr<TensorImpl>(&view)};
  replace_history(handle, node);
}

}  // namespace lockstep::autograd
