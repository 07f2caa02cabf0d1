#include "lockstep/engine/autograd/anomaly_mode.h"

#include <utility>

namespace lockstep::autograd {
namespace {
thread_local bool enabled = false;
}

AnomalyMode::AnomalyMode(bool on) : previous_(std::exchange(enabled, on)) {}
AnomalyMode::~AnomalyMode() { enabled = previous_; }
bool AnomalyMode::is_enabled() { return enabled; }

}  // namespace lockstep::autograd
