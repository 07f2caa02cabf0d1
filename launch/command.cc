// The `lockstep` command.
//
//   lockstep doctor [--device cpu|cuda]    what this machine has, and what is missing
#include <cstdio>
#include <exception>
#include <string>

#include <CLI/CLI.hpp>

#include "lockstep/launch/doctor.h"

namespace {

int doctor(const std::string& device) {
  const auto diagnosis = lockstep::launch::diagnose();
  std::fputs(diagnosis.str().c_str(), stdout);
  return device == "cuda" && !diagnosis.cuda ? 1 : 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    CLI::App app("Lockstep's helper on the command line.", "lockstep");
    app.set_version_flag("--version", "lockstep " LOCKSTEP_VERSION);
    app.require_subcommand(1);
    std::string device = "cpu";
    auto* command = app.add_subcommand(
        "doctor", "Says what this machine has, what is missing, and how to get it");
    command->add_option("--device", device, "Fail (code 1) if this kind of device cannot be used")
        ->check(CLI::IsMember({"cpu", "cuda"}))
        ->capture_default_str();
    try {
      app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
      return app.exit(error) == 0 ? 0 : 2;
    }
    return doctor(device);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "lockstep: %s\n", error.what());
    return 1;
  }
}
