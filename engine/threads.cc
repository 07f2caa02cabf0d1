#include "lockstep/engine/threads.h"

#include <algorithm>
#include <cstdlib>

#include "lockstep/engine/cpu/thread_pool.h"

namespace lockstep {

int num_threads() { return cpu::num_threads(); }
void set_num_threads(int threads) { cpu::set_num_threads(threads); }

ThreadRequest requested_threads() {
  constexpr long kMost = 1024;
  ThreadRequest request;
  const char* text = std::getenv("OMP_NUM_THREADS");
  if (text == nullptr) return request;
  request.text = text;
  char* end = nullptr;
  const long threads = std::strtol(text, &end, 10);
  while (*end == ' ') ++end;
  const bool number = end != text && (*end == '\0' || *end == ',');  // a list has one per level
  if (number && threads > 0) request.threads = static_cast<int>(std::min(threads, kMost));
  return request;
}

}  // namespace lockstep
