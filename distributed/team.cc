#include "lockstep/distributed/team.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "lockstep/distributed/canonical_sum.h"
#include "lockstep/distributed/reduce_kernels.h"
#include "lockstep/engine/tensor/check.h"

// Only inputs are ever read by other members (the all-reduce also writes them). A member whose
// buffer the others cannot see copies it, piece by piece, through its staging area: copy in,
// barrier, everybody takes what it needs, barrier.
namespace lockstep::distributed {
namespace {

void copy_bytes(std::byte* to, const std::byte* from, size_t bytes) {
  if (bytes > 0 && to != from) std::memcpy(to, from, bytes);
}

class Run {
 public:
  Run(Team& team, const Collective& collective, const ReduceRegions& reduce_regions)
      : team_(team),
        c_(collective),
        reduce_regions_(reduce_regions),
        members_(team.size()),
        me_(team.index()),
        width_(size_of(collective.in.dtype)),
        in_(static_cast<std::byte*>(collective.in.data)),
        out_(static_cast<std::byte*>(collective.out.data)) {}

  void run() {
    const Team::Reach reach = team_.meet(c_);
    if (c_.in.count == 0) return;
    if (c_.kind == CollectiveKind::kAllReduce) {
      all_reduce(reach);
    } else if (c_.kind == CollectiveKind::kCanonicalSum) {
      canonical_sum(reach);
    } else if (reach != Team::Reach::kNone) {
      take(inputs(), 0, part_count(), part_count());
      if (reach == Team::Reach::kDirect) team_.barrier();  // nobody reads our input any more
    } else {
      through_staging();
    }
  }

 private:
  void all_reduce(Team::Reach reach) {
    if (reach == Team::Reach::kCopied && !reduce_regions_) {  // tiny: all do the same sum
      const std::vector<std::byte*> copies = inputs();
      const std::vector<const std::byte*> sources(copies.begin(), copies.end());
      reduce({c_.in.dtype, c_.op}, sources, c_.in.count, {&out_, 1});
      return;
    }
    if (reach != Team::Reach::kNone) {
      reduce_regions(inputs(), c_.in.count);
      team_.barrier();
      if (reach == Team::Reach::kCopied) copy_bytes(out_, team_.input(me_), c_.in.bytes());
      return;
    }
    const int64_t step = static_cast<int64_t>(team_.staging_bytes() / width_);
    for (int64_t begin = 0; begin < c_.in.count; begin += step) {
      const int64_t count = std::min(step, c_.in.count - begin);
      copy_bytes(team_.staging(me_), in_ + offset(begin), offset(count));
      team_.barrier();
      reduce_regions(stagings(), count);
      team_.barrier();
      copy_bytes(out_ + offset(begin), team_.staging(me_), offset(count));
    }
  }

  void canonical_sum(Team::Reach reach) {
    check<DistributedError>(reach != Team::Reach::kNone,
                            "[canonical_sum] the slots must lie in memory of the group, at the "
                            "same place of it on every rank");
    const int64_t count = c_.in.count / c_.plan->slots();
    if (reduce_regions_) {
      reduce_regions_(c_, inputs(), count);
      team_.barrier();
      if (reach == Team::Reach::kCopied) copy_bytes(out_, team_.input(me_), offset(count));
    } else if (reach == Team::Reach::kCopied) {  // tiny: all do the same sum
      add_pieces(count, {0, count}, {out_});
    } else {
      const Slice slice = slice_of(count, width_, me_, members_);
      std::vector<std::byte*> results = inputs();
      for (std::byte*& result : results) result += offset(slice.begin);
      if (members_ > 1) add_pieces(count, slice, results);
      team_.barrier();
    }
  }

  // Adds a slice of all members' slots, which together are the whole tree.
  void add_pieces(int64_t count, Slice slice, const std::vector<std::byte*>& results) {
    std::vector<int> ranks(at(members_));
    std::iota(ranks.begin(), ranks.end(), 0);
    const auto held = c_.plan->pieces_of(ranks);
    const std::vector<std::byte*> regions = inputs();
    std::vector<const std::byte*> sources;
    for (const auto& piece : held) {
      sources.push_back(regions[piece.holder] + offset(piece.slot * count + slice.begin));
    }
    SubtreeSum(subtrees_of(held)).add(c_.in.dtype, sources, slice.end - slice.begin, {&results, 1});
  }

