#include "lockstep/distributed/across_nodes.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <type_traits>

#include "lockstep/distributed/backoff.h"
#include "lockstep/distributed/mpi_calls.h"
#include "lockstep/distributed/reduce_kernels.h"
#include "lockstep/distributed/team.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::distributed {
namespace {

enum Tag : int { kPartial = 1, kResult = 2, kPart = 3 };

constexpr int kWindow = 32;                          // pieces under way in each direction
constexpr size_t kLargestMessage = size_t{1} << 30;  // MPI counts are ints

}  // namespace

AcrossNodes::AcrossNodes(MPI_Comm comm, MPI_Comm leaders, NodeLayout layout,
                         std::function<void()> check_abort)
    : comm_(comm),
      leaders_(leaders),
      layout_(std::move(layout)),
      check_abort_(std::move(check_abort)) {}

AcrossNodes::~AcrossNodes() = default;

void AcrossNodes::finish(std::span<MPI_Request> requests) {
  Backoff backoff;
  for (int done = 0;;) {
    LOCKSTEP_MPI(MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done,
                             MPI_STATUSES_IGNORE));
    if (done != 0) return;
    check_abort_();
    backoff.pause();
  }
}

// Every call, whatever it is, begins with the same small exchange, so that calls that differ cannot
// leave one node waiting for a message that another does not send. It tells all nodes alike whether
// the calls are the same: the largest hash is then the smallest, too. Only if they are not, the
// calls themselves are exchanged.
void AcrossNodes::compare(const Call& call, bool same,
                          const std::function<std::vector<Call>()>& calls) {
  if (layout_.index != 0) return;
  const uint64_t hash = call.signature.hash();
  hashes_ = same ? std::array{hash, ~hash} : std::array{~uint64_t{0}, ~uint64_t{0}};
  MPI_Request request = MPI_REQUEST_NULL;
  LOCKSTEP_MPI(MPI_Iallreduce(MPI_IN_PLACE, hashes_.data(), static_cast<int>(hashes_.size()),
                              MPI_UINT64_T, MPI_MAX, leaders_, &request));
  finish({&request, 1});
  if (hashes_[0] == ~hashes_[1]) return;

  static_assert(std::is_trivially_copyable_v<Call>);
  calls_ = calls();
  std::vector<int> bytes;
  std::vector<int> offsets;
  int total = 0;
  for (const auto& ranks : layout_.nodes) {
    offsets.push_back(total);
    bytes.push_back(static_cast<int>(ranks.size() * sizeof(Call)));
    total += bytes.back();
  }
  all_calls_.resize(static_cast<size_t>(total) / sizeof(Call));
  LOCKSTEP_MPI(MPI_Iallgatherv(calls_.data(), bytes[static_cast<size_t>(layout_.node)], MPI_BYTE,
                               all_calls_.data(), bytes.data(), offsets.data(), MPI_BYTE, leaders_,
                               &request));
  finish({&request, 1});
  std::vector<Callers> callers;
  for (const int r : layout_.reduction_order()) {
    callers.push_back({{r}, all_calls_[callers.size()]});
  }
  fail_mismatch(rank(), callers);
}

// The all-reduce is a chain through the nodes. A channel is one rank of every node; the data is cut
// into blocks, and each channel carries its slice of every block, a piece. On the way up, node 0
// reduces its ranks' contributions, and each further node takes the partial result and adds its own
// ranks in order; the last node thus holds the sum in exact rank order, the same bits that one
// large node would produce. On the way down the result passes back through the same ranks, each of
// which writes it to its node's regions. Both directions run at the same time on different pieces,
// so a full-duplex link carries the data once each way, which for two nodes equals reduce-scatter
// and all-gather; inner nodes of a longer chain send twice the data, a ring (N-1)/N of that.
// 16-bit floats travel as such, since their point is to be few bytes: each node adds in float32 and
// rounds once, what it passes on and the result alike.
class AcrossNodes::Chain {
 public:
  Chain(AcrossNodes& owner, DType dtype, ReduceOp op, std::span<std::byte* const> regions,
        int64_t count, int64_t block)
      : owner_(owner),
        reduction_{dtype, op},
        regions_(regions),
        count_(count),
        block_(block),
        channels_(owner.layout_.channels()),
        width_(size_of(dtype)),
        pieces_((count + block - 1) / block),
        buffer_bytes_(static_cast<size_t>(std::min(count, block)) * width_) {
    const auto& nodes = owner.layout_.nodes;
    const auto me = static_cast<size_t>(owner.layout_.node);
    const auto at = static_cast<size_t>(owner.layout_.index);
    if (me > 0) lower_ = nodes[me - 1][at];
    if (me + 1 < nodes.size()) upper_ = nodes[me + 1][at];
    owner.buffers_.resize(std::max(owner.buffers_.size(), 2 * kWindow * buffer_bytes_));
    received_.fill(MPI_REQUEST_NULL);
    sent_.fill(MPI_REQUEST_NULL);
  }

