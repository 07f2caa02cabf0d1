#include "lockstep/distributed/sharded_optimizer.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>
#include <utility>

#include "lockstep/distributed/bucket.h"
#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/autograd/node.h"
#include "lockstep/engine/backend.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/engine/tensor/tensor_impl.h"
#include "lockstep/optim/clip.h"

namespace lockstep::distributed {
namespace {

std::string name_in(const Bucket& bucket, size_t entry) { return bucket.entries()[entry].name; }

class Gathering final : public Arrival {
 public:
  explicit Gathering(Work work) : work_(std::move(work)) {}
  void wait() override { work_.wait(); }

 private:
  Work work_;
};

}  // namespace

ShardedOptimizerBase::ShardedOptimizerBase(DataParallel& replicas,
                                           const std::vector<std::vector<Tensor>>& groups)
    : replicas_(replicas) {
  for (size_t g = 0; g < groups.size(); ++g) {
    add_parameters(groups[g]);
    parts_.emplace_back();
    for (size_t i = 0; i < groups[g].size(); ++i) {
      Piece& piece = pieces_.emplace_back();
      piece.parameter = groups[g][i];
      piece.group = g;
      piece.index = i;
    }
  }
  check(!groups.empty(), "optimizer got an empty parameter list");
  const int size = replicas.group().size();
  for (const Bucket* bucket : replicas.buckets()) {
    check(bucket->parts() == size,
          "[sharded_optimizer] its DataParallel must be made with {{.shard_gradients = true}}");
  }
  const std::vector<Layout> layouts = look();
  for (size_t i = 0; i < pieces_.size(); ++i) {
    check(pieces_[i].bucket != nullptr || !pieces_[i].parameter.requires_grad(),
          "[sharded_optimizer] parameter {} is not one of the DataParallel's", i);
    pieces_[i].layout = layouts[i];
  }
  const autograd::NoGrad no_grad;
  for (Piece& piece : pieces_) {
    parts_[piece.group].push_back(cut(piece, piece.parameter));
    piece.data = piece.parameter.data_ptr();
  }
}

// The elements of a parameter that lie in a rank's part of the bucket.
ShardedOptimizerBase::Range ShardedOptimizerBase::range_of(const Piece& piece, int rank) const {
  const auto& [offset, part] = piece.layout;
  const int64_t count = piece.parameter.numel();
  if (part == 0) return {0, rank == 0 ? count : 0};
  const int64_t begin = std::clamp<int64_t>(rank * part - offset, 0, count);
  const int64_t end = std::clamp<int64_t>((rank + 1) * part - offset, 0, count);
  return {begin, end - begin};
}

Tensor ShardedOptimizerBase::cut(const Piece& piece, const Tensor& whole) const {
  const Range own = range_of(piece, replicas_.group().rank());
  return whole.detach().view({-1}).narrow(0, own.begin, own.count);
}

// Finds every parameter in its bucket; where they lie there.
std::vector<ShardedOptimizerBase::Layout> ShardedOptimizerBase::look() {
  std::map<const void*, std::pair<const Bucket*, size_t>> places;
  for (const Bucket* bucket : replicas_.buckets()) {
    for (size_t e = 0; e < bucket->entries().size(); ++e) {
      places[bucket->entries()[e].parameter.impl()] = {bucket, e};
    }
  }
  std::vector<Layout> layouts;
  for (Piece& piece : pieces_) {
    Layout& layout = layouts.emplace_back();
    const auto found = places.find(piece.parameter.impl());
    if (found == places.end()) continue;
    std::tie(piece.bucket, piece.entry) = found->second;
    layout.offset = piece.bucket->entries()[piece.entry].offset;
    layout.part = piece.bucket->trailer_offset() / piece.bucket->parts();
  }
  return layouts;
}

// Buckets may have been made since, or made anew: then parts move between ranks, and what has been
// remembered of them with them.
void ShardedOptimizerBase::follow_buckets() {
  const bool same = std::all_of(pieces_.begin(), pieces_.end(), [](const Piece& piece) {
    return piece.data == piece.parameter.data_ptr();  // a new bucket has memory of its own
  });
  if (same) return;
  const std::vector<Layout> layouts = look();
  bool moved = false;
  for (size_t i = 0; i < pieces_.size(); ++i) moved = moved || pieces_[i].layout != layouts[i];
  std::vector<ParameterState> states;
  if (moved) states = gather_states();
  const autograd::NoGrad no_grad;
  for (size_t i = 0; i < pieces_.size(); ++i) {
    Piece& piece = pieces_[i];
    if (piece.layout == layouts[i] && piece.data == piece.parameter.data_ptr()) continue;
    piece.layout = layouts[i];
    piece.data = piece.parameter.data_ptr();
    const Tensor part = cut(piece, piece.parameter);
    parts_[piece.group][piece.index] = part;
    inner_parameters(piece.group)[piece.index] = part;
  }
  if (moved) inner_->load_states(own_parts(states));
}

bool ShardedOptimizerBase::is_whole() const {
  const auto buckets = replicas_.buckets();
  return std::all_of(buckets.begin(), buckets.end(),
                     [](const Bucket* bucket) { return bucket->is_whole(); });
}

// The parameters' memory must not go away under the communication thread.
ShardedOptimizerBase::~ShardedOptimizerBase() {
  for (Work& work : gathers_) {
    try {
      work.wait();
    } catch (const std::exception&) {
      // The group tells everybody who still uses it.
    }
  }
}

// The inner optimizer skips parts without a gradient, so the buckets take turns: one has gradients,
// all others have none. A part without elements has one like the others: it counts the steps. The
// bucket whose gradients came last goes first: forward begins with its parameters.
void ShardedOptimizerBase::step() {
  const autograd::NoGrad no_grad;
  follow_buckets();  // reads all parameters: the last step's have come
  gathers_.clear();
  check_homes();
  std::vector<const Piece*> updated;
  std::vector<const Bucket*> buckets = replicas_.buckets();
  std::reverse(buckets.begin(), buckets.end());
  for (const Bucket* bucket : buckets) {
    const size_t before = updated.size();
    for (const Piece& piece : pieces_) {
      if (piece.bucket != bucket) continue;
      const auto& slot = *bucket->entries()[piece.entry].slot;
      if (slot.state == autograd::GradientSlot::State::kEmpty) continue;
      check<Error>(slot.state == autograd::GradientSlot::State::kReduced,
                   "[sharded_optimizer] the gradient of {} is this rank's own; step() belongs "
                   "behind DataParallel's backward() of the step's last micro-batch",
                   name_in(*bucket, piece.entry));
      part_of(piece).set_grad(cut(piece, slot.view));
      updated.push_back(&piece);
    }
    if (updated.size() == before) continue;
    inner_->step();
    for (size_t i = before; i < updated.size(); ++i) part_of(*updated[i]).set_grad({});
    if (replicas_.group().size() > 1) gather_parameters(*bucket);
  }
  for (const Piece* piece : updated) autograd::bump_version(piece->parameter);
}

// What is gathered are the buckets, so the parameters must be there.
void ShardedOptimizerBase::check_homes() const {
  for (const Piece& piece : pieces_) {
    if (piece.bucket == nullptr) continue;
    const auto* home = static_cast<const char*>(piece.bucket->parameter_buffer().data) +
                       static_cast<size_t>(piece.layout.offset) * size_of(piece.parameter.dtype());
    check<Error>(piece.parameter.data_ptr() == home,
                 "[sharded_optimizer] parameter {} no longer lies in its bucket; write its values "
                 "with copy_() instead of set_data()",
                 name_in(*piece.bucket, piece.entry));
  }
}

void ShardedOptimizerBase::gather_parameters(const Bucket& bucket) {
  ProcessGroup& group = replicas_.group();
  const ProcessGroup::LabelScope label(group, bucket.label());
  const Buffer whole = bucket.parameter_buffer();
  const Work work = group.all_gather(whole, buffer_part(whole, group.rank(), group.size()));
  gathers_.push_back(work);
  const auto arrival = std::make_shared<Gathering>(work);
  for (const Bucket::Entry& entry : bucket.entries()) {
    entry.parameter.impl()->storage->expect(arrival);
  }
}

double ShardedOptimizerBase::clip_grad_norm_(double max_norm, bool error_if_nonfinite) {
  if (is_whole()) return optim::clip_grad_norm_(parameters(), max_norm, error_if_nonfinite);
  const autograd::NoGrad no_grad;
  follow_buckets();
  std::vector<Tensor> gradients;
  std::vector<OptimizerSegment> segments;
  for (const Piece& piece : pieces_) {
    const Tensor whole = piece.parameter.grad();
    if (!whole.defined()) continue;
    const Tensor& g = gradients.emplace_back(cut(piece, whole));
    segments.push_back({nullptr, g.data_ptr(), {}, g.numel(), g.dtype()});
  }
  double own = segments.empty() ? 0.0 : backend_of(gradients[0]).sum_of_squares(segments);
  ProcessGroup& group = replicas_.group();
  std::vector<double> all(static_cast<size_t>(group.size()));
  const ProcessGroup::LabelScope label(group, Label("the norm of the gradients"));
  group
      .all_gather({all.data(), std::ssize(all), DType::kFloat64, {}},
                  {&own, 1, DType::kFloat64, {}}, Launch::kBlocking)
      .wait();
  double squares = 0.0;
  for (const double part : all) squares += part;
  const double norm = std::sqrt(squares);
  const double coefficient = optim::clip_coefficient(norm, max_norm, error_if_nonfinite);
  for (const Tensor& g : gradients) g.mul_(coefficient);
  return norm;
}

// Parameter by parameter: every rank sends its parts of all buffers, filled up to the longest.
std::vector<optim::Optimizer::ParameterState> ShardedOptimizerBase::gather_states() {
  const autograd::NoGrad no_grad;
  ProcessGroup& group = replicas_.group();
  const ProcessGroup::LabelScope label(group, Label("the sharded optimizer's state"));
  std::vector<ParameterState> states = inner_->states();
  for (size_t i = 0; i < states.size(); ++i) {
    const Piece& piece = pieces_[i];
    ParameterState& state = states[i];
    state.parameter = piece.parameter;
    int64_t longest = 0;
    for (int r = 0; r < group.size(); ++r) {
      longest = std::max(longest, range_of(piece, r).count);
    }
    const DType dtype = piece.parameter.dtype();
    const Device device = piece.parameter.device();
    for (auto& [name, part] : state.buffers) {
      if (!part.defined()) continue;
      const Tensor mine = zeros({longest}, {dtype, device});
      mine.narrow(0, 0, part.numel()).copy_(part);
      const Tensor all = empty({longest * group.size()}, {dtype, device});
      group
          .all_gather({all.data_ptr(), all.numel(), dtype, device},
                      {mine.data_ptr(), mine.numel(), dtype, device})
          .wait();
      const Tensor whole = empty({piece.parameter.numel()}, {dtype, device});
      for (int r = 0; r < group.size(); ++r) {
        const Range theirs = range_of(piece, r);
        whole.narrow(0, theirs.begin, theirs.count).copy_(all.narrow(0, r * longest, theirs.count));
      }
      part = whole.view(piece.parameter.sizes());
    }
  }
  return states;
}

std::vector<optim::Optimizer::ParameterState> ShardedOptimizerBase::own_parts(
    const std::vector<ParameterState>& states) const {
  std::vector<ParameterState> parts = states;
  for (size_t i = 0; i < parts.size(); ++i) {
    for (auto& [name, t] : parts[i].buffers) {
      if (t.defined()) t = cut(pieces_[i], t.contiguous());
    }
  }
  return parts;
}

void ShardedOptimizerBase::load_states(const std::vector<ParameterState>& states) {
  const autograd::NoGrad no_grad;
  check(states.size() == pieces_.size(),
        "[sharded_optimizer] the state is that of {} parameters, there are {}", states.size(),
        pieces_.size());
  for (size_t i = 0; i < states.size(); ++i) {
    const Tensor& p = pieces_[i].parameter;
    for (const auto& [name, t] : states[i].buffers) {
      check(!t.defined() || t.sizes() == p.sizes(),
            "[sharded_optimizer] {} of parameter {} is {}, the parameter {}", name, i,
            t.defined() ? t.sizes().str() : "", p.sizes().str());
    }
  }
  follow_buckets();
  inner_->load_states(own_parts(states));
}

size_t ShardedOptimizerBase::state_bytes() const {
  size_t bytes = 0;
  for (const ParameterState& state : inner_->states()) {
    for (const auto& [name, t] : state.buffers) {
      if (t.defined()) bytes += static_cast<size_t>(t.numel()) * size_of(t.dtype());
    }
  }
  return bytes;
}

}  // namespace lockstep::distributed
