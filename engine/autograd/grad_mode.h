#pragma once

namespace lockstep::autograd {

// Whether the calling thread records operations. On by default.
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

}  // namespace lockstep::autograd
