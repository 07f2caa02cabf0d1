// Collectives of tensors on a GPU through a group that knows host memory only.
#include "lockstep/distributed/staged_group.h"

#include <atomic>

#include <gtest/gtest.h>

#include "lockstep/distributed/threads_group.h"
#include "lockstep/engine/ops/ops.h"
#include "lockstep/engine/tensor/factory.h"

namespace lockstep::distributed {
namespace {

const Device kCuda{DeviceType::kCuda, 0};
using Values = std::vector<double>;

Buffer buffer_of(const Tensor& t) { return {t.data_ptr(), t.numel(), t.dtype(), t.device()}; }

// Runs `test` with two ranks as threads, whose groups have been wrapped.
void with_two_ranks(const std::function<void(ProcessGroup&)>& test) {
  run_thread_ranks(2, [&](ProcessGroup& group) {
    // The wrapper shares the group that the caller owns.
    const auto staged =
        make_staged_group(std::shared_ptr<ProcessGroup>(&group, [](ProcessGroup*) {}));
    test(*staged);
  });
}

Tensor on_gpu(Values values) { return from_span<double>(values, {std::ssize(values)}).to(kCuda); }

TEST(StagedGroup, MovesWhatTheCollectivesSay) {
  with_two_ranks([](ProcessGroup& group) {
    const double r = group.rank();
    const Tensor sum = on_gpu({1 + r, 10 * r, -r});
    group.all_reduce(buffer_of(sum)).wait();
    EXPECT_EQ(sum.to_vector(), (Values{3, 10, -1}));

    const Tensor from_one = on_gpu({r, r + 5});
    group.broadcast(buffer_of(from_one), 1, Launch::kBlocking).wait();
    EXPECT_EQ(from_one.to_vector(), (Values{1, 6}));

    const Tensor all = on_gpu({0, 0, 0, 0});
    group.all_gather(buffer_of(all), buffer_of(on_gpu({r, r + 0.5}))).wait();
    EXPECT_EQ(all.to_vector(), (Values{0, 0.5, 1, 1.5}));

    const Tensor part = on_gpu({0, 0}), whole = on_gpu({r, 1, 2, 3 + r});
    group.reduce_scatter(buffer_of(part), buffer_of(whole)).wait();
    EXPECT_EQ(part.to_vector(), group.rank() == 0 ? (Values{1, 2}) : (Values{4, 7}));

    const Tensor received = on_gpu({0, 0});
    group.all_to_all(buffer_of(received), buffer_of(on_gpu({10 * r, 10 * r + 1}))).wait();
    EXPECT_EQ(received.to_vector(), group.rank() == 0 ? (Values{0, 10}) : (Values{1, 11}));
  });
}

TEST(StagedGroup, PartsOfItsOwnMemoryStayInPlace) {
  with_two_ranks([](ProcessGroup& group) {
    const auto memory = group.allocate(4 * sizeof(double), kCuda);
    const Tensor all = from_memory(memory->data(), {4}, DType::kFloat64, memory, kCuda);
    EXPECT_EQ(all.to_vector(), (Values{0, 0, 0, 0}));
    const Tensor mine = all.narrow(0, 2 * group.rank(), 2);
    mine.fill_(group.rank() + 1.0);
    group.all_gather(buffer_of(all), buffer_of(mine)).wait();
    EXPECT_EQ(all.to_vector(), (Values{1, 1, 2, 2}));
    // Two at once in different parts of one piece of memory.
    Work first = group.all_reduce(buffer_of(all.narrow(0, 0, 2)));
    Work second = group.all_reduce(buffer_of(all.narrow(0, 2, 2)), ReduceOp::kMax);
    first.wait();
    second.wait();
    EXPECT_EQ(all.to_vector(), (Values{2, 2, 2, 2}));
    // A part of a buffer that is not the group's.
    const Tensor other = on_gpu({0, 0, 0, 0});
    const Tensor own = other.narrow(0, 2 * group.rank(), 2);
    own.fill_(group.rank() + 3.0);
    group.all_gather(buffer_of(other), buffer_of(own)).wait();
    EXPECT_EQ(other.to_vector(), (Values{3, 3, 4, 4}));
  });
}

TEST(StagedGroup, HostBuffersAndDuplicatesWorkAsBefore) {
  with_two_ranks([](ProcessGroup& group) {
    double value = group.rank() + 1.0;
    group.all_reduce({&value, 1, DType::kFloat64, Device{}}).wait();
    EXPECT_EQ(value, 3);
    const auto copy = group.duplicate();
    const Tensor x = on_gpu({1.0});
    copy->all_reduce(buffer_of(x)).wait();
    EXPECT_EQ(x.to_vector(), Values{2});
    group.barrier().wait();
  });
}

TEST(StagedGroup, AMismatchIsAnErrorOnEveryRank) {
  std::atomic<int> errors = 0;
  with_two_ranks([&](ProcessGroup& group) {
    const Tensor x = on_gpu(Values(static_cast<size_t>(group.rank() + 1), 1.0));
    try {
      group.all_reduce(buffer_of(x)).wait();
    } catch (const DistributedError& error) {
      EXPECT_NE(std::string(error.what()).find("do not match"), std::string::npos) << error.what();
      ++errors;
    }
  });
  EXPECT_EQ(errors, 2);
}

}  // namespace
}  // namespace lockstep::distributed
