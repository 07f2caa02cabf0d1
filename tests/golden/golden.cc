#include "golden/golden.h"

#include <cmath>
#include <filesystem>
#include <fstream>

namespace lockstep::golden {

nlohmann::json read(const std::string& name) {
  const auto path = std::filesystem::path(LOCKSTEP_GOLDEN_FOLDER) / name;
  std::ifstream file(path);
  EXPECT_TRUE(file.good()) << path;
  return nlohmann::json::parse(file);
}

double number(const nlohmann::json& v) {
  if (!v.is_string()) return v.get<double>();
  return v == "nan" ? std::nan("") : (v == "inf" ? INFINITY : -INFINITY);
}

std::vector<double> numbers(const nlohmann::json& list) {
  std::vector<double> values;
  for (const nlohmann::json& v : list) values.push_back(v.is_boolean() ? v.get<bool>() : number(v));
  return values;
}

Dims dims(const nlohmann::json& list) {
  Dims d;
  for (const nlohmann::json& n : list) d.push_back(n.get<int64_t>());
  return d;
}

}  // namespace lockstep::golden
