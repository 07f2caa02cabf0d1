// Trains a small net data-parallel and, when told to, goes wrong on one rank in the midst of it.
// faults_test.sh starts it and looks at how the job ends.
#include <csignal>
#include <cstdint>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>

#include <unistd.h>

#include "lockstep/lockstep.h"

using namespace lockstep;

namespace {

constexpr int64_t kBadStep = 3;

struct Net : nn::Module {
  nn::Linear fc1, fc2{64, 64}, fc3{64, 4};
  std::unique_ptr<nn::Linear> extra;
  Net(int64_t inputs, bool more) : fc1(inputs, 64) {
    register_modules({{"fc1", fc1}, {"fc2", fc2}, {"fc3", fc3}});
    if (!more) return;
    extra = std::make_unique<nn::Linear>(4, 4);
    register_module("extra", *extra);
  }
  Tensor forward(const Tensor& x) { return fc3(relu(fc2(relu(fc1(x))))); }
};

// A second model, trained beside the other one.
struct Critic : nn::Module {
  nn::Linear judge{20, 4};
  Critic() { register_modules({{"judge", judge}}); }
};

// What happens between two steps, on the rank concerned.
void go_wrong(const std::string& fault, distributed::ProcessGroup& group) {
  if (fault == "sleep") ::sleep(1000);
  if (fault == "stop") raise(SIGSTOP);
  volatile bool for_ever = true;
  while (fault == "loop" && for_ever) {
  }
  if (fault == "extra") {
    float value = 1.0f;
    group.all_reduce({&value, 1, DType::kFloat32, Device{}}).wait();
  }
}

void flip_a_bit(const Tensor& tensor, int64_t at) {
  reinterpret_cast<uint32_t*>(tensor.data<float>())[at] ^= 1u << 12;
}

void train(launch::Job& job, const std::string& fault, int64_t bad_rank,
           const std::string& bad_data) {
  const bool bad = job.rank() == bad_rank;
  if (fault == "data" && bad) data::fashion_mnist(bad_data, data::Split::kTrain);
  const data::TensorDataset samples(randn({4000, 20}), arange(4000).to(DType::kInt64) * 0);
  Net net(bad && fault == "shape" ? 21 : 20, bad && fault == "model");
  if (bad && fault == "dtype") net.fc2.to(DType::kFloat64);
  distributed::DataParallel replicas(net, job.group(),
                                     {.reduction = job.reduction(),
                                      .first_bucket_bytes = 1,
                                      .bucket_bytes = 1,
                                      .check_lockstep_every = 5});
  optim::SGD sgd(net.parameters(), {.lr = 0.1, .momentum = 0.9});
  replicas.watch(sgd);
  Critic critic;
  distributed::DataParallel judges(critic, job.group());
  for (auto& step : job.steps(samples)) {
    const bool now = bad && step.index == kBadStep;
    if (fault == "slow") usleep(100000);
    if (now) go_wrong(fault, *job.group());
    if (now && fault == "leave") break;
    if (now && fault == "flip") flip_a_bit(net.fc2.weight, 17);
    if (now && fault == "flip-state") flip_a_bit(sgd.states()[1].buffers[0].second, 3);
    const auto judge = [&] { judges.backward(critic.judge(step.micros[0].x).sum()); };
    if (fault == "order" && now) judge();
    sgd.zero_grad();
    int64_t k = 0;
    for (auto& micro : replicas.accumulate(step)) {
      autograd::HookHandle hook;
      // The middle of backward: the last layer's bucket is on its way, the first layer's is not.
      if (now && fault == "kill") {
        hook = net.fc2.weight.register_hook([](const Tensor&) {
          raise(SIGKILL);
          return Tensor();
        });
      }
      if (now && ((fault == "backward-first" && k == 0) || (fault == "backward-last" && k == 1))) {
        hook = net.fc2.weight.register_hook(
            [](const Tensor&) -> Tensor { throw std::runtime_error("deliberate failure"); });
      }
      if (now && fault == "nan") {
        hook = net.fc2.weight.register_hook([](const Tensor& gradient) {
          const Tensor changed = gradient.clone();
          changed.data<float>()[17] = std::numeric_limits<float>::quiet_NaN();
          return changed;
        });
      }
      if (now && fault == "forward" && k == 1) throw std::runtime_error("deliberate failure");
      const auto loss = nn::cross_entropy(net.forward(micro.x), micro.y);
      replicas.backward(loss, micro.size());
      ++k;
    }
    if (fault == "order" && !now) judge();
    sgd.step();
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::string fault = "none", bad_data;
  int64_t bad_rank = 1;
  launch::ProgramOptions flags("Tests how training jobs end.");
  flags.text("--fault", fault, "what goes wrong")
      .integer("--bad-rank", bad_rank, "where")
      .text("--bad-data", bad_data, "the data directory of the rank concerned");
  return launch::run(
      argc, argv, [&](launch::Job& job) { train(job, fault, bad_rank, bad_data); }, flags);
}
