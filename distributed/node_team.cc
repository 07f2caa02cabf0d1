#include "lockstep/distributed/node_team.h"

#include <algorithm>
#include <atomic>
#include <climits>
#include <cstring>
#include <thread>

#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lockstep/distributed/work_queue.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::distributed {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;
using std::chrono::milliseconds;

constexpr size_t kCopyLimit = 4096;  // inputs up to this size are copied before the members meet
constexpr size_t kStagingBytes = 256 << 10;
constexpr size_t kAbortTextBytes = 2048;

// Waiting: a peer that computes on another core is there within a few spins; one that waits for
// this core needs a yield; beyond that the wait is long enough for a sleep.
constexpr int kSpins = 100;
constexpr microseconds kYieldWhenBlocking{200};
constexpr microseconds kYieldInBackground{5};
constexpr milliseconds kNap{1};       // with an idle hook
constexpr milliseconds kLongNap{20};  // without

// For a late member that has come to the call: it may be asking another node about it.
constexpr milliseconds kPatience{3000};

enum MemberState : uint32_t { kActive = 0, kLeft = 1, kFailed = 2 };

void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Not the private flavour: the word is shared between processes.
void futex_wait(std::atomic<uint32_t>& word, uint32_t expected, milliseconds timeout) {
  timespec limit{};
  limit.tv_nsec = std::chrono::nanoseconds(timeout).count();
  syscall(SYS_futex, &word, FUTEX_WAIT, expected, &limit, nullptr, 0);
}
void futex_wake(std::atomic<uint32_t>& word) {
  syscall(SYS_futex, &word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

}  // namespace

// A member's part of the control memory. The calls alternate between two places, so that a member
// may show its next call while a slow one still compares this one; likewise the copies.
struct NodeTeam::Block {
  struct Shown {  // what peers compare comes first, in a cache line of its own
    alignas(64) Signature signature;
    int32_t segment;  // -1: the input lies in memory of its own
    uint64_t offset;
    alignas(64) Label label;
  };
  alignas(64) std::atomic<uint32_t> arrived;  // number of the last barrier it reached
  std::atomic<uint32_t> sleepers;             // members asleep on `arrived`
  std::atomic<uint32_t> state;
  alignas(64) ActivityRecord activity;
  Shown calls[2];
  alignas(64) NodeMemory::Ticket ticket;
  int32_t attach_error;
  // In member 0's block only: 0, 1 while the text is being written, 2.
  alignas(64) std::atomic<uint32_t> abort_state;
  char abort_text[kAbortTextBytes];
  alignas(64) std::byte copies[2][kCopyLimit];
  alignas(4096) std::byte staging[kStagingBytes];
};

size_t NodeTeam::control_bytes() { return sizeof(Block); }

NodeTeam::Block& NodeTeam::block(int member) const {
  return *reinterpret_cast<Block*>(control_->slice(member));  // zero-filled is its initial state
}

NodeTeam::NodeTeam(std::shared_ptr<NodeMemory> control, int index, std::vector<Member> members)
    : control_(std::move(control)), index_(index), members_(std::move(members)) {
  static_assert(std::atomic<uint32_t>::is_always_lock_free);
  for (const Member& member : members_) {
    const bool watch = member.pid > 0 && member.rank != members_[static_cast<size_t>(index)].rank;
    pidfds_.push_back(watch ? static_cast<int>(syscall(SYS_pidfd_open, member.pid, 0)) : -1);
  }
}

NodeTeam::~NodeTeam() {
  uint32_t expected = kActive;
  block(index_).state.compare_exchange_strong(expected, kLeft);
  futex_wake(block(index_).arrived);
  for (const int fd : pidfds_) {
    if (fd >= 0) close(fd);
  }
}

Team::Reach NodeTeam::meet(const Collective& collective) {
  throw_if_aborted();
  call_ = call_of(collective);
  const size_t parity = collective.sequence % 2;
  // An allocation has a size, but no data yet; other data may be another group's affair.
  const bool here = collective.kind != CollectiveKind::kAllocate && !collective.then;
  const size_t bytes = here ? collective.in.bytes() : 0;
  auto* const data = static_cast<std::byte*>(collective.in.data);
  const bool is_source = collective.kind != CollectiveKind::kBroadcast || collective.root == index_;

  Block::Shown& mine = block(index_).calls[parity];
  mine = {call_.signature, -1, 0, call_.label};
  block(index_).activity.call.store(collective.sequence, std::memory_order_relaxed);
  current_ = nullptr;
  if (bytes <= kCopyLimit) {
    if (is_source && bytes > 0) std::memcpy(block(index_).copies[parity], data, bytes);
  } else {
    for (size_t s = 0; s < segments_.size() && !current_; ++s) {
      auto segment = segments_[s].lock();
      if (!segment) continue;
      std::byte* const begin = segment->slice(index_);
      if (data < begin || data + bytes > begin + segment->slice_bytes()) continue;
      mine.segment = static_cast<int32_t>(s);
      mine.offset = static_cast<uint64_t>(data - begin);
      current_ = std::move(segment);
    }
  }
  barrier();

  bool same = true;
  reach_ = bytes <= kCopyLimit ? Reach::kCopied : Reach::kDirect;
  for (int m = 0; m < size(); ++m) {
    const Block::Shown& theirs = block(m).calls[parity];
    same = same && theirs.signature == call_.signature;
    // All in one segment, so that whoever finds its own input there has everybody's mapped.
    if (reach_ == Reach::kDirect &&
        (theirs.segment < 0 || theirs.segment != block(0).calls[parity].segment)) {
      reach_ = Reach::kNone;
    }
  }
  if (compare_nodes_) {
    compare_nodes_(same);
  } else if (!same) {
    std::vector<Callers> all;
    for (const Call& theirs : calls()) all.push_back({{members_[all.size()].rank}, theirs});
    fail_mismatch(members_[static_cast<size_t>(index_)].rank, all);
  }
  return reach_;
}

std::vector<Call> NodeTeam::calls() const {
  std::vector<Call> all;
  for (int m = 0; m < size(); ++m) {
    const Block::Shown& shown = block(m).calls[call_.signature.sequence % 2];
    all.push_back({shown.signature, shown.label});
  }
  return all;
}

std::byte* NodeTeam::input(int member) const {
  const size_t parity = call_.signature.sequence % 2;
  if (reach_ == Reach::kCopied) return block(member).copies[parity];
  return current_->slice(member) + block(member).calls[parity].offset;
}

std::byte* NodeTeam::staging(int member) const { return block(member).staging; }
size_t NodeTeam::staging_bytes() const { return kStagingBytes; }

void NodeTeam::barrier() {
  arrive();
  for (int m = 0; m < size(); ++m) {
    if (m != index_) wait_for(m);
  }
}

// Either we see the sleeper here, or the sleeper's futex call sees the new number: both sides write
// first and read after, in sequentially consistent order.
void NodeTeam::arrive() {
  Block& mine = block(index_);
  mine.arrived.store(++barriers_, std::memory_order_seq_cst);
  if (mine.sleepers.load(std::memory_order_seq_cst) > 0) futex_wake(mine.arrived);
}

bool NodeTeam::arrived(int member) const {
  const uint32_t theirs = block(member).arrived.load(std::memory_order_acquire);
  return static_cast<int32_t>(theirs - barriers_) >= 0;  // right across a wrap-around
}

void NodeTeam::wait_for(int member) {
  for (int i = 0; i < kSpins; ++i) {
    if (arrived(member)) return;
    pause_briefly();
  }
  const auto yield_until =
      Clock::now() +
      (WorkQueue::on_communication_thread() ? kYieldInBackground : kYieldWhenBlocking);
  do {
    sched_yield();
    if (arrived(member)) return;
  } while (Clock::now() < yield_until);

  Block& theirs = block(member);
  const auto waiting_since = Clock::now();
  while (!arrived(member)) {
    throw_if_aborted();
    if (idle_hook_) idle_hook_();
    throw_if_lost(member);
    throw_if_late(member, waiting_since);
    theirs.sleepers.fetch_add(1, std::memory_order_seq_cst);
    const uint32_t seen = theirs.arrived.load(std::memory_order_seq_cst);
    if (static_cast<int32_t>(seen - barriers_) < 0) {
      futex_wait(theirs.arrived, seen, idle_hook_ ? kNap : kLongNap);
    }
    theirs.sleepers.fetch_sub(1, std::memory_order_seq_cst);
  }
}

bool NodeTeam::is_dead(int member) const {
  pollfd end{pidfds_[static_cast<size_t>(member)], POLLIN, 0};
  return end.fd >= 0 && poll(&end, 1, 0) > 0;
}

void NodeTeam::throw_if_lost(int member) const {
  const uint32_t state = block(member).state.load(std::memory_order_acquire);
  const bool dead = is_dead(member);
  if ((state == kActive && !dead) || arrived(member)) return;
  throw_if_aborted();  // it may have said why
  const Member& lost = members_[static_cast<size_t>(member)];
  fail<DistributedError>(
      "[rank {}] rank {} {} while this rank waits for it in {}",
      members_[static_cast<size_t>(index_)].rank, lost.rank,
      dead ? fmt::format("(pid {}) has ended", lost.pid) : "has destroyed its process group",
      call_.str());
}

void NodeTeam::throw_if_late(int member, Clock::time_point waiting_since) const {
  const milliseconds limit = timeout();
  if (limit.count() == 0 || !on_late_) return;
  const auto waited = Clock::now() - waiting_since;
  const auto has_come = [&](int m) {
    return block(m).activity.call.load(std::memory_order_relaxed) >= call_.signature.sequence;
  };
  if (waited < limit + (idle_hook_ && has_come(member) ? kPatience : milliseconds(0))) return;
  const std::vector<Sighting> all = look_at_members();
  std::vector<Sighting> missing;
  for (int m = 0; m < size(); ++m) {
    if (m != index_ && !arrived(m)) missing.push_back(all[static_cast<size_t>(m)]);
  }
  on_late_(std::chrono::duration<double>(waited).count(), missing);
}

ActivityRecord& NodeTeam::activity() const { return block(index_).activity; }

std::vector<Sighting> NodeTeam::look_at_members() const {
  std::vector<Sighting> all;
  for (int m = 0; m < size(); ++m) {
    const Member& member = members_[static_cast<size_t>(m)];
    all.push_back(look_at(block(m).activity, member.rank, member.pid));
  }
  return all;
}

std::shared_ptr<NodeMemory> NodeTeam::allocate(const Collective& call) {
  std::string error;
  const auto kind = NodeMemory::preferred_kind();
  auto memory = try_allocate(kind, call, true, error);
  if (!memory && kind == NodeMemory::Kind::kAnonymousFile) {
    memory = try_allocate(NodeMemory::Kind::kSharedMemoryObject, call, false, error);
  }
  check<DistributedError>(memory != nullptr, "[rank {}] no {} bytes of shared memory: {}",
                          members_[static_cast<size_t>(index_)].rank, call.in.count, error);
  segments_.push_back(memory);
  return memory;
}

std::shared_ptr<NodeMemory> NodeTeam::try_allocate(NodeMemory::Kind kind, const Collective& call,
                                                   bool first_try, std::string& error) {
  std::shared_ptr<NodeMemory> memory;
  if (index_ == 0) {
    const auto bytes = static_cast<uint64_t>(call.in.count);
    memory = NodeMemory::create(kind, bytes, size(), index_, block(0).ticket);
  }
  if (first_try) {
    meet(call);
  } else {
    barrier();
  }
  int32_t result = block(0).ticket.error;
  if (index_ != 0 && result == 0) memory = NodeMemory::attach(block(0).ticket, index_, result);
  block(index_).attach_error = result;
  barrier();
  if (memory) memory->forget_name();
  for (int m = 0; m < size(); ++m) {
    const int their_error = block(m).attach_error;
    if (their_error == 0) continue;
    memory = nullptr;
    error = fmt::format("{} on rank {}", std::strerror(their_error),
                        members_[static_cast<size_t>(m)].rank);
  }
  barrier();  // nobody still reads what the next allocation overwrites
  return memory;
}

bool NodeTeam::abort(const std::string& text) noexcept {
  Block& head = block(0);
  uint32_t expected = 0;
  if (!head.abort_state.compare_exchange_strong(expected, 1)) return false;
  const size_t length = std::min(text.size(), kAbortTextBytes - 1);
  std::memcpy(head.abort_text, text.data(), length);
  head.abort_text[length] = '\0';
  head.abort_state.store(2, std::memory_order_release);
  for (int m = 0; m < size(); ++m) futex_wake(block(m).arrived);
  return true;
}

bool NodeTeam::aborted() const noexcept {
  return block(0).abort_state.load(std::memory_order_acquire) == 2;
}

std::string NodeTeam::abort_text() const { return block(0).abort_text; }

void NodeTeam::throw_if_aborted() const {
  if (aborted()) throw DistributedError(block(0).abort_text);
}

bool NodeTeam::wait_for_peers_to_fail(milliseconds timeout) noexcept {
  block(index_).state.store(kFailed, std::memory_order_release);
  const auto deadline = Clock::now() + timeout;
  for (int m = 0; m < size(); ++m) {
    while (m != index_ && block(m).state.load(std::memory_order_acquire) == kActive &&
           !is_dead(m)) {
      if (Clock::now() >= deadline) return false;
      std::this_thread::sleep_for(milliseconds(5));
    }
  }
  return true;
}

}  // namespace lockstep::distributed
