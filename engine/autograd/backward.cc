#include "lockstep/engine/autograd/backward.h"

#include <algorithm>

#include "lockstep/engine/autograd/accumulate.h"
#include "lockstep/engine/autograd/anomaly_mode.h"
#include "lockstep/engine/autograd/autocast.h"
#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/autograd/gradient_slot.h"
#include "lockstep/engine/autograd/graph_task.h"
#include "lockstep/engine/ops/pointwise.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/engine/tensor/same_device.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep::autograd {
namespace {

// A gradient that autograd::grad() was asked for: that of output `output_nr` of the node.
struct Capture {
  uint32_t slot;
  uint32_t output_nr;
  size_t input;
};

// One backward, in DESIGN's order: count dependencies, then run ready nodes latest first.
class Run {
 public:
  Run(bool retain_graph, bool create_graph)
      : retain_graph_(retain_graph), mode_(create_graph), outer_(GraphTask::current()) {
    GraphTask::current() = &task_;
  }
  ~Run() { GraphTask::current() = outer_; }
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  void add_root(const Edge& edge, const Tensor& gradient) {
    bool added = false;
    const uint32_t s = task_.find_or_add(edge.function.get(), &added);
    if (added) roots_.push_back(edge.function);
    contribute(task_.slot(s), edge.input_nr, gradient);
  }

  // Walks the graph from the roots and counts, for every node, the edges that lead to it.
  void count_dependencies() {
    std::vector<uint32_t> stack;
    for (const auto& root : roots_) stack.push_back(task_.find(root.get()));
    while (!stack.empty()) {
      Node* node = task_.slot(stack.back()).node;
      stack.pop_back();
      for (const Edge& edge : node->edges()) {
        if (!edge.function) continue;
        bool added = false;
        const uint32_t s = task_.find_or_add(edge.function.get(), &added);
        ++task_.slot(s).dependencies;
        ++task_.slot(s).contributions;
        if (added) stack.push_back(s);
      }
    }
  }

  // Restricts the run to what `captures` need. Marks a node once all nodes it leads to are decided.
  void restrict_to(std::vector<Capture> captures) {
    captures_ = std::move(captures);
    std::vector<uint8_t> state(task_.size(), 0);  // 0 new, 1 open, 2 decided
    for (uint32_t s = 0; s < task_.size(); ++s) task_.slot(s).needed = false;
    for (const Capture& c : captures_) has_capture_.push_back(c.slot);
    std::vector<uint32_t> stack;
    for (const auto& root : roots_) stack.push_back(task_.find(root.get()));
    while (!stack.empty()) {
      const uint32_t s = stack.back();
      if (state[s] == 2) {
        stack.pop_back();
        continue;
      }
      const bool open = state[s] == 1;
      state[s] = open ? 2 : 1;
      if (open) stack.pop_back();
      bool leads = false;
      for (const Edge& edge : task_.slot(s).node->edges()) {
        if (!edge.function) continue;
        const uint32_t next = task_.find(edge.function.get());
        if (open) {
          leads = leads || task_.slot(next).needed || is_captured(next);
        } else if (state[next] == 0) {
          stack.push_back(next);
        }
      }
      if (open) task_.slot(s).needed = leads;
    }
  }

  void execute() {
    for (const auto& root : roots_) {
      const uint32_t s = task_.find(root.get());
      if (task_.slot(s).dependencies == 0) push_ready(s);
    }
    while (!ready_.empty()) {
      std::pop_heap(ready_.begin(), ready_.end());
      const uint32_t s = ready_.back().second;
      ready_.pop_back();
      visit(s);
    }
  }

  uint32_t find(const Node* node) const { return task_.find(node); }
  std::vector<Tensor>& captured() { return captured_; }

 private:
  bool is_captured(uint32_t slot) const {
    return std::find(has_capture_.begin(), has_capture_.end(), slot) != has_capture_.end();
  }

  void push_ready(uint32_t s) {
    ready_.emplace_back(task_.slot(s).node->sequence_number(), s);
    std::push_heap(ready_.begin(), ready_.end());
  }

