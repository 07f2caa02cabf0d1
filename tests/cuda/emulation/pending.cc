#include "pending.h"

#include <cstdlib>
#include <cstring>
#include <utility>

namespace lockstep::emulation {

bool deferring() {
  static const bool wanted = [] {
    const char* const text = std::getenv("LOCKSTEP_EMULATION_DEFER");
    return text != nullptr && std::strcmp(text, "1") == 0;
  }();
  return wanted;
}

void Line::add(std::function<void()> work) {
  work_.push_back(std::move(work));
  ++issued_;
  if (!deferring()) {
    run_until(issued_);
  }
}

// Work may run other lines, which never come back to where this one is: events are recorded before
// they are waited for.
void Line::run_until(uint64_t position) {
  while (done_ < position) {
    const auto work = std::move(work_.front());
    work_.pop_front();
    work();
    ++done_;
  }
}

}  // namespace lockstep::emulation
