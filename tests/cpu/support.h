#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/engine/cpu/thread_pool.h"

namespace lockstep::cpu {

template <typename T>
std::vector<T> random_values(int64_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<double> uniform(-1.0, 1.0);
  std::vector<T> values(count);
  for (T& value : values) {
    value = static_cast<T>(uniform(generator));
  }
  return values;
}

template <typename T, typename From>
std::vector<T> as(const std::vector<From>& values) {
  return {values.begin(), values.end()};
}

template <typename T, typename U>
void expect_near(const std::vector<T>& actual, const std::vector<U>& expected, double tolerance) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_NEAR(actual[i], expected[i],
                tolerance * (1 + std::abs(static_cast<double>(expected[i]))))
        << "at " << i;
  }
}

// Runs fn, which returns a vector, with 1, 2 and 3 threads and expects the same bits each time.
template <typename F>
auto same_bits_on_any_threads(F&& fn) {
  const int before = num_threads();
  set_num_threads(1);
  const auto one = fn();
  for (const int threads : {2, 3}) {
    set_num_threads(threads);
    const auto many = fn();
    EXPECT_EQ(one.size(), many.size());
    EXPECT_TRUE(one.empty() ||
                std::memcmp(one.data(), many.data(), one.size() * sizeof(one[0])) == 0)
        << "bits differ with " << threads << " threads";
  }
  set_num_threads(before);
  return one;
}

}  // namespace lockstep::cpu
