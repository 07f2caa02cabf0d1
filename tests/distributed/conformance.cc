#include "conformance.h"

#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <thread>

#include <gtest/gtest.h>
#include <unistd.h>

#include "lockstep/distributed/canonical_sum.h"
#include "lockstep/engine/tensor/error.h"

namespace lockstep::distributed::testing {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

template <typename T>
Buffer buffer_of(T* data, int64_t count) {
  return {data, count, kDTypeOf<T>, Device{}};
}
template <typename T>
Buffer buffer_of(std::vector<T>& values) {
  return buffer_of(values.data(), static_cast<int64_t>(values.size()));
}

template <typename T>
inline constexpr bool kIsHalf = std::is_same_v<T, BFloat16> || std::is_same_v<T, Float16>;
template <typename T>
using Wide = std::conditional_t<kIsHalf<T>, float, T>;

// Small whole numbers: exact in every dtype, also when eight of them are added.
template <typename T>
T whole(int rank, int64_t i) {
  const int64_t value = (int64_t{rank} * 31 + i * 7) % 11 - (std::is_same_v<T, uint8_t> ? 0 : 5);
  return static_cast<T>(static_cast<Wide<T>>(value));
}

// Numbers whose sum depends on the order of addition.
template <typename T>
T uneven(int rank, int64_t i) {
  uint64_t x = static_cast<uint64_t>(rank + 1) * 0x9e3779b97f4a7c15u +
               static_cast<uint64_t>(i + 1) * 0xbf58476d1ce4e5b9u;
  x ^= x >> 31;
  x *= 0x94d049bb133111ebu;
  x ^= x >> 29;
  constexpr double kScales[] = {0x1p-6, 0x1p-4, 0x1p-2, 1, 2, 0x1p3, 0x1p5, 0x1p6};
  const double unit = static_cast<double>(x >> 11) * 0x1p-53 - 0.5;
  return static_cast<T>(static_cast<Wide<T>>(unit * kScales[x % 8]));
}

template <typename T>
using Value = T (*)(int rank, int64_t i);

// Of each rank whether a node begins with it. Hosts are told apart by name.
std::vector<bool> first_of_node(ProcessGroup& group) {
  std::vector<bool> first(static_cast<size_t>(group.size()));
  if (group.name() != "mpi") return first;
  constexpr size_t kName = 64;
  std::array<char, kName> mine{};
  gethostname(mine.data(), kName - 1);
  std::vector<char> names(kName * first.size());
  group
      .all_gather({names.data(), static_cast<int64_t>(names.size()), DType::kUInt8, Device{}},
                  {mine.data(), static_cast<int64_t>(kName), DType::kUInt8, Device{}})
      .wait();
  const char* const text = std::getenv("LOCKSTEP_RANKS_PER_NODE");
  const int per_node = text != nullptr ? std::atoi(text) : 0;
  int on_host = 0;
  for (size_t r = 1; r < first.size(); ++r) {
    const char* const name = names.data() + r * kName;
    const bool new_host = std::strncmp(name, name - kName, kName) != 0;
    on_host = new_host ? 0 : on_host + 1;
    first[r] = new_host || (per_node > 0 && on_host % per_node == 0);
  }
  return first;
}

// The definition: one after the other, in rank order, 16-bit floats in float32; `rounded` says
// before which ranks those are rounded.
template <typename T>
T reduced(Value<T> value, ReduceOp op, int size, int64_t i, const std::vector<bool>& rounded = {}) {
  auto result = static_cast<Wide<T>>(value(0, i));
  for (int r = 1; r < size; ++r) {
    if (!rounded.empty() && rounded[static_cast<size_t>(r)]) {
      result = static_cast<Wide<T>>(static_cast<T>(result));
    }
    const auto next = static_cast<Wide<T>>(value(r, i));
    if (op == ReduceOp::kSum) result = static_cast<Wide<T>>(result + next);
    if (op == ReduceOp::kMin) result = std::min(result, next);
    if (op == ReduceOp::kMax) result = std::max(result, next);
  }
  return static_cast<T>(result);
}

template <typename T>
bool same_bits(const T& a, const T& b) {
  return std::memcmp(&a, &b, sizeof(T)) == 0;  // NOLINT(bugprone-suspicious-memory-comparison)
}
template <typename T>
std::string show(const T& value) {
  return std::to_string(static_cast<Wide<T>>(value));
}

template <typename T, typename Expected>
void expect_values(const T* data, int64_t count, const std::string& what, Expected expected) {
  int64_t wrong = 0;
  int64_t first = -1;
  for (int64_t i = 0; i < count; ++i) {
    if (same_bits(data[i], expected(i))) continue;
    if (wrong++ == 0) first = i;
  }
  EXPECT_EQ(wrong, 0) << what << ": " << wrong << " of " << count << " are wrong; element " << first
                      << " is " << show(data[first]) << " instead of " << show(expected(first));
}

template <typename Body>
void for_all_dtypes(Body body) {
  body.template operator()<float>();
  body.template operator()<double>();
  body.template operator()<BFloat16>();
  body.template operator()<Float16>();
  body.template operator()<int64_t>();
  body.template operator()<int32_t>();
  body.template operator()<uint8_t>();
}

// More than a staging area holds. Only mpi has one, and sanitizers have less patience.
int64_t long_count(const ProcessGroup& group) { return group.name() != "mpi" ? 5003 : 70001; }
int64_t long_part(const ProcessGroup& group) { return group.name() != "mpi" ? 1031 : 20011; }

constexpr ReduceOp kOps[] = {ReduceOp::kSum, ReduceOp::kMin, ReduceOp::kMax};

enum class Place { kOwn, kGroup, kShifted, kMixed };
constexpr Place kPlaces[] = {Place::kOwn, Place::kGroup, Place::kShifted, Place::kMixed};

// Space for `count` elements: the rank's own memory, the group's, the group's at an offset that
// differs from rank to rank, or own memory on rank 0 only.
template <typename T>
class Space {
 public:
  Space(ProcessGroup& group, int64_t count, Place place) {
    const int64_t shift = place == Place::kShifted ? group.rank() * 16 + 1 : 0;
    const int64_t room = count + (place == Place::kShifted ? group.size() * 16 + 1 : 0);
    if (place != Place::kOwn) {
      memory_ = group.allocate(static_cast<size_t>(room) * sizeof(T), Device{});
    }
    const bool own = place == Place::kOwn || (place == Place::kMixed && group.rank() == 0);
    if (own) own_.resize(static_cast<size_t>(count) + 1);
    data_ = own ? own_.data() : static_cast<T*>(memory_->data()) + shift;
  }
  T* data() { return data_; }

