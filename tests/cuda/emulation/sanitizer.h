#pragma once

// Whether this is a build with AddressSanitizer, and its interface if so.
#if defined(__SANITIZE_ADDRESS__)
#define LOCKSTEP_EMULATION_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define LOCKSTEP_EMULATION_ASAN 1
#endif
#endif

#ifdef LOCKSTEP_EMULATION_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
