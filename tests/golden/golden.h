#pragma once

#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "lockstep/engine/tensor/tensor.h"

namespace lockstep::golden {

// A table of this folder; the script that wrote it lies beside it.
nlohmann::json read(const std::string& name);

// A safetensors file of this folder, again with its script: tensors, and the cases, a JSON text in
// which the name of each tensor stands in its place (safetensors_file.py).
class File {
 public:
  explicit File(const std::string& name);

  const nlohmann::json& cases() const { return cases_; }

  // The tensor whose name `place`, a value in cases(), is; the caller may change it. Throws where
  // that is not a name, or no tensor has it.
  Tensor tensor(const nlohmann::json& place) const;
  Tensor tensor(const nlohmann::json& place, DType floating) const;  // floats converted to this
  Dims sizes(const nlohmann::json& place) const { return find(place).sizes(); }
  std::vector<double> numbers(const nlohmann::json& place) const { return find(place).to_vector(); }

 private:
  const Tensor& find(const nlohmann::json& place) const;

  std::string name_;
  nlohmann::json cases_;
  std::map<std::string, Tensor> tensors_;
};

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