 private:
  std::shared_ptr<Memory> memory_;
  std::vector<T> own_;
  T* data_;
};

template <typename T>
void check_all_reduce(ProcessGroup& group, Value<T> value, ReduceOp op, int64_t count, T* data,
                      Launch launch = Launch::kAsync, const std::vector<bool>& rounded = {}) {
  for (int64_t i = 0; i < count; ++i) data[i] = value(group.rank(), i);
  group.all_reduce(buffer_of(data, count), op, launch).wait();
  expect_values(data, count, std::string(name_of(kDTypeOf<T>)),
                [&](int64_t i) { return reduced<T>(value, op, group.size(), i, rounded); });
}

void all_reduce_values(ProcessGroup& group) {
  for_all_dtypes([&]<typename T>() {
    for (const Place place : kPlaces) {
      Space<T> space(group, 4097, place);
      for (const int64_t count : {0, 1, 3, 17, 511, 1025, 4097}) {
        for (const ReduceOp op : kOps) {
          check_all_reduce<T>(group, whole<T>, op, count, space.data());
        }
      }
    }
  });
}

// 16-bit floats are rounded once, and where they go on to another node.
void all_reduce_in_rank_order(ProcessGroup& group) {
  const int64_t kLong = long_count(group);
  const std::vector<bool> nodes = first_of_node(group);
  const auto check = [&]<typename T>() {
    for (const Place place : kPlaces) {
      Space<T> space(group, kLong, place);
      // None, single, odd ones, around the limits of blocks and of copies.
      for (const int64_t count :
           {int64_t{0}, int64_t{1}, int64_t{3}, int64_t{17}, int64_t{511}, int64_t{1023},
            int64_t{1025}, int64_t{4097}, kLong - 463, kLong}) {
        check_all_reduce<T>(group, uneven<T>, ReduceOp::kSum, count, space.data(), Launch::kAsync,
                            nodes);
      }
      check_all_reduce<T>(group, uneven<T>, ReduceOp::kSum, kLong, space.data(), Launch::kBlocking,
                          nodes);
    }
  };
  check.operator()<float>();
  check.operator()<double>();
  check.operator()<BFloat16>();
  check.operator()<Float16>();
}

void all_reduce_large(ProcessGroup& group) {
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
  const int64_t bytes = 1 << 20;
#else
  const int64_t bytes = group.size() <= 2 ? 64 << 20 : 6 << 20;
#endif
  const int64_t count = bytes / static_cast<int64_t>(sizeof(float)) + 5;
  for (const Place place : {Place::kGroup, Place::kOwn}) {
    Space<float> space(group, count, place);
    check_all_reduce<float>(group, whole<float>, ReduceOp::kSum, count, space.data());
  }
}

// The sum over the leaves of a perfect binary tree, whoever holds them.
void canonical_sum_values(ProcessGroup& group) {
  const auto fewest = static_cast<int64_t>(std::bit_ceil(static_cast<unsigned>(group.size())));
  const auto check = [&]<typename T>() {
    for (const int64_t leaves : {fewest, int64_t{16}}) {
      const auto plan = std::make_shared<const CanonicalPlan>(leaves, group.size());
      const auto& share = plan->share(group.rank());
      // The last one is more than what travels between nodes at a time.
      const int64_t longest = group.name() != "mpi" ? 5003 : 300007;
      const auto memory =
          group.allocate(static_cast<size_t>(plan->slots() * longest) * sizeof(T), Device{});
      auto* const slots = static_cast<T*>(memory->data());
      for (const int64_t count :
           {int64_t{0}, int64_t{1}, int64_t{3}, int64_t{17}, int64_t{1025}, longest}) {
        for (size_t k = 0; k < share.leaves.size(); ++k) {
          const int leaf = static_cast<int>(share.range.begin) + static_cast<int>(k);
          T* const slot = slots + share.leaves[k].slot * count;
          for (int64_t i = 0; i < count; ++i) {
            const T term = uneven<T>(leaf, i);
            slot[i] = share.leaves[k].adds ? slot[i] + term : term;
          }
          for (const auto& [to, from] : share.leaves[k].additions) {
            for (int64_t i = 0; i < count; ++i) slots[to * count + i] += slots[from * count + i];
          }
        }
        group.canonical_sum(buffer_of(slots, plan->slots() * count), plan).wait();
        expect_values(slots, count, "canonical_sum", [&](int64_t i) {
          std::vector<T> terms;
          for (int64_t l = 0; l < leaves; ++l) terms.push_back(uneven<T>(static_cast<int>(l), i));
          for (size_t n = terms.size(); n > 1; n /= 2) {
            for (size_t t = 0; t < n / 2; ++t) terms[t] = terms[2 * t] + terms[2 * t + 1];
          }
          return terms[0];
        });
      }
    }
  };
  check.template operator()<float>();
  check.template operator()<double>();
}

void min_and_max_keep_nan(ProcessGroup& group) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (int where = 0; where < group.size(); ++where) {
    for (const ReduceOp op : {ReduceOp::kMin, ReduceOp::kMax}) {
      std::vector<float> values(5000, static_cast<float>(group.rank()));
      if (group.rank() == where) values[4321] = nan;
      group.all_reduce(buffer_of(values), op).wait();
      EXPECT_TRUE(std::isnan(values[4321])) << "NaN on rank " << where;
      EXPECT_EQ(values[0], op == ReduceOp::kMin ? 0.0f : static_cast<float>(group.size() - 1));
    }
  }
}