  void run() {
    Backoff backoff;
    while (up_ < pieces_ || (has_upper() && down_ < pieces_) || !all_sent()) {
      if (step()) {
        backoff.reset();
      } else {
        owner_.check_abort_();
        backoff.pause();
      }
    }
  }

 private:
  // Slots [0, kWindow) carry pieces up, the others down. A slot is free for its next piece when
  // that piece's predecessor in it has been sent on.
  bool has_lower() const { return lower_ >= 0; }
  bool has_upper() const { return upper_ >= 0; }
  static size_t up_slot(int64_t piece) { return static_cast<size_t>(piece % kWindow); }
  static size_t down_slot(int64_t piece) { return kWindow + up_slot(piece); }
  std::byte* buffer(size_t slot) { return owner_.buffers_.data() + slot * buffer_bytes_; }
  Slice slice(int64_t piece) const {
    return slice_of(std::min(block_, count_ - piece * block_), width_, owner_.layout_.index,
                    channels_);
  }
  int64_t elements(int64_t piece) const { return slice(piece).end - slice(piece).begin; }
  int bytes(int64_t piece) const {
    return static_cast<int>(static_cast<size_t>(elements(piece)) * width_);
  }

  static bool done(MPI_Request& request) {
    int flag = 0;
    LOCKSTEP_MPI(MPI_Test(&request, &flag, MPI_STATUS_IGNORE));
    return flag != 0;
  }
  bool all_sent() {
    return std::all_of(sent_.begin(), sent_.end(), [](MPI_Request& r) { return done(r); });
  }

  void receive(int64_t piece, size_t slot, int peer, Tag tag) {
    LOCKSTEP_MPI(
        MPI_Irecv(buffer(slot), bytes(piece), MPI_BYTE, peer, tag, owner_.comm_, &received_[slot]));
  }
  void send(int64_t piece, size_t slot, int peer, Tag tag) {
    LOCKSTEP_MPI(
        MPI_Isend(buffer(slot), bytes(piece), MPI_BYTE, peer, tag, owner_.comm_, &sent_[slot]));
  }

  std::vector<std::byte*> places(int64_t piece) const {
    std::vector<std::byte*> all(regions_.begin(), regions_.end());
    const int64_t begin = piece * block_ + slice(piece).begin;
    for (std::byte*& place : all) place += static_cast<size_t>(begin) * width_;
    return all;
  }

  // Does what can be done without waiting; false if that is nothing.
  bool step() {
    bool progress = false;
    // Receives are posted as soon as their slot is free.
    while (has_lower() && up_posted_ < std::min(pieces_, up_ + kWindow) &&
           done(sent_[up_slot(up_posted_)])) {
      receive(up_posted_, up_slot(up_posted_), lower_, kPartial);
      ++up_posted_;
      progress = true;
    }
    while (has_upper() && down_posted_ < std::min(pieces_, down_ + kWindow) &&
           done(sent_[down_slot(down_posted_)])) {
      receive(down_posted_, down_slot(down_posted_), upper_, kResult);
      ++down_posted_;
      progress = true;
    }
    if (up_ < pieces_) {
      const size_t slot = up_slot(up_);
      const bool ready =
          has_lower() ? up_ < up_posted_ && done(received_[slot]) : done(sent_[slot]);
      if (ready) {
        go_up(slot);
        progress = true;
      }
    }
    if (has_upper() && down_ < down_posted_ && done(received_[down_slot(down_)])) {
      const size_t slot = down_slot(down_);
      for (std::byte* place : places(down_)) {
        std::memcpy(place, buffer(slot), static_cast<size_t>(bytes(down_)));
      }
      if (has_lower()) send(down_, slot, lower_, kResult);
      ++down_;
      progress = true;
    }
    return progress;
  }

  void go_up(size_t slot) {
    const std::vector<std::byte*> here = places(up_);
    std::vector<const std::byte*> sources(here.begin(), here.end());
    if (has_lower()) sources.insert(sources.begin(), buffer(slot));
    std::vector<std::byte*> outputs{buffer(slot)};
    if (!has_upper()) outputs.insert(outputs.end(), here.begin(), here.end());  // the result
    reduce(reduction_, sources, elements(up_), outputs);
    if (has_upper()) {
      send(up_, slot, upper_, kPartial);
    } else if (has_lower()) {
      send(up_, slot, lower_, kResult);
    }
    ++up_;
  }

