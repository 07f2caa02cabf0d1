#include "golden/golden.h"

#include <filesystem>
#include <fstream>

namespace lockstep::golden {

nlohmann::json read(const std::string& name) {
  const auto path = std::filesystem::path(LOCKSTEP_GOLDEN_FOLDER) / name;
  std::ifstream file(path);
  EXPECT_TRUE(file.good()) << path;
  return nlohmann::json::parse(file);
}

}  // namespace lockstep::golden
