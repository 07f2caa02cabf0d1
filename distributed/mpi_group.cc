#include "lockstep/distributed/mpi_group.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <deque>
#include <exception>
#include <map>
#include <mutex>
#include <set>
#include <thread>
#include <type_traits>

#include <mpi.h>
#include <unistd.h>

#include "lockstep/distributed/across_nodes.h"
#include "lockstep/distributed/backoff.h"
#include "lockstep/distributed/flight_recorder.h"
#include "lockstep/distributed/late_ranks.h"
#include "lockstep/distributed/mpi_calls.h"
#include "lockstep/distributed/mpi_runtime.h"
#include "lockstep/distributed/node_team.h"
#include "lockstep/distributed/reduce_kernels.h"
#include "lockstep/distributed/ticker.h"
#include "lockstep/distributed/work_queue.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::distributed {
namespace {

using Clock = std::chrono::steady_clock;

enum AlarmTag : int { kAborted, kReported, kLeft, kAsk, kAnswer, kAlarmTags };
constexpr int kAlarmBytes = 2048;
constexpr int64_t kCanonicalBlock = 1 << 18;  // elements that travel at a time

constexpr auto kTick = std::chrono::milliseconds(200);
constexpr auto kAnswerPatience = std::chrono::milliseconds(1000);  // some ticks of the others

// A private copy of a communicator whose errors are returned.
MPI_Comm duplicate(MPI_Comm comm) {
  MPI_Comm copy = MPI_COMM_NULL;
  LOCKSTEP_MPI(MPI_Comm_dup(comm, &copy));
  LOCKSTEP_MPI(MPI_Comm_set_errhandler(copy, MPI_ERRORS_RETURN));
  return copy;
}

// Memory mapped by all ranks of the node; collective among them.
std::shared_ptr<NodeMemory> make_control_memory(MPI_Comm node, NodeMemory::Kind& kind) {
  int index = 0;
  int size = 0;
  LOCKSTEP_MPI(MPI_Comm_rank(node, &index));
  LOCKSTEP_MPI(MPI_Comm_size(node, &size));
  int worst = 0;
  kind = NodeMemory::preferred_kind();
  for (;;) {
    std::shared_ptr<NodeMemory> memory;
    NodeMemory::Ticket ticket;
    if (index == 0) {
      memory = NodeMemory::create(kind, NodeTeam::control_bytes(), size, index, ticket);
    }
    LOCKSTEP_MPI(MPI_Bcast(&ticket, sizeof(ticket), MPI_BYTE, 0, node));
    int error = ticket.error;
    if (index != 0 && error == 0) memory = NodeMemory::attach(ticket, index, error);
    LOCKSTEP_MPI(MPI_Allreduce(&error, &worst, 1, MPI_INT, MPI_MAX, node));
    if (memory) memory->forget_name();
    if (worst == 0) return memory;
    check<DistributedError>(kind == NodeMemory::Kind::kAnonymousFile,
                            "[mpi group] the ranks of this node cannot share memory: {}",
                            std::strerror(worst));
    kind = NodeMemory::Kind::kSharedMemoryObject;
  }
}

void keep_for_ever(std::unique_ptr<AcrossNodes> across) {
  static std::mutex mutex;
  static auto* const kept = new std::vector<std::unique_ptr<AcrossNodes>>;
  const std::lock_guard lock(mutex);
  kept->push_back(std::move(across));
}

class NodeGroupMemory final : public Memory {
 public:
  NodeGroupMemory(std::shared_ptr<NodeMemory> memory, int index)
      : memory_(std::move(memory)), index_(index) {}
  void* data() const override { return memory_->slice(index_); }
  size_t bytes() const override { return memory_->slice_bytes(); }

