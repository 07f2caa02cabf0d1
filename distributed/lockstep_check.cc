#include "lockstep/distributed/lockstep_check.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <map>
#include <vector>

#include "lockstep/distributed/agreement.h"
#include "lockstep/distributed/collective.h"
#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/sync_debug.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"

namespace lockstep::distributed {
namespace {

constexpr uint64_t kFactor = 0x9e3779b97f4a7c15u;
constexpr size_t kLanes = 8;
constexpr uint64_t kAbsent = 0;

// For a given word a bijection of the lane, and the other way round: no change gets lost.
inline uint64_t take(uint64_t lane, uint64_t word) {
  return std::rotl((lane ^ word) * kFactor, 29);
}

uint64_t hash_of(const Tensor& tensor) {
  if (!tensor.defined()) return kAbsent;
  const SyncAllowed allowed;
  const Tensor dense = tensor.detach().to(Device{}).contiguous();
  const size_t bytes = static_cast<size_t>(dense.numel()) * size_of(dense.dtype());
  return std::max<uint64_t>(fast_hash(dense.data_ptr(), bytes), kAbsent + 1);
}

std::vector<uint64_t> gather(ProcessGroup& group, std::vector<uint64_t> mine) {
  std::vector<uint64_t> all(mine.size() * static_cast<size_t>(group.size()));
  group
      .all_gather({all.data(), std::ssize(all), DType::kInt64, {}},
                  {mine.data(), std::ssize(mine), DType::kInt64, {}})
      .wait();
  return all;
}

double element(const Tensor& dense, int64_t at) {
  return dense.view({-1}).narrow(0, at, 1).to(DType::kFloat64).item();
}

// How this rank's tensor differs from the one on rank `root`; empty if it does not. Collective.
std::string difference(ProcessGroup& group, const Tensor& tensor, int root) {
  const SyncAllowed allowed;
  const Tensor mine = tensor.detach().to(Device{}).contiguous();
  const Tensor theirs = mine.clone();
  group.broadcast({theirs.data_ptr(), theirs.numel(), theirs.dtype(), theirs.device()}, root)
      .wait();
  const size_t width = size_of(mine.dtype());
  const auto* a = static_cast<const char*>(mine.data_ptr());
  const auto* b = static_cast<const char*>(theirs.data_ptr());
  int64_t differing = 0;
  int64_t first = -1;
  for (int64_t i = 0; i < mine.numel(); ++i) {
    const size_t at = static_cast<size_t>(i) * width;
    if (std::memcmp(a + at, b + at, width) == 0) continue;
    if (differing++ == 0) first = i;
  }
  if (differing == 0) return "";
  return fmt::format("has {:.9g} at element {} where rank {} has {:.9g} ({} of {} elements differ)",
                     element(mine, first), first, root, element(theirs, first), differing,
                     mine.numel());
}

// The ranks with their hashes of one tensor, the largest party first (of equal ones that of the
// lowest rank).
std::vector<std::pair<uint64_t, std::vector<int>>> parties(const std::vector<uint64_t>& hashes) {
  std::vector<std::pair<uint64_t, std::vector<int>>> result;
  for (size_t r = 0; r < hashes.size(); ++r) {
    auto party = std::find_if(result.begin(), result.end(),
                              [&](const auto& known) { return known.first == hashes[r]; });
    if (party == result.end()) party = result.insert(party, {hashes[r], {}});
    party->second.push_back(static_cast<int>(r));
  }
  std::stable_sort(result.begin(), result.end(),
                   [](const auto& a, const auto& b) { return a.second.size() > b.second.size(); });
  return result;
}

}  // namespace

uint64_t fast_hash(const void* data, size_t bytes) {
  std::array<uint64_t, kLanes> lanes;
  for (size_t l = 0; l < kLanes; ++l) lanes[l] = kFactor * (l + 1);
  const auto* at = static_cast<const char*>(data);
  const auto take_block = [&](const char* from) {
    std::array<uint64_t, kLanes> words;
    std::memcpy(words.data(), from, sizeof(words));
    for (size_t l = 0; l < kLanes; ++l) lanes[l] = take(lanes[l], words[l]);
  };
  size_t left = bytes;
  for (; left >= sizeof(lanes); left -= sizeof(lanes), at += sizeof(lanes)) take_block(at);
  if (left > 0) {
    std::array<char, sizeof(lanes)> rest{};
    std::memcpy(rest.data(), at, left);
    take_block(rest.data());
  }
  uint64_t hash = bytes;
  for (const uint64_t lane : lanes) {
    hash = take(hash, lane);
    hash ^= hash >> 32;
  }
  return hash;
}

void check_lockstep(ProcessGroup& group, const NamedTensors& tensors, const std::string& when) {
  if (group.size() == 1) return;
  const autograd::NoGrad no_grad;
  const ProcessGroup::LabelScope label(group, Label("a lockstep check"));
  const auto size = static_cast<size_t>(group.size());
  std::vector<uint64_t> mine;
  for (const auto& [name, t] : tensors) mine.push_back(hash_of(t));
  const uint64_t count = mine.size();
  const auto totals = gather(group, {fast_hash(mine.data(), count * sizeof(uint64_t)), count});
  bool same = true;
  for (size_t r = 0; r < size; ++r) {
    check<DistributedError>(totals[2 * r + 1] == totals[1],
                            "[lockstep_check] {} the ranks have different numbers of tensors: {} "
                            "on rank 0, {} on rank {}",
                            when, totals[1], totals[2 * r + 1], r);
    same = same && totals[2 * r] == totals[0];
  }
  if (same) return;

  const auto all = gather(group, mine);
  std::vector<size_t> differing;
  std::vector<uint64_t> hashes(size);
  const auto hashes_of = [&](size_t tensor) {
    for (size_t r = 0; r < size; ++r) hashes[r] = all[r * count + tensor];
    return hashes;
  };
  for (size_t i = 0; i < count; ++i) {
    if (parties(hashes_of(i)).size() > 1) differing.push_back(i);
  }
  const auto& [name, tensor] = tensors[differing.front()];
  const auto by_hash = parties(hashes_of(differing.front()));
  const std::vector<int>& most = by_hash.front().second;
  std::string where;
  const bool everywhere = std::all_of(by_hash.begin(), by_hash.end(),
                                      [](const auto& party) { return party.first != kAbsent; });
  if (everywhere) {
    const auto texts = exchange_texts(group, difference(group, tensor, most.front()));
    for (size_t r = 0; r < size; ++r) {
      if (!texts[r].empty())
        where += fmt::format("{}rank {} {}", where.empty() ? "" : "; ", r, texts[r]);
    }
  } else {
    for (const auto& [hash, ranks] : by_hash) {
      if (hash == kAbsent) where = fmt::format("{} without it", name_ranks(ranks));
    }
  }
  if (most.size() > 1) where += fmt::format("; {} agree", name_ranks(most));
  std::string others;
  for (size_t i = 1; i < std::min<size_t>(differing.size(), 4); ++i) {
    others += fmt::format("{}{}", i == 1 ? ". Also " : ", ", tensors[differing[i]].first);
  }
  if (differing.size() > 4) others += fmt::format(" and {} more", differing.size() - 4);
  fail<DistributedError>(
      "[lockstep_check] {} the replicas are not in lockstep any more: {} is not the same on all "
      "ranks: {}{}. Something other than the optimizer changed it, a rank computes differently, or "
      "its memory is faulty",
      when, name, where, others);
}

NamedTensors optimizer_tensors(const optim::Optimizer& optimizer, const NamedTensors& parameters) {
  NamedTensors all;
  size_t index = 0;
  for (const auto& state : optimizer.states()) {
    const auto known = std::find_if(parameters.begin(), parameters.end(), [&](const auto& named) {
      return named.second.is_same(state.parameter);
    });
    const std::string of = known != parameters.end()
                               ? known->first
                               : fmt::format("the optimizer's parameter {}", index);
    all.emplace_back("the step count of " + of,
                     full({1}, static_cast<double>(state.steps), {DType::kFloat64, Device{}}));
    for (const auto& [name, t] : state.buffers)
      all.emplace_back(fmt::format("{} of {}", name, of), t);
    ++index;
  }
  return all;
}

}  // namespace lockstep::distributed
