#include <cstdio>

#include "lockstep/lockstep.h"

using namespace lockstep;

// Learns to add three numbers.
int main() {
  manual_seed(1);
  const Tensor x = randn({64, 3});
  const Tensor y = x.sum({1}, true);
  nn::Linear model{3, 1};
  optim::SGD sgd(model.parameters(), {.lr = 0.1});
  double first = 0;
  double last = 0;
  for (int step = 0; step < 100; ++step) {
    sgd.zero_grad();
    const Tensor loss = nn::mse_loss(model(x), y);
    loss.backward();
    sgd.step();
    last = loss.item();
    if (step == 0) first = last;
  }
  std::printf("loss %g -> %g\n", first, last);
  return last < 1e-3 * first ? 0 : 1;
}
