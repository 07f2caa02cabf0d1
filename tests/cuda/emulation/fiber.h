#pragma once

#include <cstddef>

#if !defined(__x86_64__) && !defined(LOCKSTEP_EMULATION_UCONTEXT)
#define LOCKSTEP_EMULATION_UCONTEXT 1
#endif
#ifdef LOCKSTEP_EMULATION_UCONTEXT
#include <ucontext.h>
#endif

namespace lockstep::emulation {

// A stack and the point where its execution goes on. A default-constructed fiber stands for the
// stack of the thread that switches away from it. Fibers are switched under a lock, in any thread.
struct Fiber {
  void (*entry)() = nullptr;
#ifdef LOCKSTEP_EMULATION_UCONTEXT
  ucontext_t context;
#else
  void* stack_pointer = nullptr;
#endif
  void* bottom = nullptr;      // of the stack; for AddressSanitizer
  size_t bytes = 0;            // likewise
  void* fake_stack = nullptr;  // likewise, while the fiber does not run
};

// Gives `fiber` a stack on which the first switch calls `entry`, which must not return.
void start_fiber(Fiber& fiber, void (*entry)());
// Goes on in `to`; returns when something switches back to `from`, the running fiber.
void switch_fiber(Fiber& from, Fiber& to);

}  // namespace lockstep::emulation