  void visit(uint32_t s) {
    Node* node = task_.slot(s).node;
    InlineVector<Tensor, 1> gradients = std::move(task_.slot(s).gradients);
    task_.slot(s).gradients = {};
    gradients.resize(node->outputs().size());
    const bool any = std::any_of(gradients.begin(), gradients.end(),
                                 [](const Tensor& g) { return g.defined(); });
    if (any) run_hooks(*node, gradients);
    for (const Capture& c : captures_) {
      if (c.slot != s) continue;
      Tensor& captured = captured_[c.input] = gradients[c.output_nr];
      auto* leaf = dynamic_cast<AccumulateGrad*>(node);
      if (leaf && captured.defined()) captured = leaf->run_hooks(std::move(captured));
    }
    results_.assign(node->edges().size(), Tensor());
    if (any && task_.slot(s).needed) {
      node->apply({gradients.data(), gradients.size()}, results_);
      if (Node::Extras* extras = node->extras_or_null(); extras && extras->post_hooks) {
        const auto hooks = extras->post_hooks->hooks;
        for (const auto& [id, hook] : hooks) hook(results_, {gradients.data(), gradients.size()});
      }
      if (AnomalyMode::is_enabled()) check_for_nan(*node, gradients);
      if (!retain_graph_) node->release_saved();
    }
    gradients.clear();
    for (size_t i = 0; i < node->edges().size(); ++i) {
      const Edge& edge = node->edges()[i];
      if (!edge.function) continue;
      const uint32_t next = task_.find(edge.function.get());
      GraphTask::Slot& slot = task_.slot(next);
      if (results_[i].defined()) {
        validate(*node, i, edge, results_[i]);
        contribute(slot, edge.input_nr, std::move(results_[i]));
        results_[i] = Tensor();
      }
      if (--slot.dependencies == 0) push_ready(next);
    }
  }

  static void run_hooks(Node& node, InlineVector<Tensor, 1>& gradients) {
    Node::Extras* extras = node.extras_or_null();
    if (!extras) return;
    if (extras->pre_hooks) {
      const auto hooks = extras->pre_hooks->hooks;
      for (const auto& [id, hook] : hooks) hook({gradients.data(), gradients.size()});
    }
    const auto lists = extras->hooks;  // a hook may add or remove hooks
    for (const auto& [output_nr, list] : lists) {
      if (!gradients[output_nr].defined()) continue;
      const auto hooks = list->hooks;
      for (const auto& [id, hook] : hooks) {
        Tensor replacement = hook(gradients[output_nr]);
        if (!replacement.defined()) continue;
        check_replacement(gradients[output_nr], replacement);
        gradients[output_nr] = std::move(replacement);
      }
    }
    for (const auto& [output_nr, impl] : extras->retained) {
      const Tensor& g = gradients[output_nr];
      if (!g.defined()) continue;
      Tensor& grad = impl->meta().grad;
      grad = grad.defined() ? grad + g : (grad_enabled() ? g.clone() : g.detach().clone());
    }
  }

  static bool has_nan(const Tensor& t) {
    if (!t.defined() || !is_floating(t.dtype())) return false;
    const NoGrad no_grad;
    return ne(t, t).to(DType::kInt64).sum().item<int64_t>() > 0;
  }

  void check_for_nan(const Node& node, InlineVector<Tensor, 1>& gradients) const {
    if (std::any_of(gradients.begin(), gradients.end(), has_nan)) return;  // it came in
    for (size_t i = 0; i < results_.size(); ++i) {
      check<Error>(!has_nan(results_[i]), "Function '{}' returned nan values in its {}th output.",
                   node.name(), i);
    }
  }

  static void validate(const Node& node, size_t index, const Edge& edge, Tensor& gradient) {
    const OutputInfo& expected = edge.function->outputs()[edge.input_nr];
    if (gradient.sizes() == expected.sizes && gradient.dtype() == expected.dtype &&
        gradient.device() == expected.device) {
      return;
    }
    check<Error>(broadcasts_to(expected.sizes, gradient.sizes()),
                 "Function {} returned an invalid gradient at index {} - got {} but expected shape "
                 "compatible with {}",
                 node.name(), index, gradient.sizes().str(), expected.sizes.str());
    gradient = sum_to_size(gradient, expected.sizes);
    if (gradient.dtype() != expected.dtype) gradient = gradient.to(expected.dtype);
    if (gradient.device() != expected.device) {  // of a CPU number among a GPU's tensors
      check<Error>(gradient.dim() == 0,
                   "Function {} returned an invalid gradient at index {} - expected device {} but "
                   "got {}",
                   node.name(), index, expected.device.str(), gradient.device().str());
      gradient = gradient.to(expected.device);
    }
  }

  static bool broadcasts_to(const Dims& from, const Dims& to) {
    const int lead = to.size() - from.size();
    if (lead < 0) return false;
    for (int d = 0; d < from.size(); ++d) {
      if (from[d] != 1 && from[d] != to[d + lead]) return false;
    }
    return true;
  }