void broadcast_values(ProcessGroup& group) {
  const int64_t kLong = long_count(group);
  for_all_dtypes([&]<typename T>() {
    for (const Place place : kPlaces) {
      Space<T> space(group, kLong, place);
      for (int root = 0; root < group.size(); ++root) {
        for (const int64_t count : {int64_t{0}, int64_t{1}, int64_t{1025}, int64_t{kLong}}) {
          for (int64_t i = 0; i < count; ++i) space.data()[i] = uneven<T>(group.rank(), i);
          group.broadcast(buffer_of(space.data(), count), root).wait();
          expect_values(space.data(), count, "broadcast",
                        [&](int64_t i) { return uneven<T>(root, i); });
        }
      }
    }
  });
}

void reduce_scatter_values(ProcessGroup& group) {
  const int64_t kPart = long_part(group);
  for_all_dtypes([&]<typename T>() {
    for (const Place place : kPlaces) {
      Space<T> in(group, kPart * group.size(), place);
      Space<T> out(group, kPart, Place::kOwn);
      for (const int64_t part : {int64_t{0}, int64_t{1}, int64_t{7}, int64_t{1025}, kPart}) {
        for (const bool in_place : {false, true}) {
          const ReduceOp op = part == 7 ? ReduceOp::kMax : ReduceOp::kSum;
          const int64_t begin = part * group.rank();
          for (int64_t i = 0; i < part * group.size(); ++i) {
            in.data()[i] = uneven<T>(group.rank(), i);
            if constexpr (std::is_integral_v<T>) in.data()[i] = whole<T>(group.rank(), i);
          }
          T* const to = in_place ? in.data() + begin : out.data();
          group.reduce_scatter(buffer_of(to, part), buffer_of(in.data(), part * group.size()), op)
              .wait();
          const Value<T> value = std::is_integral_v<T> ? whole<T> : uneven<T>;
          expect_values(to, part, "reduce_scatter",
                        [&](int64_t i) { return reduced<T>(value, op, group.size(), begin + i); });
        }
      }
    }
  });
}

