#include "lockstep/distributed/canonical_sum.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/engine/tensor/error.h"

namespace lockstep::distributed {
namespace {

constexpr int64_t kCount = 1500;  // more than a block, and no multiple of a vector

using Values = std::vector<float>;

// Numbers of many sizes, so that the order of addition shows.
Values leaf(int64_t index) {
  Values values;
  uint64_t x = static_cast<uint64_t>(index + 1) * 0x9e3779b97f4a7c15u;
  for (int64_t i = 0; i < kCount; ++i) {
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    const auto unit = static_cast<float>(x >> 40) * 0x1p-24f - 0.5f;
    values.push_back(unit * static_cast<float>(1 << (x % 8)));
  }
  values[0] = -0.0f;
  return values;
}

std::vector<Values> leaves(int64_t count) {
  std::vector<Values> all;
  for (int64_t i = 0; i < count; ++i) all.push_back(leaf(i));
  return all;
}

Values sum(const Values& a, const Values& b) {
  Values result;
  for (size_t i = 0; i < a.size(); ++i) result.push_back(a[i] + b[i]);
  return result;
}

// The definition.
Values perfect_tree(const std::vector<Values>& all, size_t begin, size_t end) {
  if (end - begin == 1) return all[begin];
  const size_t middle = (begin + end) / 2;
  return sum(perfect_tree(all, begin, middle), perfect_tree(all, middle, end));
}
Values perfect_tree(const std::vector<Values>& all) { return perfect_tree(all, 0, all.size()); }

// What it is not.
Values left_comb(const std::vector<Values>& all) {
  Values result = all[0];
  for (size_t i = 1; i < all.size(); ++i) result = sum(result, all[i]);
  return result;
}
Values far_first(std::vector<Values> all) {
  for (size_t half = all.size() / 2; half > 0; half /= 2) {
    for (size_t i = 0; i < half; ++i) all[i] = sum(all[i], all[i + half]);
  }
  return all[0];
}

bool same_bits(const Values& a, const Values& b) {
  // NOLINTNEXTLINE(bugprone-suspicious-memory-comparison): bits are the point
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

std::byte* bytes_of(Values& values) { return reinterpret_cast<std::byte*>(values.data()); }

// A rank's slots after its leaves have been taken in as its plan says. `garbage` is what a slot
// holds before.
std::vector<Values> slots_of(const CanonicalPlan& plan, int rank, const std::vector<Values>& all) {
  const Values garbage(kCount, std::numeric_limits<float>::quiet_NaN());
  std::vector<Values> slots(static_cast<size_t>(plan.slots()), garbage);
  const auto& share = plan.share(rank);
  EXPECT_EQ(std::ssize(share.leaves), share.range.size());
  for (int64_t i = 0; i < share.range.size(); ++i) {
    const auto& step = share.leaves[static_cast<size_t>(i)];
    Values& slot = slots[static_cast<size_t>(step.slot)];
    const Values& term = all[static_cast<size_t>(share.range.begin + i)];
    slot = step.adds ? sum(slot, term) : term;
    for (const auto& [to, from] : step.additions) {
      auto& left = slots[static_cast<size_t>(to)];
      left = sum(left, slots[static_cast<size_t>(from)]);
      slots[static_cast<size_t>(from)] = garbage;
    }
  }
  return slots;
}

// Adds all ranks' pieces, node by node if `nodes` has several.
Values exchanged(const CanonicalPlan& plan, const std::vector<Values>& all,
                 const std::vector<std::vector<int>>& nodes) {
  std::vector<std::pair<Subtree, Values>> partial;
  for (const auto& ranks : nodes) {
    std::vector<std::vector<Values>> slots;
    for (const int rank : ranks) slots.push_back(slots_of(plan, rank, all));
    const auto held = plan.pieces_of(ranks);
    const SubtreeSum here(subtrees_of(held));
    std::vector<const std::byte*> sources;
    for (const auto& piece : held) {
      sources.push_back(bytes_of(slots[piece.holder][static_cast<size_t>(piece.slot)]));
    }
    std::vector<Values> results(here.outputs().size(), Values(kCount));
    std::vector<std::vector<std::byte*>> to;
    for (Values& result : results) to.push_back({bytes_of(result)});
    here.add(DType::kFloat32, sources, kCount, to);
    for (size_t i = 0; i < results.size(); ++i) partial.emplace_back(here.outputs()[i], results[i]);
  }
  std::sort(partial.begin(), partial.end(),
            [](const auto& a, const auto& b) { return a.first.begin < b.first.begin; });
  std::vector<Subtree> subtrees;
  std::vector<const std::byte*> sources;
  for (auto& [subtree, values] : partial) {
    subtrees.push_back(subtree);
    sources.push_back(bytes_of(values));
  }
  const SubtreeSum total(subtrees);
  EXPECT_EQ(total.outputs().size(), 1u);
  Values one(kCount), other(kCount);
  const std::vector<std::byte*> to = {bytes_of(one), bytes_of(other)};
  total.add(DType::kFloat32, sources, kCount, {&to, 1});
  EXPECT_TRUE(same_bits(one, other));
  return one;
}

std::vector<int> all_ranks(int count) {
  std::vector<int> ranks(static_cast<size_t>(count));
  std::iota(ranks.begin(), ranks.end(), 0);
  return ranks;
}

TEST(CanonicalSum, IsThePerfectTreeForAnyNumberOfRanks) {
  for (const int shards : {1, 2, 4, 8, 16, 32}) {
    const auto all = leaves(shards);
    const Values expected = perfect_tree(all);
    for (int ranks = 1; ranks <= shards; ++ranks) {
      const CanonicalPlan plan(shards, ranks);
      EXPECT_TRUE(same_bits(exchanged(plan, all, {all_ranks(ranks)}), expected))
          << shards << " shards on " << ranks << " ranks";
    }
  }
}

TEST(CanonicalSum, IsTheSameNodeByNode) {
  const auto all = leaves(16);
  const Values expected = perfect_tree(all);
  const std::vector<std::vector<std::vector<int>>> layouts = {
      {{0}, {1}, {2}},        {{0, 1}, {2}},
      {{0, 2}, {1}},          {{0, 1}, {2, 3}},
      {{0, 1}, {2, 3}, {4}},  {{0, 3}, {1, 4}, {2}},
      {{0, 2, 4}, {1, 3, 5}}, {{0, 1, 2}, {3, 4}},
      {{0}, {1, 2, 3, 4, 5}}, {{0, 1, 2, 3}, {4, 5, 6, 7}}};
  for (const auto& nodes : layouts) {
    int ranks = 0;
    for (const auto& node : nodes) ranks += static_cast<int>(node.size());
    const CanonicalPlan plan(16, ranks);
    EXPECT_TRUE(same_bits(exchanged(plan, all, nodes), expected)) << ranks << " ranks";
  }
}

// The comparisons above would notice.
TEST(CanonicalSum, OtherOrdersGiveOtherBits) {
  for (const int shards : {4, 8, 16, 32}) {
    const auto all = leaves(shards);
    EXPECT_FALSE(same_bits(left_comb(all), perfect_tree(all))) << shards;
    EXPECT_FALSE(same_bits(far_first(all), perfect_tree(all))) << shards;
  }
}

TEST(CanonicalSum, KeepsNegativeZeros) {
  const auto all = leaves(16);
  const Values total = exchanged(CanonicalPlan(16, 3), all, {all_ranks(3)});
  EXPECT_TRUE(std::signbit(total[0])) << "the first term was added to zero";
}

TEST(CanonicalSum, FlushesDenormals) {
  const float tiny = std::numeric_limits<float>::denorm_min();
  std::vector<Values> all(2, Values(kCount, tiny));
  const Values total = exchanged(CanonicalPlan(2, 2), all, {all_ranks(2)});
  EXPECT_EQ(*std::max_element(total.begin(), total.end()), 0.0f);
}

TEST(CanonicalSum, OfNumbersFollowsTheTree) {
  EXPECT_EQ(canonical_sum({3.0}), 3.0);
  EXPECT_EQ(canonical_sum({1e100, 1.0, -1e100, 1.0}), 0.0);
  EXPECT_EQ(canonical_sum({1e100, -1e100, 1.0, 1.0}), 2.0);
  EXPECT_THROW(canonical_sum({1.0, 2.0, 3.0}), ValueError);
}

using Pieces = std::vector<std::pair<Subtree, int>>;
Pieces pieces(const CanonicalPlan& plan, int rank) {
  Pieces result;
  for (const auto& piece : plan.share(rank).pieces) {
    result.emplace_back(piece.subtree, piece.slot);
  }
  return result;
}

TEST(CanonicalPlan, CutsSharesIntoCompleteSubtrees) {
  const CanonicalPlan three(16, 3);
  EXPECT_EQ(three.share(0).range, (data::Range{0, 5}));
  EXPECT_EQ(three.share(1).range, (data::Range{5, 10}));
  EXPECT_EQ(three.share(2).range, (data::Range{10, 16}));
  EXPECT_EQ(pieces(three, 0), (Pieces{{{0, 2}, 0}, {{4, 0}, 1}}));
  EXPECT_EQ(pieces(three, 1), (Pieces{{{5, 0}, 0}, {{6, 1}, 1}, {{8, 1}, 2}}));
  EXPECT_EQ(pieces(three, 2), (Pieces{{{10, 1}, 0}, {{12, 2}, 1}}));
  // One subtree each where the shares are equal powers of two.
  for (const int ranks : {1, 2, 4, 8, 16}) {
    const CanonicalPlan plan(16, ranks);
    for (int rank = 0; rank < ranks; ++rank) {
      EXPECT_EQ(plan.share(rank).pieces.size(), 1u) << ranks;
      EXPECT_EQ(plan.share(rank).pieces[0].slot, 0) << ranks;
    }
  }
}

TEST(CanonicalPlan, NeedsAsManySlotsAsTheSharesTreeIsHigh) {
  EXPECT_EQ(CanonicalPlan(16, 16).slots(), 1);
  EXPECT_EQ(CanonicalPlan(16, 8).slots(), 1);
  EXPECT_EQ(CanonicalPlan(16, 4).slots(), 2);
  EXPECT_EQ(CanonicalPlan(16, 2).slots(), 3);
  EXPECT_EQ(CanonicalPlan(16, 1).slots(), 4);
  EXPECT_EQ(CanonicalPlan(16, 3).slots(), 3);
}

std::string text_of(int64_t shards, int ranks) {
  try {
    const CanonicalPlan plan(shards, ranks);
  } catch (const ValueError& error) {
    return error.what();
  }
  return "";
}

TEST(CanonicalPlan, RefusesWhatIsNoPerfectTree) {
  EXPECT_NE(text_of(12, 2).find("12 virtual shards: the number must be a power of two"),
            std::string::npos);
  EXPECT_NE(text_of(0, 1).find("power of two"), std::string::npos);
  EXPECT_NE(text_of(-4, 1).find("power of two"), std::string::npos);
  EXPECT_NE(text_of(4, 5).find("4 virtual shards cannot be spread over 5 ranks"),
            std::string::npos);
  EXPECT_THROW(SubtreeSum({{2, 0}, {0, 0}}), ValueError);
  EXPECT_THROW(SubtreeSum({{1, 1}}), ValueError);
}

}  // namespace
}  // namespace lockstep::distributed
