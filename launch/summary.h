#pragma once

#include <string>

#include "lockstep/launch/report.h"

namespace lockstep::launch {

// The few lines that a job ends with on standard output: accuracy, speed, how much of the
// communication was hidden behind backward, and where log and report are.
std::string format_summary(const Report& report, const std::string& report_path);

}  // namespace lockstep::launch
