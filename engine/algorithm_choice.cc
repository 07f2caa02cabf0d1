#include "lockstep/engine/algorithm_choice.h"

#include <algorithm>
#include <mutex>
#include <vector>

namespace lockstep {
namespace {

struct Choices {
  std::mutex mutex;
  AlgorithmChoice choice = AlgorithmChoice::kHeuristic;
  AlgorithmTable table, timed;
  uint64_t number = 0;
};

Choices& choices() {
  static auto* all = new Choices;  // outlives what computes at exit
  return *all;
}

std::optional<double> median_time(size_t candidate, int runs,
                                  const std::function<std::optional<double>(size_t)>& time) {
  std::vector<double> times;
  for (int run = 0; run < runs; ++run) {
    const auto seconds = time(candidate);
    if (!seconds) return std::nullopt;
    times.push_back(*seconds);
  }
  const auto middle = times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2);
  std::nth_element(times.begin(), middle, times.end());
  return *middle;
}

}  // namespace

void set_algorithm_choice(AlgorithmChoice choice, AlgorithmTable table) {
  Choices& all = choices();
  const std::lock_guard lock(all.mutex);
  all.choice = choice;
  all.table = std::move(table);
  ++all.number;
}

uint64_t algorithm_choice_number() {
  Choices& all = choices();
  const std::lock_guard lock(all.mutex);
  return all.number;
}

AlgorithmChoice algorithm_choice() {
  Choices& all = choices();
  const std::lock_guard lock(all.mutex);
  return all.choice;
}

AlgorithmTable timed_algorithms() {
  Choices& all = choices();
  const std::lock_guard lock(all.mutex);
  return all.timed;
}

std::optional<std::string> algorithm_of_table(const std::string& product) {
  Choices& all = choices();
  const std::lock_guard lock(all.mutex);
  const auto found = all.table.find(product);
  if (found == all.table.end()) return std::nullopt;
  return found->second;
}

void record_timed_algorithm(const std::string& product, const std::string& algorithm) {
  Choices& all = choices();
  const std::lock_guard lock(all.mutex);
  all.timed[product] = algorithm;
}

std::optional<size_t> fastest_of(size_t candidates, int runs,
                                 const std::function<std::optional<double>(size_t)>& time) {
  std::optional<size_t> best;
  double least = 0;
  for (size_t i = 0; i < candidates; ++i) {
    const auto median = median_time(i, runs, time);
    if (!median || (best && *median >= least)) continue;
    best = i;
    least = *median;
  }
  return best;
}

}  // namespace lockstep
