#pragma once

#include "lockstep/engine/backend.h"

namespace lockstep::cpu {

// The one CPU backend; never destroyed.
Backend& cpu_backend();

}  // namespace lockstep::cpu