void all_gather_values(ProcessGroup& group) {
  const int64_t kPart = long_part(group);
  for_all_dtypes([&]<typename T>() {
    for (const Place place : kPlaces) {
      Space<T> in(group, kPart, place);
      Space<T> out(group, kPart * group.size(), place);
      for (const int64_t part : {int64_t{0}, int64_t{1}, int64_t{7}, int64_t{1025}, kPart}) {
        for (const bool in_place : {false, true}) {
          T* const from = in_place ? out.data() + part * group.rank() : in.data();
          for (int64_t i = 0; i < part; ++i) from[i] = uneven<T>(group.rank(), i);
          group.all_gather(buffer_of(out.data(), part * group.size()), buffer_of(from, part))
              .wait();
          expect_values(out.data(), part * group.size(), "all_gather",
                        [&](int64_t i) { return uneven<T>(static_cast<int>(i / part), i % part); });
        }
      }
    }
  });
}

void all_to_all_values(ProcessGroup& group) {
  const int64_t kPart = long_part(group);
  for_all_dtypes([&]<typename T>() {
    for (const Place place : kPlaces) {
      Space<T> in(group, kPart * group.size(), place);
      Space<T> out(group, kPart * group.size(), place);
      for (const int64_t part : {int64_t{0}, int64_t{1}, int64_t{7}, int64_t{1025}, kPart}) {
        const int64_t count = part * group.size();
        for (int64_t i = 0; i < count; ++i) in.data()[i] = uneven<T>(group.rank(), i);
        group.all_to_all(buffer_of(out.data(), count), buffer_of(in.data(), count)).wait();
        expect_values(out.data(), count, "all_to_all", [&](int64_t i) {
          return uneven<T>(static_cast<int>(i / part), part * group.rank() + i % part);
        });
      }
    }
  });
}

// Nobody leaves a barrier before the last has come. The steady clock is one for all ranks here.
void barrier_waits_for_all(ProcessGroup& group) {
  for (int late = 0; late < group.size(); ++late) {
    for (const Launch launch : {Launch::kAsync, Launch::kBlocking}) {
      if (group.rank() == late) std::this_thread::sleep_for(milliseconds(20));
      int64_t came = Clock::now().time_since_epoch().count();
      group.barrier(launch).wait();
      const int64_t left = Clock::now().time_since_epoch().count();
      group.all_reduce(buffer_of(&came, 1), ReduceOp::kMax).wait();
      EXPECT_GE(left, came);
    }
  }
}

