// Times a training step on synthetic data, split in its parts: the models and the settings of the
// usual PyTorch comparison (models.h). One JSON line from rank 0, medians in milliseconds. The
// batch is per rank. With --alone every rank trains for itself: what the step takes without
// communication. On a GPU the parts are when the host had issued them; "ms" is the time between the
// device's first and last step, divided by their number.
//
// With --cuda-graph the step, without DataParallel, is captured once and replayed; there are no
// parts then.
//
//   train_step --model cnn --batch 64 --threads 1
//   mpirun -n 2 train_step --model mlp --batch 64 --threads 1
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "lockstep/distributed/mpi_runtime.h"
#include "lockstep/launch/environment.h"
#include "lockstep/lockstep.h"

#include "models.h"

using namespace lockstep;

namespace {

using Clock = std::chrono::steady_clock;

struct Settings {
  std::string model = "mlp", device = "cpu";
  int64_t batch = 64;
  int threads = 1;
  int64_t steps = 0;
  double seconds = 6.0;
  bool alone = false, cuda_graph = false;
  std::string compression = "none";
};

distributed::MakeReduction compression(const std::string& name) {
  if (name == "bf16") return distributed::bf16_compression();
  if (name == "fp16") return distributed::fp16_compression();
  if (name == "powersgd") return distributed::powersgd({.start_iteration = 0});
  return {};
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Milliseconds of each part of each step.
struct Times {
  std::vector<double> forward, backward, exposed, optimizer, total;
  void clear() { *this = {}; }
};

std::unique_ptr<optim::Optimizer> make_optimizer(const bench::Workload& work) {
  if (!work.sgd) return std::make_unique<optim::Adam>(work.net->parameters());
  return std::make_unique<optim::SGD>(
      work.net->parameters(), optim::SgdOptions{.lr = 0.05, .momentum = 0.9, .weight_decay = 5e-4});
}

// One rank's steps, captured and not; the ratio says what the host's part costs.
void run_captured(const Settings& s) {
  const Device device = Device::parse(s.device);
  bench::Workload work = bench::make_workload(s.model, s.batch);
  work.to(device);
  const auto optimizer = make_optimizer(work);
  const auto step = [&] {
    optimizer->zero_grad();
    const Tensor loss = work.loss(work.x, work.y);
    loss.backward();
    optimizer->step();
    return loss.detach();
  };
  const auto mean_ms = [&](int64_t steps, const auto& once) {
    backend_of(device).synchronize();
    const auto begin = Clock::now();
    for (int64_t i = 0; i < steps; ++i) once();
    backend_of(device).synchronize();
    const std::chrono::duration<double, std::milli> all = Clock::now() - begin;
    return all.count() / static_cast<double>(steps);
  };
  const double rough = mean_ms(3, step);
  const int64_t steps =
      s.steps > 0 ? s.steps : std::max<int64_t>(8, static_cast<int64_t>(500 * s.seconds / rough));
  const double eager = mean_ms(steps, step);
  cuda::CUDAGraph graph;
  Tensor loss;
  {
    cuda::GraphCapture capture(graph, device);
    loss = step();
    capture.end();
  }
  graph.replay();
  const double replayed = mean_ms(steps, [&] { graph.replay(); });
  std::printf(
      "{\"model\": \"%s\", \"batch\": %lld, \"steps\": %lld, \"eager_ms\": %.4f, \"graph_ms\": "
      "%.4f, "
      "\"nodes\": %zu, \"graph_bytes\": %zu, \"loss\": %.6g}\n",
      s.model.c_str(), static_cast<long long>(s.batch), static_cast<long long>(steps), eager,
      replayed, graph.nodes(), graph.bytes(), loss.item());
}

void run(const Settings& s, const std::shared_ptr<distributed::ProcessGroup>& group) {
  const Device device = Device::parse(s.device);
  bench::Workload work = bench::make_workload(s.model, s.batch);
  work.to(device);
  distributed::DataParallel replicas(*work.net, s.alone ? distributed::make_single_group() : group,
                                     {.compression = compression(s.compression)});
  const int64_t ranks = replicas.group().size();
  const auto optimizer = make_optimizer(work);

  Times times;
  const auto ms = [](Clock::time_point from, Clock::time_point to) {
    return std::chrono::duration<double, std::milli>(to - from).count();
  };
  int64_t index = 0;
  size_t bytes = 0;  // that a step reduces
  const auto step = [&] {
    data::Step batch;
    batch.index = index++;
    batch.global_samples = s.batch * ranks;
    batch.micros.push_back({work.x, work.y, replicas.group().rank(), s.batch});
    const auto t0 = Clock::now();
    Clock::time_point t1;
    for (auto& micro : replicas.accumulate(batch)) {
      const auto loss = work.loss(micro.x, micro.y);
      t1 = Clock::now();
      replicas.backward(loss, micro.size());
    }
    const auto t2 = Clock::now();
    optimizer->step();
    optimizer->zero_grad();
    const auto t3 = Clock::now();
    bytes = 0;
    for (const auto& bucket : batch.report.timeline.all_reduces) bytes += bucket.bytes;
    const double exposed = 1e3 * batch.report.exposed_communication_seconds;
    times.forward.push_back(ms(t0, t1));
    times.backward.push_back(ms(t1, t2) - exposed);
    times.exposed.push_back(exposed);
    times.optimizer.push_back(ms(t2, t3));
    times.total.push_back(ms(t0, t3));
  };

  for (int i = 0; i < 5; ++i) step();
  int64_t steps = s.steps;
  if (steps == 0) {
    steps = std::max<int64_t>(8, static_cast<int64_t>(1e3 * s.seconds / median(times.total)));
  }
  group->broadcast({&steps, 1, DType::kInt64, {}}, 0).wait();
  times.clear();
  backend_of(device).synchronize();
  const auto begin = Clock::now();
  for (int64_t i = 0; i < steps; ++i) step();
  backend_of(device).synchronize();
  const double mean = ms(begin, Clock::now()) / static_cast<double>(steps);
  if (group->rank() != 0) return;
  std::printf(
      "{\"model\": \"%s\", \"batch\": %lld, \"threads\": %d, \"ranks\": %d, \"steps\": %lld, "
      "\"bytes\": %zu, "
      "\"ms\": %.4f, \"fwd\": %.4f, \"bwd\": %.4f, \"comm\": %.4f, \"optim\": %.4f}\n",
      s.model.c_str(), static_cast<long long>(s.batch), s.threads, group->size(),
      static_cast<long long>(steps), bytes, device.is_cpu() ? median(times.total) : mean,
      median(times.forward), median(times.backward), median(times.exposed),
      median(times.optimizer));
}

}  // namespace

int main(int argc, char** argv) {
  Settings s;
  CLI::App app("Times a training step");
  app.add_option("--model", s.model)->check(CLI::IsMember(bench::workload_names()));
  app.add_option("--batch", s.batch, "samples per rank")->check(CLI::PositiveNumber);
  app.add_option("--device", s.device, "cpu or cuda");
  app.add_option("--threads", s.threads, "threads per rank")->check(CLI::PositiveNumber);
  app.add_option("--steps", s.steps, "steps to time; 0: as many as fit --seconds");
  app.add_option("--seconds", s.seconds);
  app.add_flag("--alone", s.alone, "no communication between the ranks");
  std::string precision = "highest";
  app.add_option("--matmul-precision", precision, "of float32 on a GPU: highest, high or medium");
  app.add_flag("--cuda-graph", s.cuda_graph, "one rank's step, captured and replayed");
  app.add_option("--compression", s.compression)
      ->check(CLI::IsMember({"none", "bf16", "fp16", "powersgd"}));
  CLI11_PARSE(app, argc, argv);
  try {
    set_num_threads(s.threads);
    set_float32_matmul_precision(precision);
    const auto environment = launch::read_environment();
    auto group = distributed::make_single_group();
    if (environment.launched() && environment.size > 1) {
      distributed::mpi_runtime::initialize({environment.rank, environment.size});
      group = distributed::make_mpi_group();
    }
    manual_seed(0);
    if (s.cuda_graph) {
      run_captured(s);
    } else {
      run(s, group);
    }
    group.reset();
    distributed::mpi_runtime::finalize();
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "train_step: %s\n", e.what());
    std::_Exit(1);
  }
}
