#include "golden/golden.h"

#include <cmath>
#include <filesystem>
#include <fstream>

#include "lockstep/data/safetensors.h"

namespace lockstep::golden {
namespace {

std::filesystem::path path_of(const std::string& name) {
  return std::filesystem::path(LOCKSTEP_GOLDEN_FOLDER) / name;
}

}  // namespace

nlohmann::json read(const std::string& name) {
  const auto path = path_of(name);
  std::ifstream file(path);
  EXPECT_TRUE(file.good()) << path;
  return nlohmann::json::parse(file);
}

File::File(const std::string& name) : name_(name) {
  const data::Safetensors file = data::read_safetensors(path_of(name));
  cases_ = nlohmann::json::parse(file.metadata.at("cases"));
  tensors_.insert(file.tensors.begin(), file.tensors.end());
}

const Tensor& File::find(const nlohmann::json& place) const {
  const auto found = place.is_string() ? tensors_.find(place.get<std::string>()) : tensors_.end();
  if (found == tensors_.end()) throw DataError(name_ + ": " + place.dump() + " is no tensor");
  return found->second;
}

Tensor File::tensor(const nlohmann::json& place) const { return find(place).clone(); }

Tensor File::tensor(const nlohmann::json& place, DType floating) const {
  const Tensor& t = find(place);
  return (is_floating(t.dtype()) ? t.to(floating) : t).clone();
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
