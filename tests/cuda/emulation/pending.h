#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>

#include "runtime_types.h"

// When the work that was issued to streams is done.
//
// By default at once. With LOCKSTEP_EMULATION_DEFER=1 as late as a device may do it: when the host
// waits for it or keeps asking, or other work that is waited for comes behind it by an event or by
// its place in a stream. So a host that looks at pinned memory before the copy to it has been
// waited for finds 0xFF there, one that overwrites pinned memory too early sends the wrong bytes,
// and a stream that was not made to wait for another one runs before it. Copies from and to memory
// that is not pinned return when that may be used again, as on a device.
//
// Of everything here: the caller holds device_mutex(), and the work runs under it.
namespace lockstep::emulation {

bool deferring();

class Line {  // the work of one stream, in order
 public:
  void add(std::function<void()> work);
  uint64_t issued() const { return issued_; }
  bool reached(uint64_t position) const { return done_ >= position; }
  void run_until(uint64_t position);  // the first `position` pieces of work are done

 private:
  std::deque<std::function<void()>> work_;
  uint64_t issued_ = 0, done_ = 0;
};

// The stream lives. The default streams wait for everything and defer nothing.
void submit(cudaStream_t stream, std::function<void()> work);
void finish(cudaStream_t stream);
void finish_all();

}  // namespace lockstep::emulation
