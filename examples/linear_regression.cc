// Fits y = w x + b to noisy points of a known line; the smallest complete program.
#include <cstdio>

#include "lockstep/lockstep.h"

using namespace lockstep;

namespace {

void train(launch::Job& job) {
  const auto x = randn({4096, 1});
  const auto y = 3.0 * x - 2.0 + 0.1 * randn({4096, 1});
  const data::TensorDataset points(x, y);

  nn::Linear line(1, 1);
  line.to(job.device());
  distributed::DataParallel replicas(line, job.group(),
                                     {.reduction = job.reduction(),
                                      .compression = job.compression(),
                                      .precision = job.precision()});
  optim::SGD sgd(line.parameters(), {.lr = 0.1});
  launch::GraphedStep train_step(job, [&](data::Step& step) {
    sgd.zero_grad();
    for (auto& micro : replicas.accumulate(step)) {
      replicas.backward(nn::mse_loss(line(micro.x), micro.y), micro.size());
    }
    sgd.step();
  });
  for (auto& step : job.steps(points)) train_step(step);
  if (job.rank() == 0) {
    std::printf("y = %.3f x %+.3f (the points were drawn around y = 3 x - 2)\n", line.weight.item(),
                line.bias.item());
  }
}

}  // namespace

int main(int argc, char** argv) { return lockstep::launch::run(argc, argv, train); }