 private:
  std::shared_ptr<NodeMemory> memory_;
  int index_;
};

class MpiGroup final : public ProcessGroup {
 public:
  MpiGroup(MPI_Comm comm, MPI_Comm leaders, MPI_Comm alarms, NodeLayout layout,
           std::unique_ptr<NodeTeam> team)
      : ProcessGroup(layout.rank(), layout.world_size()),
        comm_(comm),
        alarms_(alarms),
        layout_(std::move(layout)),
        team_(std::move(team)),
        queue_(fmt::format("ls-mpi-{}", rank())) {
    team_->set_timeout(kDefaultTimeout);
    team_->set_on_late([this](double seconds, const std::vector<Sighting>& missing) {
      fail_late(rank(), team_->call(), seconds, missing, recorder_);
    });
    if (layout_.nodes.size() == 1) return;
    across_ = std::make_unique<AcrossNodes>(comm_, leaders, layout_, [this] {
      hear_alarms();
      look_for_late_nodes();
    });
    team_->set_idle_hook([this] { hear_alarms(); });
    team_->set_compare_nodes([this](bool same) {
      across_->compare(team_->call(), same, [this] { return team_->calls(); });
      team_->barrier();
    });
    start_ticking();
    reduce_regions_ = [this](const Collective& c, std::span<std::byte* const> regions,
                             int64_t count) {
      if (c.kind == CollectiveKind::kCanonicalSum) {
        return across_->canonical_sum(*c.plan, c.in.dtype, regions, count, kCanonicalBlock);
      }
      const size_t block = AcrossNodes::kPieceBytes / size_of(c.in.dtype);
      across_->all_reduce(c.in.dtype, c.op, regions, count, static_cast<int64_t>(block));
    };
  }

  ~MpiGroup() override {
    ticker_.reset();
    if (std::uncaught_exceptions() > 0) abort("an exception destroyed the process group");
    queue_.drain_and_join();
    if (team_->aborted()) {
      // Messages may still be on their way into these buffers and communicators.
      if (across_) keep_for_ever(std::move(across_));
    } else if (across_) {
      say_goodbye();  // which may arrive late: the communicators stay until MPI ends
    } else if (mpi_runtime::initialized()) {
      MPI_Comm_free(&comm_);
      MPI_Comm_free(&alarms_);
    }
  }

  std::string_view name() const override { return "mpi"; }

  std::shared_ptr<Memory> allocate(size_t bytes, Device device) override {
    check(device.is_cpu(), "[allocate] the mpi group has no memory on {}", device.str());
    team_->throw_if_aborted();
    Collective call{CollectiveKind::kAllocate, {}, {}};
    call.in.count = static_cast<int64_t>(bytes);
    call.in.dtype = DType::kUInt8;
    call.label = current_label();
    FlightRecorder::Slot& slot = recorder_.launch(call);
    std::shared_ptr<NodeMemory> memory;
    queue_.launch(
        [&] {
          guarded([&] {
            begin_call();
            memory = team_->allocate(call);
          });
        },
        Launch::kBlocking, &slot);
    return std::make_shared<NodeGroupMemory>(std::move(memory), layout_.index);
  }

  void abort(const std::string& reason) noexcept override {
    abort_here(reason);
    abort_duplicates(reason);
  }

  void abort_here(const std::string& reason) noexcept {
    try {
      mpi_runtime::mark_failed();
      const std::string text = fmt::format("[rank {}] aborted: {}", rank(), reason);
      if (!team_->abort(text) || !across_) return;
      // What is queued fails at the raised flag, then the alarm is sent.
      const auto sent = queue_.launch([this, text] { sound_alarm(text); }, Launch::kAsync);
      const auto deadline = Clock::now() + std::chrono::seconds(2);
      while (!sent.is_completed() && Clock::now() < deadline) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    } catch (...) {  // no memory, no thread: the flag has been raised, or nothing can be
    }
  }

  void set_timeout(std::chrono::milliseconds timeout) override {
    team_->set_timeout(timeout);
    ProcessGroup::set_timeout(timeout);
  }

