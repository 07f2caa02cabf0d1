#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <utility>

#include "lockstep/distributed/across_nodes.h"
#include "lockstep/distributed/canonical_sum.h"
#include "lockstep/distributed/mpi_calls.h"
#include "lockstep/distributed/team.h"

// The canonical sum over several nodes. A channel is one rank of every node; the data is cut into
// blocks, each channel has a slice of every block, and of that each node owns a part. For each part
// the node adds what its ranks hold, as far as the tree allows, and sends the subtrees to the
// part's owner; the owner adds up the rest of the tree and sends the result to everybody. Where the
// nodes' shares are equal powers of two that is one subtree a node, and as many bytes as in a ring.
//
// Three blocks are under way at a time: the subtrees of one leave while those of the one before
// arrive and the results of the one before that are taken in.
namespace lockstep::distributed {
namespace {

enum Tag : int { kSubtrees = 5, kSum = 6 };

constexpr int64_t kStages = 3;

size_t index(int node) { return static_cast<size_t>(node); }

}  // namespace

class AcrossNodes::Tree {
 public:
  Tree(AcrossNodes& owner, const CanonicalPlan& plan, DType dtype,
       std::span<std::byte* const> regions, int64_t count, int64_t block)
      : owner_(owner),
        dtype_(dtype),
        width_(size_of(dtype)),
        regions_(regions),
        count_(count),
        block_(std::min(block, count)),
        channels_(owner.layout_.channels()),
        nodes_(static_cast<int>(owner.layout_.nodes.size())),
        me_(owner.layout_.node),
        held_(plan.pieces_of(owner.layout_.nodes[index(me_)])),
        here_(subtrees_of(held_)),
        everywhere_(collect_subtrees(plan)) {
    const auto line = static_cast<int64_t>(64 / width_);
    const int64_t lines = (block_ + line - 1) / line;
    const int64_t of_channel = (lines + channels_ - 1) / channels_;
    stride_ = static_cast<size_t>((of_channel + nodes_ - 1) / nodes_ * line) * width_;
    const size_t rows = std::accumulate(rows_.begin(), rows_.end(), size_t{0});
    // Every node's subtrees of my part, my subtrees of every node's part, everybody's results.
    stage_bytes_ = (rows + index(nodes_) * rows_[index(me_)] + index(nodes_)) * stride_;
    owner.subtrees_.resize(std::max(owner.subtrees_.size(), index(kStages) * stage_bytes_));
  }

  void run() {
    const int64_t blocks = (count_ + block_ - 1) / block_;
    for (int64_t b = 0; b < blocks + kStages - 1; ++b) {
      if (b < blocks) send_subtrees(b);
      if (b >= 1 && b - 1 < blocks) add_and_send_sum(b - 1);
      if (b >= 2) take_sums(b - 2);
    }
  }

 private:
  struct Stage {
    std::vector<MPI_Request> subtrees, others;
  };

  // All nodes' subtrees, ascending, and where each of them is received.
  SubtreeSum collect_subtrees(const CanonicalPlan& plan) {
    struct Row {
      Subtree subtree;
      size_t row;
    };
    std::vector<Row> all;
    for (const auto& ranks : owner_.layout_.nodes) {
      const SubtreeSum of_node(subtrees_of(plan.pieces_of(ranks)));
      rows_.push_back(of_node.outputs().size());
      for (const Subtree& subtree : of_node.outputs()) all.push_back({subtree, all.size()});
    }
    std::sort(all.begin(), all.end(),
              [](const Row& a, const Row& b) { return a.subtree.begin < b.subtree.begin; });
    std::vector<Subtree> subtrees;
    for (const Row& row : all) {
      subtrees.push_back(row.subtree);
      order_.push_back(row.row);
    }
    return SubtreeSum(subtrees);
  }

  // The part of a block that is `node`'s.
  Slice part(int64_t block, int node) const {
    const int64_t begin = block * block_;
    const Slice channel =
        slice_of(std::min(block_, count_ - begin), width_, owner_.layout_.index, channels_);
    const Slice part = slice_of(channel.end - channel.begin, width_, node, nodes_);
    return {begin + channel.begin + part.begin, begin + channel.begin + part.end};
  }
  int64_t elements(int64_t block, int node) const {
    return part(block, node).end - part(block, node).begin;
  }
  size_t bytes(int64_t elements) const { return static_cast<size_t>(elements) * width_; }
  int peer(int node) const {
    return owner_.layout_.nodes[index(node)][index(owner_.layout_.index)];
  }

  // -- a stage's buffers; rows are packed, so that a message is one run
  std::byte* stage(int64_t block) {
    return owner_.subtrees_.data() + index(static_cast<int>(block % kStages)) * stage_bytes_;
  }
  std::byte* received(int64_t block, int node) {
    const size_t before = std::accumulate(rows_.begin(), rows_.begin() + node, size_t{0});
    return stage(block) + before * stride_;
  }
  std::byte* outgoing(int64_t block, int node) {
    return received(block, nodes_) + index(node) * rows_[index(me_)] * stride_;
  }
  std::byte* sum(int64_t block, int node) {
    return outgoing(block, nodes_) + index(node) * stride_;
  }