void many_in_flight(ProcessGroup& group) {
  constexpr int kCalls = 300;
  const auto memory = group.allocate(kCalls * 512 * sizeof(float), Device{});
  std::vector<std::vector<float>> own;
  std::vector<float*> data;
  std::vector<int64_t> counts;
  for (int c = 0; c < kCalls; ++c) {
    own.emplace_back(5000);
    counts.push_back(c % 2 == 0 ? 512 : c * 16);
    data.push_back(c % 2 == 0 ? static_cast<float*>(memory->data()) + c * 512 : own.back().data());
    for (int64_t i = 0; i < counts.back(); ++i) data.back()[i] = uneven<float>(group.rank(), i + c);
  }
  std::vector<Work> works;
  for (int c = 0; c < kCalls; ++c) {
    const auto at = static_cast<size_t>(c);
    const Buffer buffer = buffer_of(data[at], counts[at]);
    works.push_back(c % 3 == 0 ? group.broadcast(buffer, c % group.size())
                               : group.all_reduce(buffer));
  }
  for (size_t c = works.size(); c-- > 0;) works[c].wait();
  for (int c = 0; c < kCalls; ++c) {
    const auto at = static_cast<size_t>(c);
    expect_values(data[at], counts[at], "call " + std::to_string(c), [&](int64_t i) {
      if (c % 3 == 0) return uneven<float>(c % group.size(), i + c);
      return reduced<float>(uneven<float>, ReduceOp::kSum, group.size(), i + c);
    });
  }
  Clock::time_point before{};
  for (const Work& work : works) {  // in order, each within its own times
    EXPECT_TRUE(work.is_completed());
    const Work::Times times = work.times();
    EXPECT_LE(times.launched, times.started);
    EXPECT_LE(times.started, times.finished);
    if (group.name() != "single") {
      EXPECT_LE(before, times.started);
      before = times.finished;
    }
  }
}

void launching_does_not_wait(ProcessGroup& group) {
  if (group.size() == 1) return;
  std::vector<float> values(100000, 1.0f);
  group.barrier(Launch::kBlocking);
  if (group.rank() == 0) std::this_thread::sleep_for(milliseconds(200));
  const auto before = Clock::now();
  const Work work = group.all_reduce(buffer_of(values));
  EXPECT_LT(Clock::now() - before, milliseconds(100));
  if (group.rank() != 0) {
    EXPECT_FALSE(work.is_completed());
  }
  Work(work).wait();
  EXPECT_TRUE(work.is_completed());
  EXPECT_EQ(values[99999], static_cast<float>(group.size()));
}

void same_bits_every_time(ProcessGroup& group) {
  constexpr int64_t kCount = 30011;
  const auto memory = group.allocate(kCount * sizeof(float), Device{});
  auto* const data = static_cast<float*>(memory->data());
  std::vector<float> first;
  for (int run = 0; run < 5; ++run) {
    for (int64_t i = 0; i < kCount; ++i) data[i] = uneven<float>(group.rank(), i);
    group.all_reduce(buffer_of(data, kCount)).wait();
    if (run == 0) first.assign(data, data + kCount);
    // NOLINTNEXTLINE(bugprone-suspicious-memory-comparison): bits are the point
    EXPECT_EQ(std::memcmp(first.data(), data, kCount * sizeof(float)), 0) << "run " << run;
  }
  std::vector<float> all(static_cast<size_t>(kCount * group.size()));
  group.all_gather(buffer_of(all), buffer_of(first)).wait();
  for (int r = 0; r < group.size(); ++r) {
    // NOLINTNEXTLINE(bugprone-suspicious-memory-comparison)
    EXPECT_EQ(std::memcmp(first.data(), all.data() + r * kCount, kCount * sizeof(float)), 0)
        << "rank " << r;
  }
}

void memory_is_zeroed_and_apart(ProcessGroup& group) {
  const auto a = group.allocate(12345, Device{});
  const auto b = group.allocate(0, Device{});
  const auto c = group.allocate(4096, Device{});
  EXPECT_EQ(a->bytes(), 12345u);
  EXPECT_EQ(b->bytes(), 0u);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(a->data()) % 64, 0u);
  const auto* bytes = static_cast<const unsigned char*>(a->data());
  for (size_t i = 0; i < a->bytes(); ++i) ASSERT_EQ(bytes[i], 0) << i;
  std::memset(a->data(), group.rank() + 1, a->bytes());
  group.barrier().wait();
  for (size_t i = 0; i < a->bytes(); ++i) ASSERT_EQ(bytes[i], group.rank() + 1) << i;
  group.barrier().wait();
}

