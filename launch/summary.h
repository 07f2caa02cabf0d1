#pragma once

#include <string>

#include "lockstep/launch/report.h"

namespace lockstep::launch {

// The few lines that a job ends with on standard output: accuracy, speed, how much of the
// communication was hidden behind backward, and where log, report and trace are.
std::string format_summary(const Report& report, const std::string& report_path,
                           const std::string& trace_path = "");

// What to change where more than half of the communication is exposed and it takes more than a
// tenth of the step: one sentence, or nothing.
std::string overlap_advice(const Report& report);

}  // namespace lockstep::launch
