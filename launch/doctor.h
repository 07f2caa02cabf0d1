#pragma once

#include <string>
#include <utility>
#include <vector>

namespace lockstep::launch {

// What `lockstep doctor` says about this machine: sections of (name, value) lines.
struct Diagnosis {
  struct Section {
    std::string title;
    std::vector<std::pair<std::string, std::string>> lines;
  };
  std::vector<Section> sections;
  bool cuda = false;  // at least one device can be used

  std::string str() const;
};

// Looks at processor, memory, MPI, CUDA and data. Starts no MPI job; creates no CUDA context beyond
// asking for devices.
Diagnosis diagnose();

}  // namespace lockstep::launch
