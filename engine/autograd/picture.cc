#include "lockstep/engine/autograd/picture.h"

#include <iterator>
#include <unordered_map>
#include <vector>

#include "lockstep/engine/autograd/accumulate.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep::autograd {
namespace {

std::string escaped(const std::string& text) {
  std::string out;
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out;
}

// Every step is constant per node, edge and saved tensor: graphs have a million of them.
class Drawing {
 public:
  explicit Drawing(const std::map<std::string, Tensor>& names) {
    for (const auto& [name, t] : names) {
      if (t.defined()) names_.emplace(t.impl(), name);
    }
  }

  void draw_graph(Node* root) {
    number_of(root);
    for (size_t at = 0; at < order_.size(); ++at) {
      Node* node = order_[at];
      if (const auto* leaf = dynamic_cast<AccumulateGrad*>(node)) {
        box("n", at, label_of(leaf->leaf()), "lightblue");
      } else {
        // To the analyzer a cast that fails means that there is no node.
        draw_operation(*node, at);  // NOLINT(clang-analyzer-core.NonNullParamChecker)
      }
      for (const Edge& next : node->edges()) {
        if (next.function) edge("  n{} -> n{};\n", number_of(next.function.get()), at);
      }
    }
  }

  // An output of a node of the graph.
  void draw_tensor(const Tensor& t, const char* colour) {
    if (t.is_leaf()) return;
    const auto found = numbers_.find(t.grad_fn().get());
    if (found == numbers_.end()) return;
    box("t", tensors_, label_of(t), colour);
    edge("  n{} -> t{};\n", found->second, tensors_++);
  }

  std::string text() const {
    return "digraph autograd {\n"
           "  node [shape=box, style=filled, fontname=monospace, fontsize=10];\n" +
           boxes_ + edges_ + "}\n";
  }

 private:
  void draw_operation(const Node& node, size_t at) {
    std::string label(node.name());
    for (const OutputInfo& output : node.outputs()) label += "\\n" + output.sizes.str();
    box("n", at, label, "lightgrey");
    for (const Dims& sizes : node.saved_sizes()) {
      box("s", saved_, sizes.str(), "orange");
      edge("  s{} -> n{} [dir=none];\n", saved_++, at);
    }
  }

  size_t number_of(Node* node) {
    const auto [entry, added] = numbers_.emplace(node, order_.size());
    if (added) order_.push_back(node);
    return entry->second;
  }

  std::string label_of(const Tensor& t) const {
    const auto name = names_.find(t.impl());
    return (name == names_.end() ? "" : escaped(name->second) + "\\n") + t.sizes().str();
  }

  void box(const char* kind, size_t number, const std::string& label, const char* colour) {
    fmt::format_to(std::back_inserter(boxes_), "  {}{} [label=\"{}\", fillcolor={}];\n", kind,
                   number, label, colour);
  }
  void edge(fmt::format_string<size_t&, size_t&> text, size_t from, size_t to) {
    fmt::format_to(std::back_inserter(edges_), text, from, to);
  }

  std::unordered_map<const TensorImpl*, std::string> names_;
  std::vector<Node*> order_;  // index: the node's number in the picture
  std::unordered_map<const Node*, size_t> numbers_;
  size_t saved_ = 0, tensors_ = 0;
  std::string boxes_, edges_;
};

}  // namespace

std::string picture(const Tensor& root, const std::map<std::string, Tensor>& names) {
  const Edge edge = gradient_edge(root);
  check(static_cast<bool>(edge.function),
        "[picture] the tensor is in no graph: it requires no grad");
  Drawing drawing(names);
  drawing.draw_graph(edge.function.get());
  drawing.draw_tensor(root, "darkolivegreen1");
  for (const auto& [name, t] : names) {
    if (t.defined() && !t.is_same(root)) drawing.draw_tensor(t, "darkolivegreen3");
  }
  return drawing.text();
}

}  // namespace lockstep::autograd
