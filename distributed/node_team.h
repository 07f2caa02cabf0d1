#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

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

  // Collective: memory in which all members' inputs are within everybody's reach.
  std::shared_ptr<NodeMemory> allocate(size_t bytes);

  const Signature& signature() const { return signature_; }  // of the last call met for

  // Called about every millisecond while waiting; may throw to end the wait.
  void set_idle_hook(std::function<void()> hook) { idle_hook_ = std::move(hook); }

  // Makes every member's pending and later calls throw DistributedError(text); the first text wins.
  // False if there was one already. Any thread.
  bool abort(const std::string& text) noexcept;
  bool aborted() const noexcept;
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
  std::shared_ptr<NodeMemory> try_allocate(NodeMemory::Kind kind, size_t bytes,
                                           const Collective* call, std::string& error);

  std::shared_ptr<NodeMemory> control_;
  const int index_;
  const std::vector<Member> members_;
  std::vector<int> pidfds_;
  std::function<void()> idle_hook_;
  uint32_t barriers_ = 0;
  Signature signature_;
  std::vector<std::weak_ptr<NodeMemory>> segments_;  // by the order of allocation
  std::shared_ptr<NodeMemory> current_;              // where the inputs of a kDirect call lie
  Reach reach_ = Reach::kNone;
};

}  // namespace lockstep::distributed
