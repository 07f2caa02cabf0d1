#include "lockstep/engine/autograd/grad_mode.h"

#include <utility>

namespace lockstep::autograd {
namespace {
thread_local bool enabled = true;
thread_local bool inference = false;
}  // namespace

bool grad_enabled() { return enabled && !inference; }
void set_grad_enabled(bool value) { enabled = value; }

bool inference_mode_enabled() { return inference; }
InferenceMode::InferenceMode() : previous_(std::exchange(inference, true)) {}
InferenceMode::~InferenceMode() { inference = previous_; }

}  // namespace lockstep::autograd
