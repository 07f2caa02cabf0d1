#pragma once

namespace lockstep {

// How many threads of this process compute on the CPU. Starts as OMP_NUM_THREADS, otherwise as the
// number of cores in the affinity mask. Results never depend on it.
int num_threads();
void set_num_threads(int threads);  // throws ValueError unless 1 <= threads <= 1024

}  // namespace lockstep
