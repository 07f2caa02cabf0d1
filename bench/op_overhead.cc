// What one op costs beside its arithmetic: forward and backward of y = x * a + b on tensors of one
// element. Prints the median of several rounds, in nanoseconds per y.
//
//   op_overhead [--rounds 15] [--iterations 20000]
//
// bench/compare_op_overhead.py runs it in turns with PyTorch.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <vector>

#include <CLI/CLI.hpp>

#include "lockstep/lockstep.h"

using namespace lockstep;

namespace {

double nanoseconds_per_step(int64_t iterations, const Tensor& x, const Tensor& a, const Tensor& b) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  for (int64_t i = 0; i < iterations; ++i) {
    const Tensor y = x * a + b;
    y.backward();
  }
  const std::chrono::duration<double, std::nano> elapsed = Clock::now() - start;
  return elapsed.count() / static_cast<double>(iterations);
}

}  // namespace

int main(int argc, char** argv) {
  int64_t rounds = 15;
  int64_t iterations = 20000;
  CLI::App app("Per-op overhead of forward and backward");
  app.add_option("--rounds", rounds, "Rounds, of which the median counts")
      ->check(CLI::PositiveNumber);
  app.add_option("--iterations", iterations, "y = x * a + b in each round")
      ->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);

  set_num_threads(1);
  const Tensor x = tensor({2.0});
  const Tensor a = tensor({3.0}).requires_grad_();
  const Tensor b = tensor({1.0}).requires_grad_();
  nanoseconds_per_step(iterations / 10 + 1, x, a, b);
  std::vector<double> times;
  for (int64_t round = 0; round < rounds; ++round) {
    a.set_grad({});
    b.set_grad({});
    times.push_back(nanoseconds_per_step(iterations, x, a, b));
    // Sums of `iterations` gradients: 2 each for a, 1 each for b.
    if (a.grad().item<double>() != 2.0 * static_cast<double>(iterations) ||
        b.grad().item<double>() != static_cast<double>(iterations)) {
      std::fprintf(stderr, "op_overhead: wrong gradients\n");
      return 1;
    }
  }
  std::sort(times.begin(), times.end());
  std::printf("%.1f\n", times[times.size() / 2]);
}