  void reduce_regions(const std::vector<std::byte*>& regions, int64_t count) {
    if (reduce_regions_) return reduce_regions_(c_, regions, count);
    const Slice slice = slice_of(count, width_, me_, members_);
    if (slice.begin == slice.end || members_ == 1) return;
    std::vector<std::byte*> slices = regions;
    for (std::byte*& start : slices) start += offset(slice.begin);
    const std::vector<const std::byte*> sources(slices.begin(), slices.end());
    reduce({c_.in.dtype, c_.op}, sources, slice.end - slice.begin, slices);
  }

  // Inputs and outputs consist of parts: size() of them on the longer side.
  bool in_has_parts() const {
    return c_.kind == CollectiveKind::kReduceScatter || c_.kind == CollectiveKind::kAllToAll;
  }
  int64_t part_count() const { return in_has_parts() ? c_.in.count / members_ : c_.in.count; }

  // A piece of `count` elements of every part, from element `begin` of the part on, lies in
  // sources[member]; in there, parts are `stride` elements apart.
  void take(const std::vector<std::byte*>& sources, int64_t begin, int64_t count, int64_t stride) {
    switch (c_.kind) {
      case CollectiveKind::kBroadcast:
        if (me_ != c_.root) copy_bytes(out_ + offset(begin), sources[at(c_.root)], offset(count));
        return;
      case CollectiveKind::kReduceScatter: {
        std::vector<const std::byte*> parts(sources.begin(), sources.end());
        for (const std::byte*& part : parts) part += offset(me_ * stride);
        std::byte* const out = out_ + offset(begin);
        reduce({c_.in.dtype, c_.op}, parts, count, {&out, 1});
        return;
      }
      case CollectiveKind::kAllGather:
      case CollectiveKind::kAllToAll:
        for (int m = 0; m < members_; ++m) {
          const int64_t from = in_has_parts() ? me_ * stride : 0;
          copy_bytes(out_ + offset(m * part_count() + begin), sources[at(m)] + offset(from),
                     offset(count));
        }
        return;
      default:
        return;
    }
  }

  void through_staging() {
    const int parts = in_has_parts() ? members_ : 1;
    const int64_t step =
        std::max<int64_t>(1, static_cast<int64_t>(team_.staging_bytes() / width_) / parts);
    for (int64_t begin = 0; begin < part_count(); begin += step) {
      const int64_t count = std::min(step, part_count() - begin);
      if (c_.kind != CollectiveKind::kBroadcast || me_ == c_.root) {
        for (int p = 0; p < parts; ++p) {
          copy_bytes(team_.staging(me_) + offset(p * count), in_ + offset(p * part_count() + begin),
                     offset(count));
        }
      }
      team_.barrier();
      take(stagings(), begin, count, count);
      team_.barrier();
    }
  }

  std::vector<std::byte*> inputs() const {
    std::vector<std::byte*> all(at(members_));
    for (int m = 0; m < members_; ++m) all[at(m)] = team_.input(m);
    return all;
  }
  std::vector<std::byte*> stagings() const {
    std::vector<std::byte*> all(at(members_));
    for (int m = 0; m < members_; ++m) all[at(m)] = team_.staging(m);
    return all;
  }

  size_t offset(int64_t elements) const { return static_cast<size_t>(elements) * width_; }
  static size_t at(int member) { return static_cast<size_t>(member); }

  Team& team_;
  const Collective& c_;
  const ReduceRegions& reduce_regions_;
  const int members_;
  const int me_;
  const size_t width_;
  std::byte* const in_;
  std::byte* const out_;
};

}  // namespace

Slice slice_of(int64_t count, size_t element_bytes, int index, int parts) {
  const auto line = static_cast<int64_t>(64 / element_bytes);
  const int64_t lines = (count + line - 1) / line;
  return {std::min(count, lines * index / parts * line),
          std::min(count, lines * (index + 1) / parts * line)};
}

void run_in_team(Team& team, const Collective& collective, const ReduceRegions& reduce_regions) {
  Run(team, collective, reduce_regions).run();
}

}  // namespace lockstep::distributed
