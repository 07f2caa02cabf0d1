#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "lockstep/data/safetensors.h"

namespace lockstep::test {

// The tensors of a file that golden.py made, by name. Each must be taken once: what is left at the
// end is a case that no test looked at.
class Golden {
 public:
  explicit Golden(const std::string& file) {
    const auto path = std::filesystem::path(LOCKSTEP_TEST_DATA) / file;
    for (auto& [name, t] : data::read_safetensors(path).tensors) tensors_[name] = t;
  }
  Tensor take(const std::string& name) {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) throw DataError("no golden values for " + name);
    const Tensor t = found->second;
    tensors_.erase(found);
    return t;
  }
  std::string left() const {
    std::string names;
    for (const auto& [name, t] : tensors_) names += name + " ";
    return names;
  }

 private:
  std::map<std::string, Tensor> tensors_;
};

}  // namespace lockstep::test
