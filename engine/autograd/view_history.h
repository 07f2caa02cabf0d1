#pragma once

#include "lockstep/engine/autograd/node.h"

// Internal: in-place writes through views, in PyTorch's way.
//
// A view shares memory with its base, so a write through the view changes the base, and with it all
// other views. The base's history becomes CopySlices: the write for the part that the view covers,
// the old history for the rest. The history of the views, the written one included, then is "a
// strided part of the base" (AsStridedBackward0). It is made when a view is next asked for it: a
// base counts its rewrites (history_epoch), and a view knows the count that its history stands for.
namespace lockstep::autograd {

// Where a view was made. Only a recorded one can be written in place with a history, or get a new
// history after such a write to its base: the others have none that could be continued, one that
// a custom function replaced by its own, or one that they share with other views (split).
enum class ViewCreation : uint8_t { kRecorded, kNoGrad, kInferenceMode, kFunction, kOneOfSeveral };

// Throws PyTorch's error if `view` (or any other tensor) cannot be written in place with a history.
void check_view_write(const Tensor& view);

// After `node` wrote in place through `view`, a view of a base.
void rebase_through_view(const Tensor& view, const Ptr<Node>& node);

// Gives `view` the history of its base as it is now.
void regenerate_history(TensorImpl& view);

}  // namespace lockstep::autograd
