// op_overhead.cc written with libtorch; compare_op_overhead.py compiles and runs it.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include <torch/torch.h>

int main(int argc, char** argv) {
  const int iterations = argc > 1 ? std::atoi(argv[1]) : 20000;
  const int rounds = argc > 2 ? std::atoi(argv[2]) : 15;
  torch::set_num_threads(1);
  const auto x = torch::tensor({2.0f});
  const auto a = torch::tensor({3.0f}).requires_grad_();
  const auto b = torch::tensor({1.0f}).requires_grad_();
  std::vector<double> times;
  for (int round = -1; round < rounds; ++round) {
    a.mutable_grad() = torch::Tensor();
    b.mutable_grad() = torch::Tensor();
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < iterations; ++i) {
      const auto y = x * a + b;
      y.backward();
    }
    const std::chrono::duration<double, std::nano> elapsed =
        std::chrono::steady_clock::now() - start;
    if (a.grad().item<double>() != 2.0 * iterations || b.grad().item<double>() != iterations) {
      std::fprintf(stderr, "op_overhead_torch: wrong gradients\n");
      return 1;
    }
    if (round >= 0) times.push_back(elapsed.count() / iterations);
  }
  std::sort(times.begin(), times.end());
  std::printf("%.1f\n", times[times.size() / 2]);
}
