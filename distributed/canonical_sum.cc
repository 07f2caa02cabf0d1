#include "lockstep/distributed/canonical_sum.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "lockstep/distributed/flush_denormals.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::distributed {
namespace {

// Elements at a time: a block of every open subtree stays in the first-level cache.
constexpr int64_t kBlock = 1024;

// Whether `right` is the sibling that `left` waits for.
bool are_siblings(const Subtree& left, const Subtree& right) {
  return left.level == right.level && (left.begin >> left.level) % 2 == 0 &&
         left.begin + left.leaves() == right.begin;
}

template <typename T>
void add_to(T* __restrict left, const T* __restrict right, int64_t count) {
  for (int64_t i = 0; i < count; ++i) left[i] = left[i] + right[i];
}

template <typename T>
void add_apart(T* __restrict sum, const T* __restrict left, const T* __restrict right,
               int64_t count) {
  for (int64_t i = 0; i < count; ++i) sum[i] = left[i] + right[i];
}

}  // namespace

SubtreeSum::SubtreeSum(const std::vector<Subtree>& inputs) {
  int64_t end = 0;
  for (const Subtree& input : inputs) {
    check(input.level >= 0 && input.begin >= end && input.begin % input.leaves() == 0,
          "[canonical_sum] {} leaves from {} on are no subtree behind leaf {}", input.leaves(),
          input.begin, end);
    end = input.begin + input.leaves();
    outputs_.push_back(input);
    depth_ = std::max(depth_, outputs_.size());
    int merges = 0;
    while (outputs_.size() > 1 && are_siblings(outputs_[outputs_.size() - 2], outputs_.back())) {
      outputs_.pop_back();
      ++outputs_.back().level;
      ++merges;
    }
    merges_.push_back(merges);
  }
}

// A stack of open subtrees. A source is not copied to get there; a sum goes to the temporary of its
// place on the stack, which its left operand may be.
template <typename T>
void SubtreeSum::add_typed(std::span<const std::byte* const> sources, int64_t count,
                           std::span<const std::vector<std::byte*>> results) const {
  std::vector<T> temporaries(depth_ * kBlock);
  std::vector<const T*> open(depth_);
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t n = std::min(kBlock, count - begin);
    size_t top = 0;  // the number of open subtrees
    for (size_t i = 0; i < merges_.size(); ++i) {
      open[top++] = reinterpret_cast<const T*>(sources[i]) + begin;
      for (int m = 0; m < merges_[i]; ++m) {
        --top;
        T* const sum = temporaries.data() + (top - 1) * kBlock;
        if (open[top - 1] == sum) {
          add_to(sum, open[top], n);
        } else {
          add_apart(sum, open[top - 1], open[top], n);
          open[top - 1] = sum;
        }
      }
    }
    for (size_t j = 0; j < top; ++j) {
      for (std::byte* result : results[j]) {
        T* const to = reinterpret_cast<T*>(result) + begin;
        if (to != open[j]) std::memcpy(to, open[j], static_cast<size_t>(n) * sizeof(T));
      }
    }
  }
}

void SubtreeSum::add(DType dtype, std::span<const std::byte* const> sources, int64_t count,
                     std::span<const std::vector<std::byte*>> results) const {
  check(sources.size() == merges_.size() && results.size() == outputs_.size(),
        "[canonical_sum] {} sources and {} results for {} and {} subtrees", sources.size(),
        results.size(), merges_.size(), outputs_.size());
  const FlushDenormals flush;
  if (dtype == DType::kFloat32) return add_typed<float>(sources, count, results);
  check(dtype == DType::kFloat64, "[canonical_sum] float32 and float64 are supported, not {}",
        name_of(dtype));
  add_typed<double>(sources, count, results);
}

CanonicalPlan::CanonicalPlan(int64_t leaves, int ranks) : leaves_(leaves) {
  check(leaves >= 1 && std::has_single_bit(static_cast<uint64_t>(leaves)),
        "[bitwise] {} virtual shards: the number must be a power of two", leaves);
  check(
      ranks >= 1 && leaves >= ranks,
      "[bitwise] {} virtual shards cannot be spread over {} ranks: every rank needs one. Use more "
      "virtual shards (which gives other bits) or fewer ranks",
      leaves, ranks);
  for (int rank = 0; rank < ranks; ++rank) {
    shares_.push_back(plan_share(data::shards_of(leaves, rank, ranks), slots_));
  }
}

CanonicalPlan::Share CanonicalPlan::plan_share(data::Range range, int& slots) {
  Share share;
  share.range = range;
  std::vector<bool> used;
  for (int64_t leaf = range.begin; leaf < range.end; ++leaf) {
    auto& open = share.pieces;
    if (!open.empty() && are_siblings(open.back().subtree, {leaf, 0})) {
      ++open.back().subtree.level;
      share.leaves.push_back({open.back().slot, true, {}});
    } else {
      const auto free = std::find(used.begin(), used.end(), false) - used.begin();
      if (free == std::ssize(used)) used.push_back(true);
      used[static_cast<size_t>(free)] = true;
      open.push_back({{leaf, 0}, static_cast<int>(free)});
      share.leaves.push_back({open.back().slot, false, {}});
    }
    Leaf& step = share.leaves.back();
    while (open.size() > 1 && are_siblings(open[open.size() - 2].subtree, open.back().subtree)) {
      const int from = open.back().slot;
      open.pop_back();
      ++open.back().subtree.level;
      step.additions.push_back({open.back().slot, from});
      used[static_cast<size_t>(from)] = false;
    }
  }
  slots = std::max(slots, static_cast<int>(used.size()));
  return share;
}

std::vector<CanonicalPlan::Held> CanonicalPlan::pieces_of(std::span<const int> ranks) const {
  std::vector<Held> held;
  for (size_t i = 0; i < ranks.size(); ++i) {
    for (const Piece& piece : share(ranks[i]).pieces) {
      held.push_back({piece.subtree, i, piece.slot});
    }
  }
  std::sort(held.begin(), held.end(),
            [](const Held& a, const Held& b) { return a.subtree.begin < b.subtree.begin; });
  return held;
}

std::vector<Subtree> subtrees_of(const std::vector<CanonicalPlan::Held>& held) {
  std::vector<Subtree> subtrees;
  for (const auto& piece : held) subtrees.push_back(piece.subtree);
  return subtrees;
}

double canonical_sum(std::vector<double> terms) {
  check(std::has_single_bit(terms.size()), "[canonical_sum] {} terms are no power of two",
        terms.size());
  for (size_t n = terms.size(); n > 1; n /= 2) {
    for (size_t i = 0; i < n / 2; ++i) terms[i] = terms[2 * i] + terms[2 * i + 1];
  }
  return terms[0];
}

}  // namespace lockstep::distributed
