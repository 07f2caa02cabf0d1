#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "lockstep/data/sampler.h"
#include "lockstep/engine/tensor/dtype.h"

// A sum whose bits do not depend on how its terms are spread over ranks.
//
// S terms, S a power of two, are the leaves of one perfect binary tree over their index, and each
// inner node adds its left child and its right one: ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)) for
// eight. A rank holds a contiguous run of leaves, and adds what it can without knowing the rest:
// the largest complete subtrees in its run. For equal shares that are powers of two that is one
// subtree; leaves 5 to 9 of 16 are the three subtrees 5, 6-7 and 8-9. Ranks exchange those, never
// parts of them, and go on adding along the same tree. The first term is copied, not added to zero:
// 0 + -0 is 0.
namespace lockstep::distributed {

// The leaves [begin, begin + 2^level); begin is a multiple of 2^level.
struct Subtree {
  int64_t begin = 0;
  int level = 0;

  int64_t leaves() const { return int64_t{1} << level; }
  friend bool operator==(const Subtree&, const Subtree&) = default;
};

// Adds up sums of subtrees as far as the tree allows: two siblings become their parent.
class SubtreeSum {
 public:
  // Throws ValueError unless the inputs are subtrees, ascending and disjoint.
  explicit SubtreeSum(const std::vector<Subtree>& inputs);

  const std::vector<Subtree>& outputs() const { return outputs_; }  // ascending
  // For whoever adds elsewhere: how often, once the i-th input has been put on a stack, the topmost
  // is to be taken off and added to what is then on top.
  const std::vector<int>& merges() const { return merges_; }

  // `count` elements of float32 or float64: sources[i] holds inputs[i]; outputs()[j] is written to
  // every one of results[j]. With a single output the results may be sources. Denormals are flushed
  // to zero, whatever the calling thread does otherwise.
  void add(DType dtype, std::span<const std::byte* const> sources, int64_t count,
           std::span<const std::vector<std::byte*>> results) const;

 private:
  template <typename T>
  void add_typed(std::span<const std::byte* const> sources, int64_t count,
                 std::span<const std::vector<std::byte*>> results) const;

  std::vector<int> merges_;  // after the i-th input is taken up: how many pairs become one
  std::vector<Subtree> outputs_;
  size_t depth_ = 0;  // subtrees that are open at a time
};

// How S leaves are spread over the ranks, and where each rank keeps what it has added up.
//
// A rank takes its leaves in ascending order, like a binary counter that is incremented: the next
// leaf is stored in a free slot, or added to its left sibling if that is there; then larger
// siblings are added up, which frees slots. The first leaf's slot is 0 and stays in use, so after
// the last leaf the first subtree is in slot 0. All ranks have the same number of slots, log2(S /
// n) but at least one where shares are equal powers of two, and know each other's plans.
class CanonicalPlan {
 public:
  // Throws ValueError unless `leaves` is a power of two and no less than `ranks`.
  CanonicalPlan(int64_t leaves, int ranks);

  struct Addition {  // slot `to` += slot `from`, the former being the left child
    int to, from;
    friend bool operator==(const Addition&, const Addition&) = default;
  };
  struct Leaf {
    int slot;                         // which it is stored in,
    bool adds;                        // or added to, being a right child
    std::vector<Addition> additions;  // what follows, in this order
  };
  struct Piece {
    Subtree subtree;
    int slot;
  };
  struct Share {
    data::Range range;          // data::shards_of(rank)
    std::vector<Leaf> leaves;   // of the range
    std::vector<Piece> pieces;  // what is left in the end, ascending
  };

  int64_t leaves() const { return leaves_; }
  int ranks() const { return static_cast<int>(shares_.size()); }
  int slots() const { return slots_; }
  const Share& share(int rank) const { return shares_[static_cast<size_t>(rank)]; }

  struct Held {
    Subtree subtree;
    size_t holder;  // index into `ranks`
    int slot;
  };
  // The pieces of some ranks, ascending.
  std::vector<Held> pieces_of(std::span<const int> ranks) const;

 private:
  static Share plan_share(data::Range range, int& slots);

  int64_t leaves_;
  int slots_ = 0;
  std::vector<Share> shares_;
};

std::vector<Subtree> subtrees_of(const std::vector<CanonicalPlan::Held>& held);

// Along the same tree, for a handful of numbers; their count is a power of two.
double canonical_sum(std::vector<double> terms);

}  // namespace lockstep::distributed