void wrong_arguments_are_refused(ProcessGroup& group) {
  std::vector<float> values(static_cast<size_t>(4 * group.size()));
  std::vector<float> more(static_cast<size_t>(4 * group.size()));
  std::vector<double> doubles(values.size());
  const Buffer buffer = buffer_of(values);
  EXPECT_THROW(group.broadcast(buffer, group.size()), ValueError);
  EXPECT_THROW(group.broadcast(buffer, -1), ValueError);
  EXPECT_THROW(group.all_reduce({nullptr, 4, DType::kFloat32, Device{}}), ValueError);
  EXPECT_THROW(group.all_reduce({values.data(), -4, DType::kFloat32, Device{}}), ValueError);
  EXPECT_THROW(group.all_reduce({values.data(), 4, DType::kBool, Device{}}), ValueError);
  if (group.name() != "single") {  // which serves every device
    EXPECT_THROW(group.all_reduce({values.data(), 4, DType::kFloat32, Device::parse("cuda")}),
                 ValueError);
  }
  EXPECT_THROW(group.all_to_all(buffer_of(more), buffer_of(doubles)), ValueError);
  const auto foreign = std::make_shared<const CanonicalPlan>(32, group.size() + 1);
  EXPECT_THROW(group.canonical_sum(buffer, foreign), ValueError);
  EXPECT_THROW(group.canonical_sum(buffer, nullptr), ValueError);
  const auto plan = std::make_shared<const CanonicalPlan>(32, group.size());
  EXPECT_THROW(group.canonical_sum(buffer_of(values.data(), 2 * plan->slots() - 1), plan),
               ValueError);
  const int64_t whole_slots = plan->slots();
  EXPECT_THROW(group.canonical_sum({values.data(), whole_slots, DType::kInt32, Device{}}, plan),
               ValueError);
  EXPECT_THROW(group.all_to_all(buffer, buffer), ValueError);
  EXPECT_THROW(group.all_gather(buffer_of(more), buffer_of(values.data(), 5)), ValueError);
  EXPECT_THROW(group.reduce_scatter(buffer_of(more.data(), 5), buffer), ValueError);
  EXPECT_THROW(group.reduce_scatter(buffer_of(values.data() + 4 * group.rank() + 1, 4), buffer),
               ValueError);
  // Nothing was sent: the group still works.
  check_all_reduce<float>(group, whole<float>, ReduceOp::kSum, 4, values.data());
}

void expect_over(ProcessGroup& group, const std::string& part) {
  float value = 0;
  EXPECT_NE(error_of([&] { group.all_reduce(buffer_of(&value, 1)).wait(); }).find(part),
            std::string::npos);
  EXPECT_NE(error_of([&] { group.barrier(Launch::kBlocking).wait(); }).find(part),
            std::string::npos);
  EXPECT_NE(error_of([&] { group.allocate(8, Device{}); }).find(part), std::string::npos);
  group.abort("another reason");  // changes nothing
  EXPECT_NE(error_of([&] { group.barrier().wait(); }).find(part), std::string::npos);
}

void abort_reaches_waiting_ranks(ProcessGroup& group) {
  std::vector<float> values(200000, 1.0f);
  group.all_reduce(buffer_of(values)).wait();
  const int last = group.size() - 1;
  const std::string text = "[rank " + std::to_string(last) + "] aborted: out of cheese";
  if (group.rank() == last) {
    std::this_thread::sleep_for(milliseconds(100));
    group.abort("out of cheese");
  } else {
    const auto before = Clock::now();
    Work first = group.all_reduce(buffer_of(values));
    Work second = group.barrier();
    EXPECT_EQ(error_of([&] { first.wait(); }), text);
    EXPECT_EQ(error_of([&] { second.wait(); }), text);
    EXPECT_LT(Clock::now() - before, milliseconds(1500));
  }
  expect_over(group, text);
}

