#pragma once

#include <sched.h>
#include <unistd.h>

#include "lockstep/distributed/work_queue.h"

namespace lockstep::distributed {

// Between two looks at something that others bring about: yields at first, then sleeps, longer and
// longer, so that a waiting communication thread leaves its core to whoever computes.
class Backoff {
 public:
  void reset() { looks_ = 0; }
  void pause() {
    const int yields = WorkQueue::on_communication_thread() ? 5 : 200;
    if (++looks_ <= yields) {
      sched_yield();
    } else {
      usleep(looks_ < yields + 20 ? 20 : 100);
    }
  }

 private:
  int looks_ = 0;
};

}  // namespace lockstep::distributed
