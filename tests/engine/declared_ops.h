#pragma once

#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>
#include <set>
#include <string>

namespace lockstep::testing {

// The functions that a header declares with a tensor, or several, as result: at the start of a
// line, or for members behind the indentation of a class.
inline std::set<std::string> functions_of(const std::filesystem::path& header,
                                          const std::string& indent) {
  std::ifstream file(header);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const std::regex declaration(
      "(?:^|\n)" + indent +
      "(?:inline )?(?:const )?(?:Tensor&?|ValuesAndIndices|(?:::)?std::vector<Tensor>)\\s+(\\w+)"
      "\\(");
  std::set<std::string> names;
  for (std::sregex_iterator at(text.begin(), text.end(), declaration), end; at != end; ++at) {
    if ((*at)[1] != "operator") names.insert((*at)[1]);
  }
  return names;
}

// Those of tensor.h and of every public header in ops/ of the engine's sources.
inline std::set<std::string> declared_functions(const std::filesystem::path& engine) {
  const std::set<std::string> internal = {"autocast.h",         "layout.h",    "half.h",
                                          "pointwise_kernel.h", "functors.h",  "host_values.h",
                                          "row_norm.h",         "gemm_call.h", "positions.h"};
  std::set<std::string> names = functions_of(engine / "tensor/tensor.h", "  ");
  for (const auto& entry : std::filesystem::directory_iterator(engine / "ops")) {
    if (entry.path().extension() != ".h" || internal.count(entry.path().filename())) continue;
    names.merge(functions_of(entry.path(), ""));
  }
  return names;
}

}  // namespace lockstep::testing
