// Trains a small net data-parallel and, when told to, goes wrong on one rank in the midst of it.
// faults_test.sh starts it and looks at how the job ends.
#include <csignal>
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

void train(launch::Job& job, const std::string& fault, int64_t bad_rank,
           const std::string& bad_data) {
  const bool bad = job.rank() == bad_rank;
  if (fault == "data" && bad) data::fashion_mnist(bad_data, data::Split::kTrain);
  const data::TensorDataset samples(randn({4000, 20}), arange(4000).to(DType::kInt64) * 0);
  Net net(bad && fault == "shape" ? 21 : 20, bad && fault == "model");
  distributed::DataParallel replicas(
      net, job.group(), {.reduction = job.reduction(), .first_bucket_bytes = 1, .bucket_bytes = 1});
  optim::SGD sgd(net.parameters(), {.lr = 0.1});
  for (auto& step : job.steps(samples)) {
    const bool now = bad && step.index == kBadStep;
    if (fault == "slow") usleep(100000);
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
      if (now && fault == "forward" && k == 1) throw std::runtime_error("deliberate failure");
      const auto loss = nn::cross_entropy(net.forward(micro.x), micro.y);
      replicas.backward(loss, micro.size());
      ++k;
    }
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
