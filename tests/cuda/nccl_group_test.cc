// The NCCL group under mpirun, every rank with a device of its own. Without GPUs these are
// emulated, and so is NCCL (emulation/nccl.h), which then can be told to fail.
#include "lockstep/distributed/nccl_group.h"

#include <cstdlib>
#include <cstring>
#include <mutex>
#include <optional>
#include <thread>

#include <gtest/gtest.h>

#include "lockstep/distributed/data_parallel.h"
#include "lockstep/distributed/mpi_group.h"
#include "lockstep/distributed/mpi_runtime.h"
#include "lockstep/engine/ops/ops.h"
#include "lockstep/engine/plugin.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/engine/tensor/random.h"
#include "lockstep/nn/nn.h"
#include "lockstep/optim/sgd.h"

#include "distributed/conformance.h"
#include "host_face.h"
#include "training.h"

namespace lockstep::distributed::testing {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;
using Values = std::vector<double>;
using Group = std::shared_ptr<ProcessGroup>;

bool is_emulated() { return std::getenv("LOCKSTEP_CUDA_PLUGIN") != nullptr; }

Device own_device() {
  const int devices = std::max(cuda_status().devices, 1);
  return {DeviceType::kCuda, static_cast<int16_t>(mpi_runtime::world_rank() % devices)};
}

Group make_host() {
  mpi_runtime::initialize();
  return make_mpi_group();
}
Group make(const NcclOptions& options = {}) {
  const Group host = make_host();
  return make_nccl_group(host, own_device(), options);
}

// The emulated NCCL's faults, for communicators that start while this lives.
class Faults {
 public:
  explicit Faults(const std::string& list) { setenv("LOCKSTEP_EMULATED_NCCL", list.c_str(), 1); }
  ~Faults() { unsetenv("LOCKSTEP_EMULATED_NCCL"); }
  Faults(const Faults&) = delete;
  Faults& operator=(const Faults&) = delete;
};
std::string on_all_ranks(const std::string& fault, const std::string& call) {
  std::string list;
  for (int r = 0; r < mpi_runtime::world_size(); ++r) {
    list += (r == 0 ? "" : ",") + fault + "@" + std::to_string(r) + call;
  }
  return list;
}

Buffer buffer_of(const Tensor& t) { return {t.data_ptr(), t.numel(), t.dtype(), t.device()}; }
Tensor on_gpu(const Values& values) {
  return from_span<double>(values, {std::ssize(values)}).to(own_device());
}

class NcclGroupCases : public ::testing::TestWithParam<Case> {};
TEST_P(NcclGroupCases, Conforms) {
  const Group group = make();
  EXPECT_EQ(group->name(), "nccl");
  EXPECT_EQ(group->size(), mpi_runtime::world_size());
  HostFace face(group, own_device());
  GetParam().run(face);
}
std::vector<Case> cheap_cases() {
  std::vector<Case> cases;
  for (const Case& one : conformance_cases()) {
    if (std::string(one.name) != "all_reduce_large") cases.push_back(one);
  }
  return cases;
}
const auto kName = [](const auto& info) { return std::string(info.param.name); };
INSTANTIATE_TEST_SUITE_P(All, NcclGroupCases, ::testing::ValuesIn(cheap_cases()), kName);

class BrokenNcclGroup : public ::testing::TestWithParam<Case> {};
TEST_P(BrokenNcclGroup, EndsEverywhere) {
  const Group group = make();
  HostFace face(group, own_device());
  GetParam().run(face);
  EXPECT_TRUE(group->wait_for_peers_to_fail(std::chrono::seconds(3)));
}
INSTANTIATE_TEST_SUITE_P(All, BrokenNcclGroup, ::testing::ValuesIn(breaking_cases()), kName);

// Tensors go to NCCL, host buffers through MPI, in one order.
TEST(NcclGroup, TakesBuffersOfBothKinds) {
  const Group group = make();
  const double ranks = group->size(), rank = group->rank();
  double value = rank + 1;
  const Tensor x = on_gpu({rank, 1});
  Work first = group->all_reduce(buffer_of(x));
  Work second = group->all_reduce({&value, 1, DType::kFloat64, Device{}});
  second.wait();
  first.wait();
  EXPECT_EQ(x.to_vector(), (Values{ranks * (ranks - 1) / 2, ranks}));
  EXPECT_EQ(value, ranks * (ranks + 1) / 2);
  EXPECT_TRUE(first.is_completed());
  const Work::Times times = first.times();
  EXPECT_LE(times.launched, times.started);
  EXPECT_LE(times.started, times.finished);
  EXPECT_LE(times.finished, Clock::now());

  const Group copy = group->duplicate();
  const Tensor y = on_gpu({1});
  copy->all_reduce(buffer_of(y), ReduceOp::kSum, Launch::kBlocking);
  EXPECT_EQ(y.to_vector(), Values{ranks});

  if (cuda_status().devices > 1) {
    const Device other{DeviceType::kCuda, static_cast<int16_t>(own_device().index == 0 ? 1 : 0)};
    const Tensor foreign = ones({2}, {DType::kFloat32, other});
    EXPECT_THROW(group->all_reduce(buffer_of(foreign)), ValueError);
    EXPECT_THROW(group->allocate(8, other), ValueError);
  }
}

// Whether NCCL can register memory or not: the same results, and a line that says why not.
TEST(NcclGroup, RegistersItsMemory) {
  struct Try {
    ReductionMode mode;
    const char* fault;
    const char* note;
  };
  const Try tries[] = {{ReductionMode::kFast, "", ""},
                       {ReductionMode::kFast, "windows", ""},
                       {ReductionMode::kFast, "buffers", "cannot be registered"},
                       {ReductionMode::kRepeatable, "", ""},
                       {ReductionMode::kBitwise, "buffers", "cannot be registered"}};
  mpi_runtime::initialize();
  for (const Try& one : tries) {
    std::optional<Faults> faults;
    if (*one.fault) {
      if (!is_emulated()) continue;
      faults.emplace(on_all_ranks(one.fault, ""));
    }
    std::string notes;
    std::shared_ptr<Memory> memory;
    {
      const Group group =
          make({.mode = one.mode, .log = [&](const std::string& line) { notes += line + "\n"; }});
      memory = group->allocate(4 * sizeof(float), own_device());
      const auto more = group->allocate(64, own_device());
      const Tensor all = from_memory(memory->data(), {4}, DType::kFloat32, memory, own_device());
      EXPECT_EQ(all.to_vector(), (Values{0, 0, 0, 0}));
      all.fill_(1.0);
      group->all_reduce(buffer_of(all)).wait();
      EXPECT_EQ(all.to_vector(), Values(4, group->size()));
    }
    if (is_emulated()) {
      EXPECT_NE(notes.find(one.note), std::string::npos) << notes;
      EXPECT_EQ(std::count(notes.begin(), notes.end(), '\n'), *one.note ? 1 : 0) << notes;
    }
    // The memory outlives the group.
    const Tensor all = from_memory(memory->data(), {4}, DType::kFloat32, memory, own_device());
    EXPECT_EQ(all.to_vector(), Values(4, mpi_runtime::world_size()));
  }
}

TEST(NcclGroup, SaysWhyThereCanBeNone) {
  const Group host = make_host();
  EXPECT_EQ(why_no_nccl(*host, own_device()), "");
  const std::string cpu = why_no_nccl(*host, host->rank() == 0 ? Device{} : own_device());
  EXPECT_EQ(cpu, "rank 0: NCCL is for GPUs, and this rank computes on the cpu");
  if (std::getenv("NCCL_HOSTID")) return;  // a GPU may then be shared
  const std::string shared = why_no_nccl(*host, Device{DeviceType::kCuda, 0});
  EXPECT_TRUE(shared.starts_with(host->size() == 2 ? "ranks 0, 1 share" : "ranks 0, 1, 2 share"))
      << shared;
  const std::string text = error_of([&] { make_nccl_group(host, Device{DeviceType::kCuda, 0}); });
  EXPECT_NE(text.find(shared), std::string::npos) << text;
  // Nothing has been broken.
  const Tensor x = on_gpu({1});
  make_nccl_group(host, own_device())->all_reduce(buffer_of(x)).wait();
  EXPECT_EQ(x.to_vector(), Values{static_cast<double>(host->size())});
}

// -- what goes wrong ends the group on every rank, within the timeout

class FailingNcclGroup : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!is_emulated()) GTEST_SKIP() << "NCCL itself cannot be told to fail";
    mpi_runtime::initialize();
  }
  static constexpr milliseconds kTimeout{400};
  static constexpr milliseconds kSoon{4000};

  // Every rank gets the same text, and gets it again.
  static void expect_end(const Group& group, const std::string& part,
                         const std::function<void()>& body) {
    const auto begin = Clock::now();
    const std::string text = error_of(body);
    EXPECT_NE(text.find(part), std::string::npos) << text;
    EXPECT_LT(Clock::now() - begin, kSoon);
    const Tensor x = on_gpu({1});
    EXPECT_NE(error_of([&] { group->all_reduce(buffer_of(x)).wait(); }).find(part),
              std::string::npos);
    EXPECT_NE(error_of([&] { group->allocate(8, own_device()); }).find(part), std::string::npos);
    double value = 1;
    EXPECT_NE(error_of([&] {
                group->all_reduce({&value, 1, DType::kFloat64, Device{}}).wait();
              }).find(part),
              std::string::npos);
    EXPECT_TRUE(group->wait_for_peers_to_fail(std::chrono::seconds(3)));
  }
};