// Both sides are named on every rank, whoever notices first.
void expect_mismatch(ProcessGroup& group, const std::string& one, const std::string& other,
                     const std::function<void()>& body) {
  const std::string text = error_of(body);
  EXPECT_NE(text.find(one), std::string::npos) << text;
  EXPECT_NE(text.find(other), std::string::npos) << text;
  EXPECT_NE(text.find("[rank "), std::string::npos) << text;
  expect_over(group, "do not match");
}

void different_counts(ProcessGroup& group) {
  std::vector<float> values(6000);
  const int64_t count = group.rank() == 0 ? 5000 : 6000;
  expect_mismatch(group, "all_reduce(sum) of 5000 float32", "all_reduce(sum) of 6000 float32",
                  [&] { group.all_reduce(buffer_of(values.data(), count)).wait(); });
}
void different_dtypes(ProcessGroup& group) {
  std::vector<double> values(10);
  expect_mismatch(group, "10 int64", "10 float64", [&] {
    group
        .all_reduce(
            {values.data(), 10, group.rank() == 0 ? DType::kInt64 : DType::kFloat64, Device{}})
        .wait();
  });
}
void different_ops(ProcessGroup& group) {
  std::vector<float> values(10);
  expect_mismatch(group, "all_reduce(min)", "all_reduce(max)", [&] {
    group.all_reduce(buffer_of(values), group.rank() == 0 ? ReduceOp::kMin : ReduceOp::kMax).wait();
  });
}
void different_trees(ProcessGroup& group) {
  const bool last = group.rank() == group.size() - 1;
  const auto plan = std::make_shared<const CanonicalPlan>(last ? 64 : 32, group.size());
  const auto memory = group.allocate(100000, Device{});
  auto* const slots = static_cast<float*>(memory->data());
  expect_mismatch(group, "over 32 leaves", "over 64 leaves", [&] {
    group.canonical_sum(buffer_of(slots, plan->slots() * int64_t{1000}), plan).wait();
  });
}
void different_collectives(ProcessGroup& group) {
  std::vector<float> values(10);
  const bool last = group.rank() == group.size() - 1;
  expect_mismatch(group, "broadcast of 10 float32 from rank 0", "barrier",
                  [&] { (last ? group.barrier() : group.broadcast(buffer_of(values), 0)).wait(); });
}
// A group over NCCL has made some calls before.
int first_call(const ProcessGroup& group) { return group.name() == "nccl" ? 4 : 1; }
// "rank 1" or "ranks 0, 2" without the last rank of the group.
std::string all_but_last(const ProcessGroup& group) {
  std::string text = group.size() == 2 ? "rank 0" : "ranks 0";
  for (int r = 1; r + 1 < group.size(); ++r) text += ", " + std::to_string(r);
  return text;
}
void different_labels(ProcessGroup& group) {
  std::vector<float> values(10);
  const int last = group.size() - 1;
  const std::vector<std::string> names{"fc.weight", "fc.bias"};
  const std::vector<std::string> others{"conv.weight", "a", "fc.bias"};
  const Label label(3, group.rank() == last ? others : names, 1);
  group.set_activity(Phase::kBackward, 12);
  const auto calls = [&](const std::string& ranks, const char* verb, const char* contents) {
    return ranks + verb + "all_reduce(sum) of 10 float32 (step 12, bucket 3: " + contents + ")";
  };
  expect_mismatch(
      group,
      calls(all_but_last(group), group.size() == 2 ? " calls " : " call ", "fc.weight, fc.bias"),
      calls("rank " + std::to_string(last), " calls ", "conv.weight ... fc.bias"), [&] {
        const ProcessGroup::LabelScope scope(group, label);
        group.all_reduce(buffer_of(values)).wait();
      });
}
// Which names are left out of the words does not matter; nor does the step.
void labels_are_compared_whole(ProcessGroup& group) {
  std::vector<float> values(10);
  const std::vector<std::string> names{"a", group.rank() == 0 ? "b" : "x", "c"};
  group.set_activity(Phase::kStep, group.rank());
  group.all_reduce(buffer_of(values)).wait();
  const ProcessGroup::LabelScope scope(group, Label(0, names, 1));
  expect_mismatch(group, "bucket 0: a ... c) [hash", "rank 0 calls",
                  [&] { group.all_reduce(buffer_of(values)).wait(); });
}
void a_call_too_many(ProcessGroup& group) {
  std::vector<float> values(10);
  const int last = group.size() - 1;
  group.all_reduce(buffer_of(values)).wait();
  expect_mismatch(
      group,
      "in call " + std::to_string(first_call(group) + 1) + ": " + all_but_last(group) + " call",
      "; rank " + std::to_string(last) + " calls all_reduce(max) of 5 float32", [&] {
        if (group.rank() == last) {
          group.all_reduce(buffer_of(values.data(), 5), ReduceOp::kMax).wait();
        }
        group.all_reduce(buffer_of(values)).wait();
      });
}
// The last rank does not come, and all others are told what it does instead.
void a_late_rank(ProcessGroup& group) {
  std::vector<float> values(10);
  const int last = group.size() - 1;
  const int first = first_call(group);
  std::atomic<int> told = 0;
  group.on_failure([&](const std::string&) { ++told; });
  group.set_timeout(milliseconds(300));
  group.set_activity(Phase::kData, 6);
  {
    const ProcessGroup::LabelScope scope(group, Label("buffers"));
    group.all_reduce(buffer_of(values)).wait();
  }
  group.barrier(Launch::kBlocking).wait();
  const std::string part = "rank " + std::to_string(last) + " has not arrived";
  std::string text;
  if (group.rank() == last) {
    // A thread of the group tells those who do not call.
    for (int i = 0; i < 500 && told == 0; ++i) std::this_thread::sleep_for(milliseconds(20));
    text = error_of([&] { group.barrier().wait(); });
  } else {
    group.set_activity(Phase::kStep, 6);
    text = error_of([&] { group.all_reduce(buffer_of(values)).wait(); });
    EXPECT_NE(text.find("it has been waiting for the data of step 6 for"), std::string::npos)
        << text;
    EXPECT_NE(text.find("its last call was " + std::to_string(first + 1) + ", barrier (step 6), "),
              std::string::npos)
        << text;
  }
  EXPECT_NE(text.find(part), std::string::npos) << text;
  EXPECT_NE(text.find("call " + std::to_string(first + 2) +
                      ", all_reduce(sum) of 10 float32 (step 6), has waited for"),
            std::string::npos)
      << text;
  for (int i = 0; i < 500 && told == 0; ++i) std::this_thread::sleep_for(milliseconds(20));
  EXPECT_EQ(told, 1);
  group.on_failure({});
  expect_over(group, part);
}

}  // namespace

