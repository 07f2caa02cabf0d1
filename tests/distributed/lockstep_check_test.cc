#include "lockstep/distributed/lockstep_check.h"

#include <atomic>
#include <cstring>

#include <gtest/gtest.h>

#include "lockstep/distributed/threads_group.h"
#include "lockstep/optim/optim.h"

#include "conformance.h"
#include "data_parallel_support.h"

namespace lockstep::distributed::testing {
namespace {

void flip_bit(const Tensor& tensor, int64_t byte, int bit) {
  static_cast<unsigned char*>(tensor.data_ptr())[byte] ^= static_cast<unsigned char>(1 << bit);
}

TEST(FastHash, NoticesEveryBit) {
  std::vector<unsigned char> data(203);
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<unsigned char>(i * 37);
  for (const size_t bytes : {size_t{1}, size_t{8}, size_t{63}, size_t{64}, size_t{203}}) {
    const uint64_t hash = fast_hash(data.data(), bytes);
    for (size_t bit = 0; bit < 8 * bytes; ++bit) {
      const auto mask = static_cast<unsigned char>(1 << bit % 8);
      data[bit / 8] ^= mask;
      EXPECT_NE(fast_hash(data.data(), bytes), hash) << bytes << " bytes, bit " << bit;
      data[bit / 8] ^= mask;
    }
    EXPECT_EQ(fast_hash(data.data(), bytes), hash);
  }
  // Length and order count.
  const std::vector<unsigned char> zeros(128);
  EXPECT_NE(fast_hash(zeros.data(), 64), fast_hash(zeros.data(), 65));
  std::vector<uint64_t> words(32);
  words[1] = 5;
  const uint64_t hash = fast_hash(words.data(), 256);
  std::swap(words[1], words[9]);  // the same lane, another block
  EXPECT_NE(fast_hash(words.data(), 256), hash);
  // The highest bit of two words of one lane.
  std::vector<uint64_t> two(32);
  two[3] = two[11] = uint64_t{1} << 63;
  EXPECT_NE(fast_hash(two.data(), 256), fast_hash(std::vector<uint64_t>(32).data(), 256));
}

// Three ranks; `spoil` changes the tensors of rank 1.
std::vector<std::string> check_with(const std::function<void(NamedTensors&)>& spoil) {
  std::vector<std::string> texts(3);
  run_thread_ranks(3, [&](ProcessGroup& group) {
    NamedTensors tensors{{"parameter a", full({3, 5}, 0.5)},
                         {"parameter b", full({7}, 2.0, {DType::kFloat64})},
                         {"buffer c", full({2}, 3.0).to(DType::kInt64)},
                         {"buffer d", Tensor()}};
    if (group.rank() == 1) spoil(tensors);
    try {
      check_lockstep(group, tensors, "after step 9");
    } catch (const DistributedError& error) {
      texts[static_cast<size_t>(group.rank())] = error.what();
    }
    group.barrier().wait();  // the group goes on
  });
  EXPECT_EQ(texts[1], texts[0]);
  EXPECT_EQ(texts[2], texts[0]);
  return texts;
}

TEST(LockstepCheck, PassesWhatIsTheSame) {
  EXPECT_EQ(check_with([](NamedTensors&) {})[0], "");
  // A view of other memory with the same values.
  EXPECT_EQ(check_with([](NamedTensors& t) { t[0].second = full({5, 3}, 0.5).t(); })[0], "");
}

TEST(LockstepCheck, NamesTensorRankAndElement) {
  const auto text = check_with([](NamedTensors& t) { flip_bit(t[0].second, 4 * 8 + 2, 6); })[0];
  EXPECT_NE(text.find("after step 9 the replicas are not in lockstep any more: parameter a is not "
                      "the same on all ranks: rank 1 has 0.75 at element 8 where rank 0 has 0.5 (1 "
                      "of 15 elements differ); ranks 0, 2 agree."),
            std::string::npos)
      << text;
  EXPECT_EQ(text.find("Also"), std::string::npos) << text;
}

TEST(LockstepCheck, NamesSeveralTensors) {
  const auto text = check_with([](NamedTensors& t) {
    flip_bit(t[1].second, 0, 0);
    flip_bit(t[2].second, 8, 0);
  })[0];
  EXPECT_NE(text.find("parameter b is not the same on all ranks: rank 1 has 2 at element 0 where "
                      "rank 0 has 2 (1 of 7"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("agree. Also buffer c. "), std::string::npos) << text;
}

TEST(LockstepCheck, NoticesWhatOneRankLacksOrHasMore) {
  auto text = check_with([](NamedTensors& t) { t[3].second = ones({1}); })[0];
  EXPECT_NE(text.find("buffer d is not the same on all ranks: ranks 0, 2 without it"),
            std::string::npos)
      << text;
  text = check_with([](NamedTensors& t) { t.emplace_back("more", ones({1})); })[0];
  EXPECT_NE(text.find("different numbers of tensors: 4 on rank 0, 5 on rank 1"), std::string::npos)
      << text;
}

TEST(OptimizerTensors, AreThoseOfEveryOptimizer) {
  const Tensor a = ones({2}).requires_grad_();
  const Tensor b = ones({3}).requires_grad_();
  const auto names_of = [&](optim::Optimizer& optimizer) {
    for (int i = 0; i < 2; ++i) {
      optimizer.zero_grad();
      (a * a).sum().backward();  // b gets no gradient
      optimizer.step();
    }
    std::vector<std::string> names;
    for (const auto& [name, t] : optimizer_tensors(optimizer, {{"net.a", a}})) {
      names.push_back(name + (t.defined() ? "" : " (none)"));
    }
    return names;
  };
  using Names = std::vector<std::string>;
  const std::string other = "the optimizer's parameter 1";
  optim::SGD sgd({a, b}, {.momentum = 0.9});
  EXPECT_EQ(names_of(sgd),
            (Names{"the step count of net.a", "momentum_buffer of net.a",
                   "the step count of " + other, "momentum_buffer of " + other + " (none)"}));
  optim::AdamW adam({a});
  EXPECT_EQ(names_of(adam), (Names{"the step count of net.a", "exp_avg of net.a",
                                   "exp_avg_sq of net.a", "max_exp_avg_sq of net.a (none)"}));
  EXPECT_EQ(optimizer_tensors(adam, {{"net.a", a}})[0].second.item(), 2.0);
  optim::RMSprop rmsprop({a});
  EXPECT_EQ(names_of(rmsprop),
            (Names{"the step count of net.a", "square_avg of net.a", "grad_avg of net.a (none)",
                   "momentum_buffer of net.a (none)"}));
  optim::Adagrad adagrad({a});
  EXPECT_EQ(names_of(adagrad), (Names{"the step count of net.a", "sum of net.a"}));
  // The optimizer's own memory, not a copy.
  flip_bit(optimizer_tensors(sgd, {{"net.a", a}})[1].second, 3, 1);
  EXPECT_NE(sgd.states()[0].buffers[0].second.to_vector()[0],
            sgd.states()[0].buffers[0].second.to_vector()[1]);
}

// -- in DataParallel

TEST(DataParallelLockstep, IsCheckedEverySoManySteps) {
  std::atomic<int> noticed = 0;
  run_thread_ranks(3, [&](ProcessGroup& group) {
    const auto net = make_net<NormNet>(DType::kFloat32);
    DataParallel replicas(*net, share_of(group), {.check_lockstep_every = 4});
    optim::Adam adam(net->parameters());
    replicas.watch(adam);
    const auto train = [&](int64_t index) {
      const Samples all = make_samples(12, NormNet::kInput, DType::kFloat32, index);
      data::Step step = make_step(all, group.rank(), 3, 1, index);
      adam.zero_grad();
      run_step(replicas, *net, step);
      adam.step();
    };
    for (int64_t i = 0; i < 9; ++i) train(i);  // two checks pass
    replicas.check_lockstep();
    // The second moment of conv.weight, on one rank.
    if (group.rank() == 2) flip_bit(adam.states()[0].buffers[1].second, 2, 3);
    std::string text = error_of([&] { replicas.check_lockstep(); });
    EXPECT_NE(text.find("exp_avg_sq of conv.weight is not the same on all ranks: rank 2 has"),
              std::string::npos)
        << text;
    if (group.rank() == 2) flip_bit(adam.states()[0].buffers[1].second, 2, 3);
    replicas.check_lockstep();
    if (group.rank() == 1) flip_bit(net->fc.weight, 3, 0);
    train(9);
    train(10);
    text = error_of([&] { train(11); });
    EXPECT_NE(text.find("in step 11 the replicas are not in lockstep any more: parameter fc.weight "
                        "is not the same on all ranks: rank 1 has"),
              std::string::npos)
        << text;
    ++noticed;
  });
  EXPECT_EQ(noticed, 3);
}

TEST(DataParallelLockstep, IsNotCheckedIfNotWanted) {
  run_thread_ranks(2, [&](ProcessGroup& group) {
    const auto net = make_net<Mlp>(DType::kFloat32);
    RecordingGroup recording(group);
    DataParallel replicas(*net, share_of(recording), {.check_lockstep_every = 0});
    const Samples all = make_samples(4, Mlp::kInput, DType::kFloat32, 0);
    recording.events.clear();
    for (int64_t i = 0; i < 3; ++i) {
      data::Step step = make_step(all, group.rank(), 2, 1, i);
      run_step(replicas, *net, step);
    }
    EXPECT_EQ(recording.events, std::vector<std::string>(3, "all_reduce"));
  });
}

}  // namespace
}  // namespace lockstep::distributed::testing