  static void contribute(GraphTask::Slot& slot, uint32_t output_nr, Tensor gradient) {
    slot.gradients.resize(std::max<size_t>(slot.gradients.size(), output_nr + 1));
    Tensor& sum = slot.gradients[output_nr];
    if (!sum.defined()) {
      sum = std::move(gradient);
      return;
    }
    const bool ours = !grad_enabled() && sum.impl()->use_count() == 1 &&
                      sum.impl()->storage->use_count() == 1 && sum.is_contiguous() &&
                      sum.dtype() == gradient.dtype();
    if (ours) {
      sum.add_(gradient);
    } else {
      sum = sum + gradient;
    }
  }

  bool retain_graph_;
  GradMode mode_;
  NoAutocast no_autocast_;
  GraphTask* outer_;
  GraphTask task_;
  std::vector<Ptr<Node>> roots_;
  std::vector<std::pair<uint64_t, uint32_t>> ready_;  // heap by sequence number
  std::vector<Tensor> results_;
  std::vector<Capture> captures_;
  std::vector<uint32_t> has_capture_;
  std::vector<Tensor> captured_;
};

Tensor root_gradient(const Tensor& root, const Tensor& given, size_t index) {
  if (!given.defined()) {
    check<Error>(root.numel() == 1, "grad can be implicitly created only for scalar outputs");
    const NoGrad no_grad;
    return ones_like(root);
  }
  check<Error>(
      given.sizes() == root.sizes(),
      "Mismatch in shape: grad_output[{}] has a shape of {} and output[{}] has a shape of {}.",
      index, given.sizes().str(), index, root.sizes().str());
  check_on_device("backward", root.device(), given);
  return given.to(root.dtype());
}

void add_roots(Run& run, std::span<const Tensor> roots, std::span<const Tensor> gradients) {
  check<Error>(gradients.empty() || gradients.size() == roots.size(),
               "[backward] got {} tensors and {} gradients", roots.size(), gradients.size());
  for (size_t i = 0; i < roots.size(); ++i) {
    const Edge edge = gradient_edge(roots[i]);
    check<Error>(static_cast<bool>(edge.function),
                 "element {} of tensors does not require grad and does not have a grad_fn", i);
    run.add_root(edge, root_gradient(roots[i], gradients.empty() ? Tensor() : gradients[i], i));
  }
}

}  // namespace

void backward(std::span<const Tensor> roots, std::span<const Tensor> gradients, bool retain_graph,
              bool create_graph) {
  Run run(retain_graph || create_graph, create_graph);
  add_roots(run, roots, gradients);
  run.count_dependencies();
  run.execute();
}

std::vector<Tensor> grad(std::span<const Tensor> roots, std::span<const Tensor> inputs,
                         std::span<const Tensor> gradients, GradOptions options) {
  check<Error>(!inputs.empty(), "grad requires non-empty inputs.");
  Run run(options.retain_graph || options.create_graph, options.create_graph);
  std::vector<Edge> edges;
  for (const Tensor& input : inputs) {
    edges.push_back(gradient_edge(input));
    check<Error>(static_cast<bool>(edges.back().function),
                 "One of the differentiated Tensors does not require grad");
  }
  add_roots(run, roots, gradients);
  run.count_dependencies();
  std::vector<Capture> captures;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const uint32_t slot = run.find(edges[i].function.get());
    if (slot != GraphTask::kNone) captures.push_back({slot, edges[i].input_nr, i});
  }
  run.captured().resize(inputs.size());
  run.restrict_to(std::move(captures));
  run.execute();
  std::vector<Tensor> results = std::move(run.captured());
  for (const Tensor& result : results) {
    check<Error>(
        options.allow_unused || result.defined(),
        "One of the differentiated Tensors appears to not have been used in the graph. Set "
        "allow_unused=True if this is the desired behavior.");
  }
  return results;
}

std::vector<Tensor> grad(const Tensor& root, const std::vector<Tensor>& inputs,
                         GradOptions options) {
  return grad(std::span(&root, 1), inputs, {}, options);
}

Tensor gradient_destination(const Edge& edge) {
  GraphTask* task = GraphTask::current();
  if (!task || grad_enabled() || !edge.function ||
      edge.function->sequence_number() != Node::kLeafSequence) {
    return {};
  }
  const uint32_t s = task->find(edge.function.get());
  if (s == GraphTask::kNone || task->slot(s).contributions != 1) return {};
  if (!task->slot(s).needed) return {};  // autograd::grad(): the caller owns the result
  const auto* accumulate = dynamic_cast<const AccumulateGrad*>(edge.function.get());
  if (!accumulate) return {};
  const AutogradMeta& meta = accumulate->leaf().impl()->meta();
  if (!meta.slot || meta.slot->state != GradientSlot::State::kEmpty || meta.hooks) return {};
  return meta.slot->view;
}

}  // namespace lockstep::autograd
