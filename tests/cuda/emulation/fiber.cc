#include "fiber.h"

#include <cstdint>

#include <sys/mman.h>

#include "runtime_state.h"
#include "sanitizer.h"

#ifndef LOCKSTEP_EMULATION_UCONTEXT
// swapcontext() makes two system calls for the signal mask, which never changes here. This saves
// what a function must preserve by the x86-64 ABI and no more.
extern "C" void lockstep_emulation_switch(void** save, void* load);
asm(R"(
  .text
  .p2align 4
  .hidden lockstep_emulation_switch
  .globl lockstep_emulation_switch
  .type lockstep_emulation_switch, @function
lockstep_emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size lockstep_emulation_switch, .-lockstep_emulation_switch
)");
#endif

namespace lockstep::emulation {
namespace {

constexpr size_t kPage = 4096;
#ifdef LOCKSTEP_EMULATION_ASAN
constexpr size_t kStackBytes = 256 * 1024;
#else
constexpr size_t kStackBytes = 64 * 1024;
#endif

Fiber* running = nullptr;   // the fiber switched to last
Fiber* previous = nullptr;  // the one before

void departing(Fiber& from, Fiber& to) {
  previous = &from;
  running = &to;
#ifdef LOCKSTEP_EMULATION_ASAN
  __sanitizer_start_switch_fiber(&from.fake_stack, to.bottom, to.bytes);
#endif
}

// The first code on a stack after a switch to it. It learns the bounds of the stack left behind,
// which for an operating system's thread nobody else knows.
void arrived() {
#ifdef LOCKSTEP_EMULATION_ASAN
  const void* bottom = nullptr;
  size_t bytes = 0;
  __sanitizer_finish_switch_fiber(running->fake_stack, &bottom, &bytes);
  previous->bottom = const_cast<void*>(bottom);
  previous->bytes = bytes;
#endif
}

void first_function() {
  arrived();
  running->entry();
  stop("a fiber returned");
}

}  // namespace

void start_fiber(Fiber& fiber, void (*entry)()) {
  // A page without access below the stack, so that an overflow does not go unnoticed.
  void* const memory = mmap(nullptr, kPage + kStackBytes, PROT_NONE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  char* const stack = static_cast<char*>(memory) + kPage;
  if (memory == MAP_FAILED || mprotect(stack, kStackBytes, PROT_READ | PROT_WRITE) != 0) {
    stop("no memory for the stack of a thread");
  }
  fiber.entry = entry;
  fiber.bottom = stack;
  fiber.bytes = kStackBytes;
#ifdef LOCKSTEP_EMULATION_UCONTEXT
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = stack;
  fiber.context.uc_stack.ss_size = kStackBytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, first_function, 0);
#else
  // What the switch pops: six registers, of which rbp = 0 ends backtraces, the address to return
  // to, and that function's own return address. The latter is 8 below a multiple of 16, as a call
  // would have left it.
  auto* const top = reinterpret_cast<uintptr_t*>(stack + kStackBytes);
  top[-1] = 0;
  top[-2] = reinterpret_cast<uintptr_t>(&first_function);
  for (int i = 3; i <= 8; ++i) {
    top[-i] = 0;
  }
  fiber.stack_pointer = top - 8;
#endif
}

void switch_fiber(Fiber& from, Fiber& to) {
  departing(from, to);
#ifdef LOCKSTEP_EMULATION_UCONTEXT
  swapcontext(&from.context, &to.context);
#else
  lockstep_emulation_switch(&from.stack_pointer, to.stack_pointer);
#endif
  arrived();
}

}  // namespace lockstep::emulation
