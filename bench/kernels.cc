// Rates of single ops on large tensors: matrix products, and ops that are bound by memory. One JSON
// line each: milliseconds (median of rounds), and billions of operations or bytes that the op must
// do or move at least (each input read once, each output written once).
//
//   kernels [--device cuda] [--dtype float32|bfloat16] [--scale 1.0] [--only NAME]
//
// bench/compare_kernels.py runs it in turns with PyTorch.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "lockstep/engine/backend.h"
#include "lockstep/lockstep.h"

using namespace lockstep;

namespace {

struct Settings {
  std::string device = "cpu", dtype = "float32", only;
  double scale = 1.0;
  double milliseconds = 20.0;
  int rounds = 7;
};

struct Case {
  std::string name;
  double gigaops, gigabytes;
  std::function<void()> run;
};

// Products (m, n, k) of GPT-2 (124M) on 8192 tokens, forward and weight gradients, and of wide
// linear layers on large batches.
constexpr int64_t kProducts[][3] = {
    {8192, 2304, 768}, {8192, 768, 768},  {8192, 3072, 768},  {8192, 768, 3072}, {8192, 50304, 768},
    {2304, 768, 8192}, {768, 3072, 8192}, {4096, 4096, 4096}, {4096, 512, 784},  {1024, 8192, 8192},
};

std::vector<Case> cases(const Settings& s) {
  const Device device = Device::parse(s.device);
  const DType dtype = s.dtype == "bfloat16" ? DType::kBFloat16 : DType::kFloat32;
  const auto width = static_cast<double>(size_of(dtype));
  const auto scaled = [&](int64_t n) {
    return std::max<int64_t>(16, static_cast<int64_t>(std::llround(s.scale * double(n))));
  };
  const auto random = [&](const Dims& sizes) { return randn(sizes).to(device).to(dtype); };
  std::vector<Case> all;
  for (const auto& [m, n, k] : kProducts) {
    const int64_t a = scaled(m), b = scaled(n), c = scaled(k);
    const double ops = 2e-9 * double(a) * double(b) * double(c);
    const double bytes = 1e-9 * width * double(a * c + c * b + a * b);
    all.push_back({fmt::format("matmul {}x{}x{}", m, n, k), ops, bytes,
                   [x = random({a, c}), w = random({c, b})] { matmul(x, w); }});
  }
  const int64_t rows = scaled(16384), columns = scaled(4096);
  const double size = 1e-9 * width * double(rows * columns);
  const Tensor x = random({rows, columns}), y = random({rows, columns});
  const Tensor weight = random({columns}), bias = random({columns});
  const auto forward = [&](const char* name, double passes, std::function<void()> run) {
    all.push_back({name, 0.0, passes * size, std::move(run)});
  };
  // The gradient of `output` alone: it is computed once, here.
  const auto backward = [&](const char* name, double passes, const std::vector<Tensor>& inputs,
                            const std::function<Tensor()>& function) {
    const Tensor output = function();
    const Tensor gradient = random(output.sizes());
    forward(name, passes, [=] {
      autograd::grad(std::span(&output, 1), inputs, std::span(&gradient, 1),
                     {.retain_graph = true});
    });
  };
  const Tensor leaf = random({rows, columns}).requires_grad_();
  const Tensor w = weight.clone().requires_grad_(), b = bias.clone().requires_grad_();
  forward("copy", 2, [=] { y.copy_(x); });
  forward("add", 3, [=] { add(x, y); });
  forward("relu", 2, [=] { relu(x); });
  forward("gelu", 2, [=] { gelu(x); });
  backward("gelu backward", 3, {leaf}, [&] { return gelu(leaf); });
  forward("sum of all", 1, [=] { x.sum(); });
  forward("sum of rows", 1, [=] { x.sum({0}); });
  forward("softmax", 2, [=] { softmax(x, -1); });
  backward("softmax backward", 3, {leaf}, [&] { return softmax(leaf, -1); });
  forward("layer norm", 2, [=] { layer_norm(x, {columns}, weight, bias); });
  backward("layer norm backward", 3, {leaf, w, b},
           [&] { return layer_norm(leaf, {columns}, w, b); });
  return all;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

double milliseconds(const Settings& s, const std::function<void()>& run) {
  Backend& backend = backend_of(Device::parse(s.device));
  const auto time = [&](int64_t n) {
    backend.synchronize();
    const auto begin = std::chrono::steady_clock::now();
    for (int64_t i = 0; i < n; ++i) run();
    backend.synchronize();
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin)
               .count() /
           double(n);
  };
  time(2);
  const auto n = std::max<int64_t>(1, std::llround(s.milliseconds / time(1)));
  std::vector<double> times;
  for (int round = 0; round < s.rounds; ++round) times.push_back(time(n));
  return median(times);
}

}  // namespace

int main(int argc, char** argv) {
  Settings s;
  CLI::App app("Rates of single ops");
  app.add_option("--device", s.device, "cpu or cuda");
  app.add_option("--dtype", s.dtype)->check(CLI::IsMember({"float32", "bfloat16"}));
  app.add_option("--scale", s.scale, "of every size, to try it out")->check(CLI::PositiveNumber);
  app.add_option("--only", s.only, "cases whose name begins so");
  app.add_option("--milliseconds", s.milliseconds, "of a round")->check(CLI::PositiveNumber);
  app.add_option("--rounds", s.rounds)->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);
  try {
    manual_seed(0);
    for (const Case& c : cases(s)) {
      if (!c.name.starts_with(s.only)) continue;
      fmt::print(
          "{{\"name\": \"{}\", \"ms\": {:.6f}, \"gigaops\": {:.6f}, \"gigabytes\": {:.6f}}}\n",
          c.name, milliseconds(s, c.run), c.gigaops, c.gigabytes);
      std::fflush(stdout);
    }
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "kernels: %s\n", e.what());
    return 1;
  }
}
