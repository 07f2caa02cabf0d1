#pragma once

namespace lockstep::autograd {

// Whether the calling thread records operations: the mode below, which is on by default, and never
// within an InferenceMode, whatever guards are inside it.
bool grad_enabled();
void set_grad_enabled(bool enabled);

// Sets the mode for a scope: NoGrad guard; or autograd::GradMode guard(true).
class GradMode {
 public:
  explicit GradMode(bool enabled) : previous_(grad_enabled()) { set_grad_enabled(enabled); }
  ~GradMode() { set_grad_enabled(previous_); }
  GradMode(const GradMode&) = delete;
  GradMode& operator=(const GradMode&) = delete;

 private:
  bool previous_;
};

struct NoGrad : GradMode {
  NoGrad() : GradMode(false) {}
};
struct EnableGrad : GradMode {
  EnableGrad() : GradMode(true) {}
};

// NoGrad whose tensors stay outside autograd for good: they can neither be saved for backward nor
// written to in place later.
bool inference_mode_enabled();
class InferenceMode {
 public:
  InferenceMode();
  ~InferenceMode();
  InferenceMode(const InferenceMode&) = delete;
  InferenceMode& operator=(const InferenceMode&) = delete;

 private:
  NoGrad no_grad_;
  bool previous_;
};

}  // namespace lockstep::autograd