  void on_failure(const FailureHandler& handler) override {
    ticker_.reset();
    handler_ = handler;
    if (handler_ || across_) start_ticking();
  }

  bool wait_for_peers_to_fail(std::chrono::milliseconds timeout) noexcept override {
    const auto deadline = Clock::now() + timeout;
    mpi_runtime::mark_failed();
    try {
      if (across_) send_to_other_nodes("", kReported);
      const bool here = team_->wait_for_peers_to_fail(timeout);
      const int missing = size() - team_->size();
      while (across_ && reported_ < missing && Clock::now() < deadline) {
        listen();
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
      }
      return here && reported_ >= missing;
    } catch (...) {
      return false;
    }
  }

 private:
  ActivityRecord* activity() override { return &team_->activity(); }
  const FlightRecorder* recorder() const override { return &recorder_; }

  std::shared_ptr<ProcessGroup> make_duplicate() override {
    auto copy = make_mpi_group();
    copy->set_timeout(team_->timeout());
    return copy;
  }

  Work issue(const Collective& collective, Launch launch) override {
    check(collective.in.device.is_cpu() || collective.then,
          "[mpi group] buffers must be on the CPU, not on {}", collective.in.device.str());
    team_->throw_if_aborted();
    Collective call = collective;
    FlightRecorder::Slot& slot = recorder_.launch(call);
    return queue_.launch([this, call] { guarded([&] { run(call); }); }, launch, &slot);
  }

  void begin_call() {
    asked_ = false;
    if (across_) call_began_ = Clock::now();
  }

  void run(const Collective& collective) {
    begin_call();
    if (collective.then) {
      team_->meet(collective);
      collective.then(collective);
    } else if (!across_) {
      run_in_team(*team_, collective);
    } else if (collective.kind == CollectiveKind::kAllReduce ||
               collective.kind == CollectiveKind::kCanonicalSum) {
      run_in_team(*team_, collective, reduce_regions_);
    } else {
      team_->meet(collective);
      across_->run(collective);
    }
  }

  // Whatever goes wrong in a collective ends the group on all ranks.
  template <typename Body>
  void guarded(Body body) {
    try {
      body();
    } catch (const std::exception& error) {
      mpi_runtime::mark_failed();
      std::string text = error.what();
      if (text.compare(0, 6, "[rank ") != 0) {
        text = fmt::format("[rank {}] aborted: {}", rank(), text);
      }
      if (team_->abort(text) && across_) sound_alarm(text);
      throw;
    }
  }

  void sound_alarm(const std::string& text) noexcept {
    try {
      send_to_other_nodes(text, kAborted);
    } catch (...) {  // they will notice when the launcher ends the job
    }
  }

  // Tells the other nodes that no call after the last one can be joined.
  void say_goodbye() noexcept {
    try {
      if (!mpi_runtime::initialized()) return;
      send_to_other_nodes(std::to_string(team_->call().signature.sequence), kLeft);
    } catch (...) {  // then they wait until the launcher ends the job
    }
  }

  // Waits a second at most: a peer may be gone.
  void send_to_other_nodes(const std::string& text, AlarmTag tag) {
    std::string& kept = outgoing_[tag];  // a late send still reads it
    kept = text.substr(0, kAlarmBytes);
    std::vector<MPI_Request> requests;
    for (size_t n = 0; n < layout_.nodes.size(); ++n) {
      if (static_cast<int>(n) == layout_.node) continue;
      for (const int peer : layout_.nodes[n]) {
        LOCKSTEP_MPI(MPI_Isend(kept.data(), static_cast<int>(kept.size()), MPI_CHAR, peer, tag,
                               alarms_, &requests.emplace_back(MPI_REQUEST_NULL)));
      }
    }
    const auto deadline = Clock::now() + std::chrono::seconds(1);
    Backoff backoff;
    for (int done = 0; done == 0 && Clock::now() < deadline; backoff.pause()) {
      LOCKSTEP_MPI(MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done,
                               MPI_STATUSES_IGNORE));
    }
  }

