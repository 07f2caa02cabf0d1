#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "lockstep/distributed/activity.h"
#include "lockstep/distributed/node_memory.h"
#include "lockstep/distributed/team.h"

namespace lockstep::distributed {

// The ranks of one node as a team over shared memory.
//
// Each member has a control block that only it writes: how many barriers it has arrived at, its
// latest call, a little staging space. A waiting member spins for a moment, yields, and then sleeps
// on a futex in the block of the member it misses, waking now and then to look whether that one
// still lives and whether anybody has aborted. No wait depends on a peer's good will.
class NodeTeam final : public Team {
 public:
  struct Member {
    int rank = 0;  // in the group
    int pid = 0;   // 0 if its life cannot be watched
  };

  static size_t control_bytes();  // the slice each member needs in `control`

  // Every member passes the same list and memory that it and the others have mapped.
  NodeTeam(std::shared_ptr<NodeMemory> control, int index, std::vector<Member> members);
  ~NodeTeam() override;  // tells the others that this member has left
  NodeTeam(const NodeTeam&) = delete;
  NodeTeam& operator=(const NodeTeam&) = delete;

  int index() const override { return index_; }
  int size() const override { return static_cast<int>(members_.size()); }
  Reach meet(const Collective& collective) override;
  std::byte* input(int member) const override;
  std::byte* staging(int member) const override;
  size_t staging_bytes() const override;
  void barrier() override;

  // Collective: memory in which all members' inputs are within everybody's reach, in.count bytes
  // each.
  std::shared_ptr<NodeMemory> allocate(const Collective& call);

  const Call& call() const { return call_; }  // the last one met for

  ActivityRecord& activity() const;               // this member's own
  std::vector<Sighting> look_at_members() const;  // any thread

  // What a member does that has waited for others for longer than `timeout` (0: for ever): calls
  // `on_late` with those that it misses, which throws. Of these a member that has come to the call
  // may be waiting for another node in turn; with an idle hook it gets some time to tell.
  using OnLate = std::function<void(double seconds, const std::vector<Sighting>& missing)>;
  void set_on_late(OnLate on_late) { on_late_ = std::move(on_late); }
  void set_timeout(std::chrono::milliseconds timeout) { timeout_ = timeout.count(); }
  std::chrono::milliseconds timeout() const { return std::chrono::milliseconds(timeout_); }

  // What the members have called, after they have met.
  std::vector<Call> calls() const;
  // Between several nodes: called by every member when they have met, with whether their calls are
  // the same; throws if not, once it knows those of the other nodes.
  void set_compare_nodes(std::function<void(bool same)> hook) { compare_nodes_ = std::move(hook); }

  // Called about every millisecond while waiting; may throw to end the wait.
  void set_idle_hook(std::function<void()> hook) { idle_hook_ = std::move(hook); }

  // Makes every member's pending and later calls throw DistributedError(text); the first text wins.
  // False if there was one already. Any thread.
  bool abort(const std::string& text) noexcept;
  bool aborted() const noexcept;
  std::string abort_text() const;  // once aborted
  void throw_if_aborted() const;

  // Tells the peers that this rank has reported its failure, and waits until all of them have done
  // the same or are gone. False if `timeout` came first.
  bool wait_for_peers_to_fail(std::chrono::milliseconds timeout) noexcept;

 private:
  struct Block;

  Block& block(int member) const;
  void arrive();
  void wait_for(int member);
  bool arrived(int member) const;
  bool is_dead(int member) const;
  void throw_if_lost(int member) const;
  void throw_if_late(int member, std::chrono::steady_clock::time_point waiting_since) const;
  std::shared_ptr<NodeMemory> try_allocate(NodeMemory::Kind kind, const Collective& call,
                                           bool first_try, std::string& error);

  std::shared_ptr<NodeMemory> control_;
  const int index_;
  const std::vector<Member> members_;
  std::vector<int> pidfds_;
  std::function<void()> idle_hook_;
  std::function<void(bool same)> compare_nodes_;
  OnLate on_late_;
  std::atomic<int64_t> timeout_ = 0;  // milliseconds
  uint32_t barriers_ = 0;
  Call call_;
  std::vector<std::weak_ptr<NodeMemory>> segments_;  // by the order of allocation
  std::shared_ptr<NodeMemory> current_;              // where the inputs of a kDirect call lie
  Reach reach_ = Reach::kNone;
};

}  // namespace lockstep::distributed
