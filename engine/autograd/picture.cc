#include "lockstep/engine/autograd/picture.h"

#include <algorithm>
#include <vector>

#include "lockstep/engine/autograd/accumulate.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep::autograd {
namespace {

std::string name_of_tensor(const TensorImpl* impl, const std::map<std::string, Tensor>& names) {
  for (const auto& [name, t] : names) {
    if (t.impl() == impl) return name;
  }
  return "";
}

std::string escaped(const std::string& text) {
  std::string out;
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out;
}

}  // namespace

std::string picture(const Tensor& root, const std::map<std::string, Tensor>& names) {
  std::string dot =
      "digraph autograd {\n  node [shape=box, style=filled, fontname=monospace, fontsize=10];\n";
  const Edge edge = gradient_edge(root);
  check(static_cast<bool>(edge.function),
        "[picture] the tensor is in no graph: it requires no grad");
  std::vector<Node*> order;  // index = the node's number in the picture
  const auto number = [&](Node* node, bool* added) {
    const auto index = std::find(order.begin(), order.end(), node) - order.begin();
    *added = index == static_cast<ptrdiff_t>(order.size());
    if (*added) order.push_back(node);
    return index;
  };
  std::string edges;
  bool added = false;
  number(edge.function.get(), &added);
  for (size_t at = 0; at < order.size(); ++at) {
    Node* node = order[at];
    if (const auto* leaf = dynamic_cast<AccumulateGrad*>(node)) {
      const std::string name = name_of_tensor(leaf->leaf().impl(), names);
      dot += fmt::format("  n{} [label=\"{}{}\", fillcolor=lightblue];\n", at,
                         name.empty() ? "" : escaped(name) + "\\n", leaf->leaf().sizes().str());
    } else {
      std::string label(node->name());
      for (const OutputInfo& output : node->outputs()) label += "\\n" + output.sizes.str();
      dot += fmt::format("  n{} [label=\"{}\", fillcolor=lightgrey];\n", at, label);
    }
    for (const Edge& next : node->edges()) {
      if (!next.function) continue;
      const auto to = number(next.function.get(), &added);
      edges += fmt::format("  n{} -> n{};\n", to, at);
    }
  }
  int named = 0;
  const auto draw_tensor = [&](const Tensor& t, const std::string& name, const char* colour) {
    const Edge of = gradient_edge(t);
    const auto found = std::find(order.begin(), order.end(), of.function.get());
    if (!of.function || found == order.end() || t.is_leaf()) return;
    dot += fmt::format("  t{} [label=\"{}{}\", fillcolor={}];\n", named,
                       name.empty() ? "" : escaped(name) + "\\n", t.sizes().str(), colour);
    edges += fmt::format("  n{} -> t{};\n", found - order.begin(), named++);
  };
  draw_tensor(root, name_of_tensor(root.impl(), names), "darkolivegreen1");
  for (const auto& [name, t] : names) {
    if (t.defined() && !t.is_same(root)) draw_tensor(t, name, "darkolivegreen3");
  }
  return dot + edges + "}\n";
}

}  // namespace lockstep::autograd