// The device of every rank has begun a transfer that does not go on. Nobody's thread notices by
// itself: it may even wait for the device.
TEST_F(FailingNcclGroup, ATransferThatStandsStill) {
  const Faults faults(on_all_ranks("stall", ":1"));
  const Group group = make({.timeout = kTimeout});
  const Tensor x = on_gpu({1, 2});
  group->all_reduce(buffer_of(x)).wait();
  Work work = group->all_reduce(buffer_of(x));
  work.wait();  // for the device's stream, not for the device
  EXPECT_FALSE(work.is_completed());
  const auto begin = Clock::now();
  x.to_vector();  // until the watchdog has ended the transfer
  EXPECT_GE(Clock::now() - begin, kTimeout / 2);
  EXPECT_LT(Clock::now() - begin, kSoon);
  expect_end(group, ", all_reduce(sum) of 2 float64, has waited for",
             [&] { group->barrier().wait(); });
}

TEST_F(FailingNcclGroup, ACallThatIsNotTakenUp) {
  const Faults faults("stuck@1:0");
  const Group group = make({.timeout = kTimeout});
  const Tensor x = on_gpu({1});
  expect_end(group, "has not been taken up for", [&] { group->all_reduce(buffer_of(x)).wait(); });
}

TEST_F(FailingNcclGroup, AnErrorThatNcclFinds) {
  const Faults faults("error@1:0");
  const Group group = make();
  const Tensor x = on_gpu({1});
  expect_end(group, "the network is down", [&] {
    for (int i = 0; i < 1000; ++i) {
      group->all_reduce(buffer_of(x)).wait();
      std::this_thread::sleep_for(milliseconds(1));
    }
  });
}

