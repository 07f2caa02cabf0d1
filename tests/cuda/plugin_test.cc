// Programs without a usable GPU: everything says why, and what to do. Each case in a process of its
// own, since the plugin is looked for once.
#include "lockstep/engine/plugin.h"

#include <cstdlib>

#include <gtest/gtest.h>

#include "lockstep/engine/ops/ops.h"
#include "lockstep/engine/tensor/device.h"
#include "lockstep/engine/tensor/error.h"
#include "lockstep/engine/tensor/factory.h"

namespace lockstep {
namespace {

// Ends the process with 0 if making a tensor on cuda:0 throws an Error with all of `parts`.
[[noreturn]] void expect_unavailable(const char* plugin, std::vector<std::string> parts) {
  setenv("LOCKSTEP_CUDA_PLUGIN", plugin, 1);
  try {
    zeros({2}, {.device = Device::parse("cuda")});
    std::fputs("no error", stderr);
    std::exit(1);
  } catch (const Error& error) {
    const std::string text = error.what();
    parts.insert(parts.end(), {"[backend] cuda:0 is unavailable", "--device cpu"});
    for (const auto& part : parts) {
      if (text.find(part) == std::string::npos) {
        std::fprintf(stderr, "\"%s\" lacks \"%s\"\n", text.c_str(), part.c_str());
        std::exit(1);
      }
    }
    const bool same =
        cuda_status().devices == 0 && text.find(cuda_status().why) != std::string::npos;
    std::fputs(text.c_str(), stderr);
    std::exit(same ? 0 : 1);
  }
}

#define EXPECT_UNAVAILABLE(plugin, ...) \
  EXPECT_EXIT(expect_unavailable(plugin, {__VA_ARGS__}), testing::ExitedWithCode(0), "unavailable")

TEST(Plugin, NoFile) {
  EXPECT_UNAVAILABLE("/nowhere/liblockstep_cuda.so", "there is no /nowhere/liblockstep_cuda.so",
                     "CUDA Toolkit", "LOCKSTEP_CUDA_PLUGIN");
}

TEST(Plugin, NoLibrary) { EXPECT_UNAVAILABLE("/etc/passwd", "cannot be loaded", "/etc/passwd"); }

TEST(Plugin, SomethingElse) {
  EXPECT_UNAVAILABLE(STRANGER, "is no plugin of Lockstep's", STRANGER);
}

TEST(Plugin, OfAnotherBuild) {
  EXPECT_UNAVAILABLE(OTHER_BUILD, "another build of Lockstep", "0.0.0-of-old", "together");
}

TEST(Plugin, IsFoundBesideTheLibrary) {
  EXPECT_EXIT(
      {
        unsetenv("LOCKSTEP_CUDA_PLUGIN");
        const CudaStatus& status = cuda_status();
        bool right = (status.devices > 0) == status.why.empty();
        if (BUILT_WITH_CUDA) {  // then it loads, with a GPU or without
          right = right && status.path == std::string(BUILD_FOLDER) + "/liblockstep_cuda.so" &&
                  cuda_facts().size() >= 2;
        } else if (status.path.empty()) {  // an earlier build may have left one
          right = right && status.why.find("CUDA Toolkit") != std::string::npos;
        }
        std::fputs((status.path + "; " + status.why).c_str(), stderr);
        std::exit(right ? 0 : 1);
      },
      testing::ExitedWithCode(0), "");
}

TEST(Plugin, CpuNeedsNone) {
  EXPECT_EXIT(
      {
        setenv("LOCKSTEP_CUDA_PLUGIN", "/nowhere/liblockstep_cuda.so", 1);
        std::exit(ones({3}).sum().item() == 3 ? 0 : 1);
      },
      testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace lockstep
