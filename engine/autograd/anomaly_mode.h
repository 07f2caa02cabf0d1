#pragma once

namespace lockstep::autograd {

// While it lives, this thread's backward checks every gradient that a node computes and throws
// Error naming the node, whose name is that of the forward op, when one contains a NaN that did not
// come in. Slow: for debugging.
class AnomalyMode {
 public:
  explicit AnomalyMode(bool enabled = true);
  ~AnomalyMode();
  AnomalyMode(const AnomalyMode&) = delete;
  AnomalyMode& operator=(const AnomalyMode&) = delete;
  static bool is_enabled();

 private:
  bool previous_;
};

}  // namespace lockstep::autograd
