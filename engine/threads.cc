#include "lockstep/engine/threads.h"

#include "lockstep/engine/cpu/thread_pool.h"

namespace lockstep {

int num_threads() { return cpu::num_threads(); }
void set_num_threads(int threads) { cpu::set_num_threads(threads); }

}  // namespace lockstep