TEST_F(FailingNcclGroup, AbortEndsWhatTheDeviceDoes) {
  const Faults faults(on_all_ranks("stall", ":0"));
  const Group group = make();
  const Tensor x = on_gpu({1});
  Work work = group->all_reduce(buffer_of(x));
  work.wait();
  const int last = group->size() - 1;
  std::thread aborter;
  if (group->rank() == last) {
    aborter = std::thread([&] {
      std::this_thread::sleep_for(milliseconds(50));
      group->abort("enough");
    });
  }
  x.to_vector();  // hangs until then
  if (aborter.joinable()) aborter.join();
  expect_end(group, "[rank " + std::to_string(last) + "] aborted: enough",
             [&] { group->barrier().wait(); });
}

TEST_F(FailingNcclGroup, AStartThatFails) {
  for (const auto& [fault, part] :
       {std::pair{"refuse@1", "no sockets left"}, std::pair{"join@1", "has not been taken up"}}) {
    const Faults faults(fault);
    const Group host = make_host();
    const auto begin = Clock::now();
    const std::string text =
        error_of([&] { make_nccl_group(host, own_device(), {.timeout = kTimeout}); });
    EXPECT_NE(text.find(part), std::string::npos) << text;
    EXPECT_LT(Clock::now() - begin, kSoon);
    EXPECT_TRUE(host->wait_for_peers_to_fail(std::chrono::seconds(3)));
  }
}

