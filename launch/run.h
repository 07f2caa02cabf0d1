#pragma once

#include <functional>

#include "lockstep/launch/job.h"
#include "lockstep/launch/options.h"

namespace lockstep::launch {

// Runs `train` as one rank of a job and returns main()'s exit code: 0, 1 after an error, 2 for a
// command line that cannot be run.
//
// Works alone, under mpirun and under srun. Parses the common flags (options.h) and the program's
// own, sets up the log, the random seed and the process group, calls `train`, writes the report and
// prints a summary to standard output on rank 0.
//
// Whatever `train` throws is logged with the rank and told to the other ranks, which end with an
// error of their own; so does a rank that keeps the others waiting for longer than --watchdog, and
// one that does not notice a failure is ended by a thread of its own. Each leaves its last
// collectives in a file (docs/diagnosis.md). A rank that has failed under MPI does not return from
// here: it leaves the process with code 1, because MPI could not be ended in order. SIGTERM and
// SIGINT end the process with one line in the log (signals.h).
int run(int argc, char** argv, const std::function<void(Job&)>& train,
        const ProgramOptions& extra = {});

}  // namespace lockstep::launch
