#include "lockstep/distributed/device_collectives.h"

#include <numeric>
#include <vector>

#include "lockstep/distributed/canonical_sum.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::distributed {
namespace {

using Transfer = DeviceComm::Transfer;

CommReduction reduction_of(ReduceOp op) {
  return op == ReduceOp::kSum   ? CommReduction::kSum
         : op == ReduceOp::kMin ? CommReduction::kMin
                                : CommReduction::kMax;
}

bool library_drops_nan(DType dtype, ReduceOp op) {
  return op != ReduceOp::kSum && (dtype == DType::kFloat32 || dtype == DType::kFloat64);
}

// One term of a reduction in a given order, and which rank has it where.
struct Term {
  int holder;
  std::byte* data;  // on this rank: the whole vector, if it is the holder
  int merges;       // after it: how often the last two partial results become one
};

class Run {
 public:
  Run(DeviceLink& link, const Collective& c, int rank, int size)
      : link_(link),
        comm_(link.comm()),
        c_(c),
        me_(rank),
        ranks_(size),
        width_(size_of(c.in.dtype)),
        in_(static_cast<std::byte*>(c.in.data)),
        out_(static_cast<std::byte*>(c.out.data)) {}

  void run() {
    if (c_.in.count == 0) return;
    switch (c_.kind) {
      case CollectiveKind::kAllReduce:
        if (ranks_ == 1) return;
        if (library_drops_nan(c_.in.dtype, c_.op))
          return reduce_in_order(in_, c_.in.count, chain());
        comm_.all_reduce(in_, c_.in.count, c_.in.dtype, reduction_of(c_.op));
        break;
      case CollectiveKind::kBroadcast:
        if (ranks_ == 1) return;
        comm_.broadcast(in_, c_.in.bytes(), c_.root);
        break;
      case CollectiveKind::kReduceScatter:
        if (ranks_ == 1) return copy(out_, in_, c_.in.count);
        if (library_drops_nan(c_.in.dtype, c_.op)) return reduce_scatter_in_order();
        comm_.reduce_scatter(out_, in_, c_.out.count, c_.in.dtype, reduction_of(c_.op));
        break;
      case CollectiveKind::kAllGather:
        if (ranks_ == 1) return copy(out_, in_, c_.in.count);
        comm_.all_gather(out_, in_, c_.in.bytes());
        break;
      case CollectiveKind::kAllToAll:
        return all_to_all();
      case CollectiveKind::kCanonicalSum:
        if (ranks_ == 1) return;  // its pieces are the whole tree, in slot 0
        return reduce_in_order(in_, c_.in.count / c_.plan->slots(), tree());
      case CollectiveKind::kBarrier:
      case CollectiveKind::kAllocate:
        return;  // the ranks have met
    }
    link_.await();
  }

 private:
  size_t bytes(int64_t elements) const { return static_cast<size_t>(elements) * width_; }
  void copy(std::byte* to, const std::byte* from, int64_t count) {
    if (to != from && count > 0) comm_.copy(to, from, bytes(count));
  }
  void exchange(const std::vector<Transfer>& sends, const std::vector<Transfer>& receives) {
    if (sends.empty() && receives.empty()) return;
    comm_.exchange(sends, receives);
    link_.await();
  }

  void all_to_all() {
    const int64_t part = c_.in.count / ranks_;
    std::vector<Transfer> sends, receives;
    for (int r = 0; r < ranks_; ++r) {
      if (r == me_) continue;
      sends.push_back({r, in_ + bytes(r * part), bytes(part)});
      receives.push_back({r, out_ + bytes(r * part), bytes(part)});
    }
    copy(out_ + bytes(me_ * part), in_ + bytes(me_ * part), part);
    exchange(sends, receives);
  }

  // -- reductions whose order is ours

  std::vector<Term> chain() const {  // one term of each rank, in rank order
    std::vector<Term> terms;
    for (int r = 0; r < ranks_; ++r) terms.push_back({r, in_, r == 0 ? 0 : 1});
    return terms;
  }
  std::vector<Term> tree() const {
    std::vector<int> ranks(static_cast<size_t>(ranks_));
    std::iota(ranks.begin(), ranks.end(), 0);
    const auto held = c_.plan->pieces_of(ranks);
    const SubtreeSum sum(subtrees_of(held));
    const int64_t count = c_.in.count / c_.plan->slots();
    std::vector<Term> terms;
    for (size_t i = 0; i < held.size(); ++i) {
      terms.push_back({ranks[held[i].holder], in_ + bytes(held[i].slot * count), sum.merges()[i]});
    }
    return terms;
  }

  // Every rank reduces its block of the elements, and all of them the few that are left over. The
  // blocks of all terms come into scratch memory, are combined there, and the results are gathered
  // in `result`, which may be a term.
  void reduce_in_order(std::byte* result, int64_t count, const std::vector<Term>& terms) {
    const int64_t block = count / ranks_, rest = count % ranks_;
    const std::byte* const sum = gather_and_combine(terms, block, rest);
    const int64_t mine = me_ * block;
    copy(result + bytes(mine), sum, block);
    copy(result + bytes(ranks_ * block), sum + bytes(block), rest);
    if (block == 0) return;
    comm_.all_gather(result, result + bytes(mine), bytes(block));
    link_.await();
  }

  void reduce_scatter_in_order() {
    copy(out_, gather_and_combine(chain(), c_.out.count, 0), c_.out.count);
  }

  // Of all terms this rank's block, of `block` elements, with the `rest` behind the last rank's.
  std::byte* gather_and_combine(const std::vector<Term>& terms, int64_t block, int64_t rest) {
    constexpr size_t kLine = 256;
    const size_t stride = (bytes(block + rest) + kLine - 1) / kLine * kLine;
    std::byte* place = comm_.scratch(terms.size() * stride);
    std::vector<std::byte*> places;
    std::vector<Transfer> sends, receives;
    const auto add = [](std::vector<Transfer>& list, int peer, std::byte* data, size_t size) {
      if (size > 0) list.push_back({peer, data, size});
    };
    for (const Term& term : terms) {
      std::byte* const end = term.data + bytes(ranks_ * block);
      if (term.holder == me_) {
        copy(place, term.data + bytes(me_ * block), block);
        copy(place + bytes(block), end, rest);
        for (int r = 0; r < ranks_; ++r) {
          if (r == me_) continue;
          add(sends, r, term.data + bytes(r * block), bytes(block));
          add(sends, r, end, bytes(rest));
        }
      } else {
        add(receives, term.holder, place, bytes(block));
        add(receives, term.holder, place + bytes(block), bytes(rest));
      }
      places.push_back(place);
      place += stride;
    }
    exchange(sends, receives);
    std::vector<std::byte*> open;
    for (size_t i = 0; i < terms.size(); ++i) {
      open.push_back(places[i]);
      for (int m = 0; m < terms[i].merges; ++m) {
        const std::byte* const right = open.back();
        open.pop_back();
        comm_.combine(open.back(), right, block + rest, c_.in.dtype, reduction_of(c_.op));
      }
    }
    return open.front();
  }

  DeviceLink& link_;
  DeviceComm& comm_;
  const Collective& c_;
  const int me_;
  const int ranks_;
  const size_t width_;
  std::byte* const in_;
  std::byte* const out_;
};

}  // namespace

void run_on_device(DeviceLink& link, const Collective& collective, int rank, int size) {
  Run(link, collective, rank, size).run();
}

}  // namespace lockstep::distributed