  void receive(std::vector<MPI_Request>& into, std::byte* data, size_t size, int node, Tag tag) {
    if (size == 0) return;
    LOCKSTEP_MPI(MPI_Irecv(data, static_cast<int>(size), MPI_BYTE, peer(node), tag, owner_.comm_,
                           &into.emplace_back(MPI_REQUEST_NULL)));
  }
  void send(std::vector<MPI_Request>& into, std::byte* data, size_t size, int node, Tag tag) {
    if (size == 0) return;
    LOCKSTEP_MPI(MPI_Isend(data, static_cast<int>(size), MPI_BYTE, peer(node), tag, owner_.comm_,
                           &into.emplace_back(MPI_REQUEST_NULL)));
  }

  // What this node's ranks hold of a part, added as far as possible, row by row to `to`.
  void add_here(Slice part, std::byte* to) {
    const int64_t n = part.end - part.begin;
    std::vector<const std::byte*> sources;
    for (const auto& piece : held_) {
      sources.push_back(regions_[piece.holder] + bytes(piece.slot * count_ + part.begin));
    }
    std::vector<std::vector<std::byte*>> results;
    for (size_t row = 0; row < rows_[index(me_)]; ++row) results.push_back({to + row * bytes(n)});
    here_.add(dtype_, sources, n, results);
  }

  void send_subtrees(int64_t block) {
    Stage& s = stages_[index(static_cast<int>(block % kStages))];
    s = {};
    const int64_t mine = elements(block, me_);
    for (int node = 0; node < nodes_; ++node) {
      if (node == me_) continue;
      receive(s.subtrees, received(block, node), rows_[index(node)] * bytes(mine), node, kSubtrees);
      receive(s.others, sum(block, node), bytes(elements(block, node)), node, kSum);
    }
    for (int step = 1; step < nodes_; ++step) {  // each node starts with another peer
      const int node = (me_ + step) % nodes_;
      add_here(part(block, node), outgoing(block, node));
      send(s.others, outgoing(block, node), rows_[index(me_)] * bytes(elements(block, node)), node,
           kSubtrees);
    }
  }

  void add_and_send_sum(int64_t block) {
    Stage& s = stages_[index(static_cast<int>(block % kStages))];
    const Slice mine = part(block, me_);
    const int64_t n = mine.end - mine.begin;
    add_here(mine, received(block, me_));
    owner_.finish(s.subtrees);
    std::vector<const std::byte*> rows;
    for (int node = 0; node < nodes_; ++node) {
      for (size_t row = 0; row < rows_[index(node)]; ++row) {
        rows.push_back(received(block, node) + row * bytes(n));
      }
    }
    std::vector<const std::byte*> sources;
    for (const size_t row : order_) sources.push_back(rows[row]);
    std::vector<std::byte*> results = places(mine);
    results.push_back(sum(block, me_));
    everywhere_.add(dtype_, sources, n, {&results, 1});
    for (int step = 1; step < nodes_; ++step) {
      send(s.others, sum(block, me_), bytes(n), (me_ + step) % nodes_, kSum);
    }
  }

  void take_sums(int64_t block) {
    owner_.finish(stages_[index(static_cast<int>(block % kStages))].others);
    for (int node = 0; node < nodes_; ++node) {
      const int64_t n = elements(block, node);
      if (node == me_ || n == 0) continue;
      for (std::byte* place : places(part(block, node))) {
        std::memcpy(place, sum(block, node), bytes(n));
      }
    }
  }

  // In slot 0 of every rank of this node.
  std::vector<std::byte*> places(Slice part) const {
    std::vector<std::byte*> all(regions_.begin(), regions_.end());
    for (std::byte*& place : all) place += bytes(part.begin);
    return all;
  }

  AcrossNodes& owner_;
  const DType dtype_;
  const size_t width_;
  const std::span<std::byte* const> regions_;
  const int64_t count_;
  const int64_t block_;
  const int channels_;
  const int nodes_;
  const int me_;
  std::vector<size_t> rows_;   // of each node: its subtrees
  std::vector<size_t> order_;  // rows of all nodes, by leaf
  const std::vector<CanonicalPlan::Held> held_;
  const SubtreeSum here_;
  const SubtreeSum everywhere_;
  size_t stride_ = 0;  // bytes that a row needs at most
  size_t stage_bytes_ = 0;
  std::array<Stage, kStages> stages_;
};

void AcrossNodes::canonical_sum(const CanonicalPlan& plan, DType dtype,
                                std::span<std::byte* const> regions, int64_t count, int64_t block) {
  if (layout_.index >= layout_.channels()) return;
  Tree(*this, plan, dtype, regions, count, block).run();
}

}  // namespace lockstep::distributed
