#pragma once

#include <string>

namespace lockstep {

// How many threads of this process compute on the CPU. Starts as OMP_NUM_THREADS, otherwise (with a
// warning on standard error if the variable holds no number) as the number of cores in the affinity
// mask. Results never depend on it.
int num_threads();
void set_num_threads(int threads);  // throws ValueError unless 1 <= threads <= 1024

// What OMP_NUM_THREADS asks for: the first number of its list, at most 1024.
struct ThreadRequest {
  std::string text;  // of the variable; empty if it is not set
  int threads = 0;   // 0 if it is not set or not understood

  bool understood() const { return text.empty() || threads > 0; }
};
ThreadRequest requested_threads();

}  // namespace lockstep
