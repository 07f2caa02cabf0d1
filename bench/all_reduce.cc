// All-reduce over a range of sizes, as a table like nccl-tests': ours, blocking and asynchronous,
// on memory that the group has allocated, and MPI_Allreduce on ordinary memory, all in place.
//
//   mpirun -n 2 --bind-to none all_reduce [--min-bytes 4096] [--max-bytes 67108864]
//
// The three take turns. Before each call every rank rewrites its data, as backward does, and meets
// the others in a barrier; a call takes as long as on the rank where it took longest, and the
// median over the rounds counts. The algorithm bandwidth is bytes / time; times 2 (n - 1) / n, what
// a rank must at least send, that is the bus bandwidth, which can be compared with the hardware's.
// The inputs are whole numbers, so the sums are known exactly; a wrong one ends the program with 1.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <mpi.h>

#include "lockstep/distributed/mpi_runtime.h"
#include "lockstep/launch/environment.h"
#include "lockstep/lockstep.h"

using namespace lockstep;

namespace {

struct Settings {
  int64_t min_bytes = 4 << 10;
  int64_t max_bytes = 64 << 20;
  int64_t factor = 4;
  int64_t rounds = 0;
  double seconds = 1.0;
};

constexpr int64_t kFewestRounds = 7, kMostRounds = 2000;

float input(int64_t i, int rank) { return static_cast<float>((i * 7 + rank * 3) % 61); }

struct Way {
  const char* name;
  float* data;
  std::function<void(int64_t count)> reduce;
  std::vector<double> seconds;  // of each round
  int64_t wrong = 0;
};

class Bench {
 public:
  Bench(const Settings& settings, std::shared_ptr<distributed::ProcessGroup> group)
      : settings_(settings),
        group_(std::move(group)),
        memory_(group_->allocate(static_cast<size_t>(settings.max_bytes), Device{})),
        ordinary_(static_cast<size_t>(settings.max_bytes) / sizeof(float)),
        source_(ordinary_.size()) {
    for (size_t i = 0; i < source_.size(); ++i) {
      source_[i] = input(static_cast<int64_t>(i), group_->rank());
    }
    auto* shared = static_cast<float*>(memory_->data());
    const auto ours = [this, shared](distributed::Launch launch) {
      return [this, shared, launch](int64_t count) {
        group_
            ->all_reduce({shared, count, DType::kFloat32, {}}, distributed::ReduceOp::kSum, launch)
            .wait();
      };
    };
    ways_ = {{"blocking", shared, ours(distributed::Launch::kBlocking), {}, 0},
             {"asynchronous", shared, ours(distributed::Launch::kAsync), {}, 0},
             {"MPI_Allreduce",
              ordinary_.data(),
              [this](int64_t count) {
                MPI_Allreduce(MPI_IN_PLACE, ordinary_.data(), static_cast<int>(count), MPI_FLOAT,
                              MPI_SUM, MPI_COMM_WORLD);
              },
              {},
              0}};
  }

  // Whether all sums were right.
  bool run() {
    print_head();
    bool right = true;
    for (int64_t bytes = settings_.min_bytes; bytes <= settings_.max_bytes;
         bytes *= settings_.factor) {
      measure(bytes / static_cast<int64_t>(sizeof(float)));
      print_row();
      for (const Way& way : ways_) right = right && way.wrong == 0;
    }
    return right;
  }

 private:
  using Clock = std::chrono::steady_clock;

  // The time on this rank.
  double call(Way& way) {
    std::memcpy(way.data, source_.data(), static_cast<size_t>(count_) * sizeof(float));
    group_->barrier(distributed::Launch::kBlocking).wait();
    const auto start = Clock::now();
    way.reduce(count_);
    return std::chrono::duration<double>(Clock::now() - start).count();
  }

  int64_t count_wrong(const Way& way) const {
    int64_t wrong = 0;
    for (int64_t i = 0; i < count_; ++i) {
      float sum = 0.0f;
      for (int rank = 0; rank < group_->size(); ++rank) sum += input(i, rank);
      wrong += way.data[i] != sum ? 1 : 0;
    }
    return wrong;
  }

