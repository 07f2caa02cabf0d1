#include "lockstep/distributed/collective.h"

#include <algorithm>
#include <cstring>

#include "lockstep/distributed/canonical_sum.h"
#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"

namespace lockstep::distributed {

std::string_view name_of(CollectiveKind kind) {
  switch (kind) {
    case CollectiveKind::kAllReduce:
      return "all_reduce";
    case CollectiveKind::kBroadcast:
      return "broadcast";
    case CollectiveKind::kReduceScatter:
      return "reduce_scatter";
    case CollectiveKind::kAllGather:
      return "all_gather";
    case CollectiveKind::kAllToAll:
      return "all_to_all";
    case CollectiveKind::kCanonicalSum:
      return "canonical_sum";
    case CollectiveKind::kBarrier:
      return "barrier";
    case CollectiveKind::kAllocate:
      return "allocate";
  }
  return "unknown";
}

std::string_view name_of(ReduceOp op) {
  return op == ReduceOp::kSum ? "sum" : op == ReduceOp::kMin ? "min" : "max";
}

bool reduces(CollectiveKind kind) {
  return kind == CollectiveKind::kAllReduce || kind == CollectiveKind::kReduceScatter;
}

namespace {

bool overlap(const Buffer& a, const Buffer& b) {
  const auto a_begin = reinterpret_cast<uintptr_t>(a.data);
  const auto b_begin = reinterpret_cast<uintptr_t>(b.data);
  return a_begin < b_begin + b.bytes() && b_begin < a_begin + a.bytes();
}

const std::byte* part(const Buffer& buffer, int index, int size) {
  return static_cast<const std::byte*>(buffer.data) +
         buffer.bytes() / static_cast<size_t>(size) * static_cast<size_t>(index);
}

}  // namespace

uint64_t Signature::hash() const {
  uint64_t hash = label_hash;
  for (const uint64_t part : {sequence, static_cast<uint64_t>(count), static_cast<uint64_t>(leaves),
                              static_cast<uint64_t>(root), static_cast<uint64_t>(kind),
                              static_cast<uint64_t>(op), static_cast<uint64_t>(dtype)}) {
    hash = (hash ^ part) * 0x9e3779b97f4a7c15u;
    hash ^= hash >> 32;
  }
  return hash;
}

Call call_of(const Collective& collective) {
  Call call{{}, collective.label};
  Signature& signature = call.signature;
  signature.sequence = collective.sequence;
  signature.kind = collective.kind;
  signature.count = collective.in.count;
  signature.label_hash = collective.label.hash;
  signature.dtype = collective.in.dtype;
  if (reduces(collective.kind)) signature.op = collective.op;
  if (collective.kind == CollectiveKind::kBroadcast) signature.root = collective.root;
  if (collective.plan) signature.leaves = collective.plan->leaves();
  return call;
}

std::string Call::str() const {
  const Signature& s = signature;
  std::string text{name_of(s.kind)};
  if (reduces(s.kind)) text += fmt::format("({})", name_of(s.op));
  if (s.kind == CollectiveKind::kAllocate) {
    text += fmt::format(" of {} bytes", s.count);
  } else if (s.kind != CollectiveKind::kBarrier) {
    text += fmt::format(" of {} {}", s.count, lockstep::name_of(s.dtype));
  }
  if (s.kind == CollectiveKind::kBroadcast) text += fmt::format(" from rank {}", s.root);
  if (s.kind == CollectiveKind::kCanonicalSum) text += fmt::format(" over {} leaves", s.leaves);
  const std::string about = label.str();
  return about.empty() ? text : fmt::format("{} ({})", text, about);
}

std::string name_ranks(std::vector<int> ranks) {
  std::sort(ranks.begin(), ranks.end());
  return fmt::format("{} {}", ranks.size() == 1 ? "rank" : "ranks", fmt::join(ranks, ", "));
}

void fail_mismatch(int my_rank, std::span<const Callers> all) {
  const uint64_t sequence = all.front().call.signature.sequence;
  const bool one_sequence = std::all_of(all.begin(), all.end(), [&](const Callers& callers) {
    return callers.call.signature.sequence == sequence;
  });
  std::vector<Callers> groups;
  for (const Callers& callers : all) {
    auto group = std::find_if(groups.begin(), groups.end(), [&](const Callers& known) {
      return known.call.signature == callers.call.signature;
    });
    if (group == groups.end()) {
      groups.push_back(callers);
    } else {
      group->ranks.insert(group->ranks.end(), callers.ranks.begin(), callers.ranks.end());
    }
  }
  const auto without_step = [](Call call) {
    call.label.step = -1;
    return call.str();
  };
  std::string message;
  for (const Callers& group : groups) {
    message += fmt::format("{}{} {} {}", message.empty() ? "" : "; ", name_ranks(group.ranks),
                           group.ranks.size() == 1 ? "calls" : "call", group.call.str());
    if (!one_sequence) message += fmt::format(" as call {}", group.call.signature.sequence);
    // The difference may lie in names that the words have no room for.
    const bool alike = std::count_if(groups.begin(), groups.end(), [&](const Callers& other) {
                         return without_step(other.call) == without_step(group.call);
                       }) > 1;
    if (alike) message += fmt::format(" [hash {:016x}]", group.call.signature.label_hash);
  }
  fail<DistributedError>(
      "[rank {}] collectives do not match{}: {}. Every rank must issue the same collectives in the "
      "same order",
      my_rank, one_sequence ? fmt::format(" in call {}", sequence) : "", message);
}

void check_arguments(const Collective& c, int rank, int size) {
  const auto name = name_of(c.kind);
  for (const Buffer* buffer : {&c.in, &c.out}) {
    check(buffer->count >= 0, "[{}] a buffer has {} elements", name, buffer->count);
    check(buffer->data != nullptr || buffer->count == 0, "[{}] a buffer of {} elements is null",
          name, buffer->count);
  }
  check(c.in.dtype == c.out.dtype, "[{}] in is {}, out is {}", name, lockstep::name_of(c.in.dtype),
        lockstep::name_of(c.out.dtype));
  check(c.in.device == c.out.device, "[{}] in is on {}, out is on {}", name, c.in.device.str(),
        c.out.device.str());
  switch (c.kind) {
    case CollectiveKind::kBroadcast:
      check(c.root >= 0 && c.root < size, "[{}] root {} is not one of {} ranks", name, c.root,
            size);
      break;
    case CollectiveKind::kReduceScatter:
      check(c.in.count == size * c.out.count, "[{}] in has {} elements, out {}; {} ranks need {}",
            name, c.in.count, c.out.count, size, size * c.out.count);
      check(!overlap(c.in, c.out) || c.out.data == part(c.in, rank, size),
            "[{}] out overlaps in without being part {} of it", name, rank);
      break;
    case CollectiveKind::kAllGather:
      check(c.out.count == size * c.in.count, "[{}] in has {} elements, out {}; {} ranks need {}",
            name, c.in.count, c.out.count, size, size * c.in.count);
      check(!overlap(c.in, c.out) || c.in.data == part(c.out, rank, size),
            "[{}] in overlaps out without being part {} of it", name, rank);
      break;
    case CollectiveKind::kAllToAll:
      check(c.in.count == c.out.count && c.in.count % size == 0,
            "[{}] in has {} elements, out {}; they must be equal and divisible by {} ranks", name,
            c.in.count, c.out.count, size);
      check(!overlap(c.in, c.out), "[{}] in and out overlap", name);
      break;
    case CollectiveKind::kCanonicalSum:
      check(c.plan && c.plan->ranks() == size, "[{}] a plan for {} ranks in a group of {}", name,
            c.plan ? c.plan->ranks() : 0, size);
      check(c.in.count % c.plan->slots() == 0, "[{}] {} elements are not {} slots of equal length",
            name, c.in.count, c.plan->slots());
      check(c.in.dtype == DType::kFloat32 || c.in.dtype == DType::kFloat64,
            "[{}] float32 and float64 are supported, not {}", name, lockstep::name_of(c.in.dtype));
      break;
    default:
      break;
  }
  check(!reduces(c.kind) || c.op != ReduceOp::kSum || c.in.dtype != DType::kBool,
        "[{}] bool has no sum; use min or max", name);
}

void copy_in_to_out(const Collective& c) {
  if (c.in.count == 0 || c.in.data == c.out.data) return;
  if (c.in.device.is_cpu()) {
    std::memcpy(c.out.data, c.in.data, c.in.bytes());
    return;
  }
  const autograd::NoGrad no_grad;
  const Dims sizes = {static_cast<int64_t>(c.in.bytes())};
  from_memory(c.out.data, sizes, DType::kUInt8, nullptr, c.out.device)
      .copy_(from_memory(c.in.data, sizes, DType::kUInt8, nullptr, c.in.device));
}

}  // namespace lockstep::distributed