  // Takes in what other nodes have to say; passes an abort on to this node.
  void listen() {
    for (;;) {
      int there = 0;
      MPI_Status status;
      LOCKSTEP_MPI(MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, alarms_, &there, &status));
      if (there == 0) return;
      int length = 0;
      LOCKSTEP_MPI(MPI_Get_count(&status, MPI_CHAR, &length));
      std::string text(static_cast<size_t>(length), '\0');
      LOCKSTEP_MPI(MPI_Recv(text.data(), length, MPI_CHAR, status.MPI_SOURCE, status.MPI_TAG,
                            alarms_, MPI_STATUS_IGNORE));
      switch (status.MPI_TAG) {
        case kAborted:
          mpi_runtime::mark_failed();
          team_->abort(text);
          break;
        case kLeft:
          left_.emplace_back(status.MPI_SOURCE, std::stoull(text));
          break;
        case kAsk:
          answer(status.MPI_SOURCE);
          break;
        case kAnswer:
          take_answer(status.MPI_SOURCE, text);
          break;
        default:
          ++reported_;
      }
    }
  }

  void hear_alarms() {
    team_->throw_if_aborted();
    listen();
    team_->throw_if_aborted();
    for (const auto& [peer, last_call] : left_) {
      check<DistributedError>(
          team_->call().signature.sequence <= last_call,
          "[rank {}] rank {} has destroyed its process group while this rank waits for it in call "
          "{}, {}",
          rank(), peer, team_->call().signature.sequence, team_->call().str());
    }
  }

  // -- late nodes. Which rank of another node does not come to a call cannot be seen from here. So
  // after the timeout every rank of the other nodes is asked; each answers, in its communication
  // thread, with what it sees of all ranks of its node. A rank that hangs in the program's own code
  // answers nevertheless, and one that is stopped is seen by its neighbours, if it has any.

  void look_for_late_nodes() {
    const auto timeout = team_->timeout();
    const auto now = Clock::now();
    if (timeout.count() == 0 || now - call_began_ < timeout) return;
    if (!asked_) {
      asked_ = true;
      answers_.clear();
      answered_.clear();
      ask_ended_ = now + kAnswerPatience;
      send_to_other_nodes("?", kAsk);
    }
    if (now < ask_ended_ && std::ssize(answered_) < size() - team_->size()) return;
    const uint64_t sequence = team_->call().signature.sequence;
    std::vector<Sighting> missing;
    std::vector<Sighting> silent;
    for (size_t n = 0; n < layout_.nodes.size(); ++n) {
      if (static_cast<int>(n) == layout_.node) continue;
      for (const int peer : layout_.nodes[n]) {
        const auto seen = answers_.find(peer);
        if (seen == answers_.end()) {
          missing.push_back({.rank = peer, .silent = true});
        } else if (seen->second.call < sequence) {
          missing.push_back(seen->second);
        } else if (!answered_.contains(peer)) {
          silent.push_back(seen->second);
        }
      }
    }
    // If all have come to the call, those are to blame that do not answer.
    fail_late(rank(), team_->call(), std::chrono::duration<double>(now - call_began_).count(),
              missing.empty() ? silent : missing, recorder_);
  }

  void answer(int asker) {
    struct Reply {
      std::vector<Sighting> seen;
      MPI_Request request = MPI_REQUEST_NULL;
    };
    // Kept for ever: the job is about to end, and the asker may not be there to take it.
    static auto* const replies = new std::deque<Reply>;
    static std::mutex mutex;
    const std::lock_guard lock(mutex);
    Reply& reply = replies->emplace_back(Reply{team_->look_at_members()});
    LOCKSTEP_MPI(MPI_Isend(reply.seen.data(),
                           static_cast<int>(reply.seen.size() * sizeof(Sighting)), MPI_BYTE, asker,
                           kAnswer, alarms_, &reply.request));
  }

  void take_answer(int from, const std::string& bytes) {
    answered_.insert(from);
    std::vector<Sighting> seen(bytes.size() / sizeof(Sighting));
    static_assert(std::is_trivially_copyable_v<Sighting>);
    std::memcpy(seen.data(), bytes.data(), seen.size() * sizeof(Sighting));
    for (const Sighting& s : seen) answers_[s.rank] = s;
  }

  // -- the thread that looks after what nobody else can

  void start_ticking() {
    ticker_ = std::make_unique<Ticker>(fmt::format("ls-watch-{}", rank()), kTick,
                                       [this] { return tick(); });
  }

  // False once there is nothing left to do.
  bool tick() {
    if (team_->aborted()) {
      if (handler_) handler_(team_->abort_text());
      return false;
    }
    // While the program computes nobody else hears what other nodes ask, or that they have failed.
    if (across_ && queue_.is_idle()) queue_.launch([this] { listen(); }, Launch::kAsync);
    return true;
  }

  MPI_Comm comm_;
  MPI_Comm alarms_;  // for aborts, apart from the data
  const NodeLayout layout_;
  std::unique_ptr<NodeTeam> team_;
  std::unique_ptr<AcrossNodes> across_;  // null if all ranks share one node
  ReduceRegions reduce_regions_;
  FlightRecorder recorder_;
  Clock::time_point call_began_;
  bool asked_ = false;  // the other nodes, about this call
  Clock::time_point ask_ended_;
  std::map<int, Sighting> answers_;  // by rank
  std::set<int> answered_;
  std::string outgoing_[kAlarmTags];
  std::vector<std::pair<int, uint64_t>> left_;  // on other nodes: a rank and its last call
  int reported_ = 0;
  FailureHandler handler_;
  WorkQueue queue_;                 // its thread uses all of the above
  std::unique_ptr<Ticker> ticker_;  // likewise
};

}  // namespace