  void measure(int64_t count) {
    count_ = count;
    // One round to warm up and to look at every sum.
    double one_round = 0.0;
    for (Way& way : ways_) {
      one_round += call(way);
      way.wrong = count_wrong(way);
    }
    const auto start = Clock::now();
    for (Way& way : ways_) call(way);
    one_round = std::chrono::duration<double>(Clock::now() - start).count();
    int64_t rounds = settings_.rounds;
    if (rounds == 0) {
      rounds = std::clamp(static_cast<int64_t>(settings_.seconds / one_round), kFewestRounds,
                          kMostRounds);
    }
    group_->broadcast({&rounds, 1, DType::kInt64, {}}, 0).wait();

    for (Way& way : ways_) way.seconds.clear();
    for (int64_t r = 0; r < rounds; ++r) {
      for (Way& way : ways_) {
        way.seconds.push_back(call(way));
        if (r + 1 == rounds) way.wrong += count_wrong(way);
      }
    }
    for (Way& way : ways_) {
      auto& seconds = way.seconds;
      group_
          ->all_reduce({seconds.data(), std::ssize(seconds), DType::kFloat64, {}},
                       distributed::ReduceOp::kMax)
          .wait();
      group_->all_reduce({&way.wrong, 1, DType::kInt64, {}}).wait();
      std::sort(seconds.begin(), seconds.end());
    }
  }

  void print_head() const {
    if (group_->rank() != 0) return;
    std::printf("# all-reduce of float32, sum, in place, over %d ranks; us and GB/s, medians\n",
                group_->size());
    std::printf("#%11s %7s |", "", "");
    for (const Way& way : ways_) std::printf(" %27s |", way.name);
    std::printf(" %17s |\n#%11s %7s |", "MPI's time / ours", "bytes", "rounds");
    for (size_t i = 0; i < ways_.size(); ++i) {
      std::printf(" %11s %7s %7s |", "time", "alg bw", "bus bw");
    }
    std::printf(" %8s %8s | %5s\n", "blocking", "async", "wrong");
  }

  void print_row() const {
    if (group_->rank() != 0) return;
    const double bytes = static_cast<double>(count_) * sizeof(float);
    const double n = group_->size();
    std::printf(" %11.0f %7zu |", bytes, ways_[0].seconds.size());
    int64_t wrong = 0;
    std::vector<double> medians;
    for (const Way& way : ways_) {
      medians.push_back(way.seconds[way.seconds.size() / 2]);
      const double bandwidth = bytes / medians.back() / 1e9;
      std::printf(" %11.2f %7.2f %7.2f |", 1e6 * medians.back(), bandwidth,
                  bandwidth * 2.0 * (n - 1.0) / n);
      wrong += way.wrong;
    }
    std::printf(" %8.2f %8.2f | %5lld\n", medians[2] / medians[0], medians[2] / medians[1],
                static_cast<long long>(wrong));
    std::fflush(stdout);
  }

  Settings settings_;
  std::shared_ptr<distributed::ProcessGroup> group_;
  std::shared_ptr<distributed::Memory> memory_;
  std::vector<float> ordinary_, source_;
  std::vector<Way> ways_;
  int64_t count_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  Settings s;
  CLI::App app("All-reduce over a range of sizes, beside MPI_Allreduce; run it under mpirun");
  const CLI::Range sizes(int64_t{4}, int64_t{4} << 30);
  app.add_option("--min-bytes", s.min_bytes, "smallest size")->capture_default_str()->check(sizes);
  app.add_option("--max-bytes", s.max_bytes, "largest size")->capture_default_str()->check(sizes);
  app.add_option("--factor", s.factor, "from one size to the next")
      ->capture_default_str()
      ->check(CLI::Range(2, 1 << 20));
  app.add_option("--rounds", s.rounds, "calls of each kind and size; 0: as many as fit --seconds")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 30));
  app.add_option("--seconds", s.seconds, "for each size")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);
  try {
    const auto environment = launch::read_environment();
    if (!environment.launched()) throw Error("[all_reduce] start it with mpirun");
    if (s.min_bytes > s.max_bytes) {
      throw Error("[all_reduce] --min-bytes is larger than --max-bytes");
    }
    distributed::mpi_runtime::initialize({environment.rank, environment.size});
    const bool right = Bench(s, distributed::make_mpi_group()).run();
    distributed::mpi_runtime::finalize();
    if (!right) std::fprintf(stderr, "all_reduce: wrong sums\n");
    return right ? 0 : 1;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "all_reduce: %s\n", e.what());
    std::_Exit(1);
  }
}