std::string error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const DistributedError& error) {
    return error.what();
  }
  ADD_FAILURE() << "no DistributedError";
  return "";
}

const std::vector<Case>& conformance_cases() {
  static const std::vector<Case> cases{
      {"all_reduce_values", all_reduce_values},
      {"all_reduce_in_rank_order", all_reduce_in_rank_order},
      {"all_reduce_large", all_reduce_large},
      {"canonical_sum_values", canonical_sum_values},
      {"min_and_max_keep_nan", min_and_max_keep_nan},
      {"broadcast_values", broadcast_values},
      {"reduce_scatter_values", reduce_scatter_values},
      {"all_gather_values", all_gather_values},
      {"all_to_all_values", all_to_all_values},
      {"barrier_waits_for_all", barrier_waits_for_all},
      {"many_in_flight", many_in_flight},
      {"launching_does_not_wait", launching_does_not_wait},
      {"same_bits_every_time", same_bits_every_time},
      {"memory_is_zeroed_and_apart", memory_is_zeroed_and_apart},
      {"wrong_arguments_are_refused", wrong_arguments_are_refused},
  };
  return cases;
}

const std::vector<Case>& breaking_cases() {
  static const std::vector<Case> cases{
      {"abort_reaches_waiting_ranks", abort_reaches_waiting_ranks},
      {"different_counts", different_counts},
      {"different_dtypes", different_dtypes},
      {"different_ops", different_ops},
      {"different_trees", different_trees},
      {"different_collectives", different_collectives},
      {"different_labels", different_labels},
      {"labels_are_compared_whole", labels_are_compared_whole},
      {"a_call_too_many", a_call_too_many},
      {"a_late_rank", a_late_rank},
  };
  return cases;
}

}  // namespace lockstep::distributed::testing
