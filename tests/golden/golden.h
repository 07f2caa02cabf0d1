#pragma once

#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "lockstep/engine/tensor/tensor.h"

namespace lockstep::golden {

// A file of this folder; the script that wrote it lies beside it.
nlohmann::json read(const std::string& name);

// A number, or "nan", "inf", "-inf", which JSON has no way to write.
double number(const nlohmann::json& value);
std::vector<double> numbers(const nlohmann::json& list);  // booleans are 0 and 1
Dims dims(const nlohmann::json& list);

// Element by element, |a - b| <= rtol |b| + atol.
inline void expect_close(const std::vector<double>& actual, const std::vector<double>& expected,
                         double rtol, double atol, const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  for (size_t i = 0; i < actual.size(); ++i) {
    EXPECT_LE(std::abs(actual[i] - expected[i]), rtol * std::abs(expected[i]) + atol)
        << what << " [" << i << "]: " << actual[i] << " instead of " << expected[i];
  }
}

}  // namespace lockstep::golden