TEST_F(FailingNcclGroup, ARankThatLeavesEarly) {
  Group group = make();
  const Tensor x = on_gpu({1});
  group->all_reduce(buffer_of(x)).wait();
  if (group->rank() == group->size() - 1) {
    group = nullptr;
  } else {
    const std::string text = error_of([&] { group->all_reduce(buffer_of(x)).wait(); });
    EXPECT_NE(text.find("has destroyed its process group"), std::string::npos) << text;
  }
}

// -- training

TEST(NcclGroup, BitwiseIsTheSameOnOneRankAndSeveral) {
  const Group group = make({.mode = ReductionMode::kBitwise});
  const Values expected = after_training(make_single_group(), own_device());
  ASSERT_GT(expected.size(), 40u);
  EXPECT_EQ(after_training(group, own_device()), expected);
}

// Each rank has looked before the sums overwrite its own gradients.
TEST(NcclGroup, NanGradientsAreThoseOfTheirRankOnly) {
  const Group group = make();
  const int last = group->size() - 1;
  Net net;
  net.to(own_device());
  DataParallel replicas(net, group, {.first_bucket_bytes = 16, .bucket_bytes = 16});
  // The gradient that comes last comes when the sums of the others are there.
  const auto hook = net.first.weight.register_hook([](const Tensor& g) {
    std::this_thread::sleep_for(milliseconds(300));
    return g;
  });
  const double value = group->rank() == last ? std::nan("") : 0.5;
  const Tensor x = full({2, 4}, value, {DType::kFloat32, own_device()});
  std::string text;
  try {
    replicas.backward(net.forward(x).sum());
  } catch (const DistributedError& error) {
    text = error.what();
  }
  const std::string on = "is not finite on rank ";
  EXPECT_NE(text.find(on + std::to_string(last)), std::string::npos) << text;
  for (int r = 0; r < last; ++r) EXPECT_EQ(text.find(on + std::to_string(r)), std::string::npos);
}

TEST(NcclGroup, PowerSgdIsTheCpus) {
  const Values cpu = after_compressed_training(make_host(), {}, few_numbers());
  const Group group = make();
  Values cuda;
  {
    const Watched watched;
    cuda = after_compressed_training(group, own_device(), few_numbers());
  }
  ASSERT_EQ(cuda.size(), cpu.size());
  for (size_t i = 0; i < cpu.size(); ++i) EXPECT_NEAR(cuda[i], cpu[i], 2e-5) << i;
  Values first = cuda;
  group->broadcast({first.data(), std::ssize(first), DType::kFloat64, Device{}}, 0).wait();
  EXPECT_EQ(cuda, first);
}

}  // namespace
}  // namespace lockstep::distributed::testing