  AcrossNodes& owner_;
  const Reduction reduction_;
  const std::span<std::byte* const> regions_;
  const int64_t count_;
  const int64_t block_;
  const int channels_;
  const size_t width_;
  const int64_t pieces_;
  const size_t buffer_bytes_;
  int lower_ = -1;
  int upper_ = -1;
  int64_t up_ = 0;  // the next piece to go up, and how far receives are posted; likewise down
  int64_t up_posted_ = 0;
  int64_t down_ = 0;
  int64_t down_posted_ = 0;
  std::array<MPI_Request, 2 * kWindow> received_;
  std::array<MPI_Request, 2 * kWindow> sent_;
};

void AcrossNodes::all_reduce(DType dtype, ReduceOp op, std::span<std::byte* const> regions,
                             int64_t count, int64_t block) {
  if (layout_.index >= layout_.channels()) return;
  Chain(*this, dtype, op, regions, count, block).run();
}

void AcrossNodes::exchange(std::span<const Message> sends, std::span<const Message> receives) {
  std::vector<MPI_Request> requests;
  const auto start = [&](const Message& message, bool is_send) {
    for (size_t at = 0; at < message.bytes; at += kLargestMessage) {
      const int bytes = static_cast<int>(std::min(kLargestMessage, message.bytes - at));
      MPI_Request& request = requests.emplace_back(MPI_REQUEST_NULL);
      if (is_send) {
        LOCKSTEP_MPI(
            MPI_Isend(message.data + at, bytes, MPI_BYTE, message.peer, kPart, comm_, &request));
      } else {
        LOCKSTEP_MPI(
            MPI_Irecv(message.data + at, bytes, MPI_BYTE, message.peer, kPart, comm_, &request));
      }
    }
  };
  for (const Message& message : receives) start(message, false);
  for (const Message& message : sends) start(message, true);
  finish(requests);
}

void AcrossNodes::run(const Collective& c) {
  const std::vector<int> order = layout_.reduction_order();
  const int size = static_cast<int>(order.size());
  const size_t width = size_of(c.in.dtype);
  auto* const in = static_cast<std::byte*>(c.in.data);
  auto* const out = static_cast<std::byte*>(c.out.data);
  const bool in_has_parts =
      c.kind == CollectiveKind::kReduceScatter || c.kind == CollectiveKind::kAllToAll;
  const size_t part = c.in.bytes() / (in_has_parts ? static_cast<size_t>(size) : 1);
  const auto at = [part](int index) { return static_cast<size_t>(index) * part; };

  if (c.kind == CollectiveKind::kBarrier) {
    MPI_Request request = MPI_REQUEST_NULL;
    LOCKSTEP_MPI(MPI_Ibarrier(comm_, &request));
    return finish({&request, 1});
  }
  if (c.kind == CollectiveKind::kBroadcast) {
    for (size_t begin = 0; begin < part; begin += kLargestMessage) {
      MPI_Request request = MPI_REQUEST_NULL;
      LOCKSTEP_MPI(MPI_Ibcast(in + begin, static_cast<int>(std::min(kLargestMessage, part - begin)),
                              MPI_BYTE, c.root, comm_, &request));
      finish({&request, 1});
    }
    return;
  }

  // Everybody's part goes straight to whom it concerns.
  std::byte* into = out;
  if (c.kind == CollectiveKind::kReduceScatter) {
    parts_.resize(at(size));
    into = parts_.data();
  }
  std::vector<Message> sends;
  std::vector<Message> receives;
  for (int step = 1; step < size; ++step) {  // each rank starts with another peer
    const int to = (rank() + step) % size;
    const int from = (rank() + size - step) % size;
    sends.push_back({in + (in_has_parts ? at(to) : 0), part, to});
    receives.push_back({into + at(from), part, from});
  }
  std::byte* const mine = in + (in_has_parts ? at(rank()) : 0);
  if (part > 0 && into + at(rank()) != mine) std::memcpy(into + at(rank()), mine, part);
  exchange(sends, receives);
  if (c.kind == CollectiveKind::kReduceScatter && part > 0) {
    std::vector<const std::byte*> sources;
    for (const int r : order) sources.push_back(parts_.data() + at(r));
    reduce({c.in.dtype, c.op}, sources, static_cast<int64_t>(part / width), {&out, 1});
  }
}

}  // namespace lockstep::distributed