std::shared_ptr<ProcessGroup> make_mpi_group() {
  check<DistributedError>(mpi_runtime::initialized(),
                          "[mpi group] MPI is not running; call mpi_runtime::initialize() first");
  const MPI_Comm comm = duplicate(MPI_COMM_WORLD);
  const MPI_Comm alarms = duplicate(MPI_COMM_WORLD);
  MPI_Comm node = node_of(comm);
  NodeLayout layout = layout_of(comm, node);
  MPI_Comm leaders = MPI_COMM_NULL;
  if (layout.nodes.size() > 1) {
    LOCKSTEP_MPI(
        MPI_Comm_split(comm, layout.index == 0 ? 0 : MPI_UNDEFINED, layout.node, &leaders));
    if (leaders != MPI_COMM_NULL) {
      LOCKSTEP_MPI(MPI_Comm_set_errhandler(leaders, MPI_ERRORS_RETURN));
    }
  }
  NodeMemory::Kind kind{};
  auto control = make_control_memory(node, kind);

  const auto& ranks = layout.nodes[static_cast<size_t>(layout.node)];
  const int pid = static_cast<int>(getpid());
  std::vector<int> pids(ranks.size());
  LOCKSTEP_MPI(MPI_Allgather(&pid, 1, MPI_INT, pids.data(), 1, MPI_INT, node));
  LOCKSTEP_MPI(MPI_Comm_free(&node));
  std::vector<NodeTeam::Member> members;
  for (size_t i = 0; i < ranks.size(); ++i) {
    // A peer that opened /proc/<pid> lives in our PID namespace.
    members.push_back({ranks[i], kind == NodeMemory::Kind::kAnonymousFile ? pids[i] : 0});
  }
  auto team = std::make_unique<NodeTeam>(std::move(control), layout.index, std::move(members));
  return std::make_shared<MpiGroup>(comm, leaders, alarms, std::move(layout), std::move(team));
}

}  // namespace lockstep::distributed
