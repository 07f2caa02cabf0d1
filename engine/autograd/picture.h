#pragma once

#include <map>
#include <string>

#include "lockstep/engine/tensor/tensor.h"

namespace lockstep::autograd {

// The graph that leads to `root` as Graphviz DOT, drawn like torchviz does: leaves (blue, with
// their name from `names` and their sizes), operations (grey, with the sizes of their results),
// what each of them keeps for backward (orange, the sizes), the root (green). `names` may also name
// intermediate tensors. Render with `dot -Tsvg`. Throws ValueError if `root` is in no graph.
std::string picture(const Tensor& root, const std::map<std::string, Tensor>& names = {});

}  // namespace lockstep::autograd
