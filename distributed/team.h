#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <vector>

#include "lockstep/distributed/collective.h"

namespace lockstep::distributed {

// Ranks that can read and write each other's memory: threads of one process, or processes of one
// node through shared memory. Collectives among them are plain loads and stores between barriers.
class Team {
 public:
  // Where the input of the collective under way can be read by everybody.
  enum class Reach {
    kDirect,  // in the callers' buffers
    kCopied,  // whole, in copies that stay until the next but one meet()
    kNone,    // nowhere: it has to pass through staging(), piece by piece
  };

  virtual ~Team() = default;
  virtual int index() const = 0;
  virtual int size() const = 0;

  // Shows this member's call to the others, waits for theirs and compares them. Throws
  // DistributedError if they differ, a member failed, or the group was aborted.
  virtual Reach meet(const Collective& collective) = 0;
  virtual std::byte* input(int member) const = 0;  // after meet(), unless kNone

  virtual std::byte* staging(int member) const = 0;  // each member's piece of common memory
  virtual size_t staging_bytes() const = 0;

  virtual void barrier() = 0;  // throws like meet()
};

// Carries a region that every member holds a contribution to (regions[i] is member i's) to its
// reduction, here and in other teams; every region ends with the result, once every member has
// returned from this call. In a canonical sum a region is a member's slots, of `count` elements
// each, and slot 0 ends with the result.
using ReduceRegions =
    std::function<void(const Collective&, std::span<std::byte* const> regions, int64_t count)>;

// Runs a collective among the members of a team; Collective::root is a member. With
// `reduce_regions` an all-reduce or canonical sum goes beyond the team; without, each member
// reduces its slice over all members in their order, or along the tree.
void run_in_team(Team& team, const Collective& collective,
                 const ReduceRegions& reduce_regions = nullptr);

// Elements [begin, end) of `count` that fall to `index` of `parts`: whole cache lines.
struct Slice {
  int64_t begin, end;
};
Slice slice_of(int64_t count, size_t element_bytes, int index, int parts);

}  // namespace lockstep::distributed
