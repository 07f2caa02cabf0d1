#pragma once

#include <cmath>

#include "lockstep/engine/backend.h"
#include "lockstep/engine/tensor/host_device.h"

// What an optimizer does to one element, for every backend: the formulas of optim/sgd.h and
// optim/adam.h, with what is the same for all elements computed once, on the host.
namespace lockstep {

template <typename T>
struct SgdMath {
  T lr, decay, momentum, take, sign;
  bool first, nesterov;

  explicit SgdMath(const SgdArgs& args)
      : lr(static_cast<T>(args.lr)),
        decay(static_cast<T>(args.weight_decay)),
        momentum(static_cast<T>(args.momentum)),
        take(static_cast<T>(1 - args.dampening)),
        sign(args.maximize ? T(-1) : T(1)),
        first(args.first_step),
        nesterov(args.nesterov) {}

  [[gnu::always_inline]] LOCKSTEP_HD void step(T& p, T g) const { p -= lr * direction(p, g); }
  [[gnu::always_inline]] LOCKSTEP_HD void step(T& p, T g, T& buffer) const {
    const T d = direction(p, g);
    const T b = first ? d : momentum * buffer + take * d;
    buffer = b;
    p -= lr * (nesterov ? d + momentum * b : b);
  }

 private:
  [[gnu::always_inline]] LOCKSTEP_HD T direction(T p, T g) const { return sign * g + decay * p; }
};

template <typename T>
struct AdamMath {
  T step_size, root, beta1, rest1, beta2, rest2, eps, sign, l2, shrink;

  explicit AdamMath(const AdamArgs& args)
      : beta1(static_cast<T>(args.beta1)),
        rest1(static_cast<T>(1 - args.beta1)),
        beta2(static_cast<T>(args.beta2)),
        rest2(static_cast<T>(1 - args.beta2)),
        eps(static_cast<T>(args.eps)),
        sign(args.maximize ? T(-1) : T(1)),
        l2(args.decoupled_weight_decay ? T(0) : static_cast<T>(args.weight_decay)),
        shrink(args.decoupled_weight_decay ? static_cast<T>(1 - args.lr * args.weight_decay)
                                           : T(1)) {
    const double correction1 = 1 - std::pow(args.beta1, static_cast<double>(args.step));
    const double correction2 = 1 - std::pow(args.beta2, static_cast<double>(args.step));
    step_size = static_cast<T>(args.lr / correction1);
    root = static_cast<T>(std::sqrt(correction2));
  }

  [[gnu::always_inline]] LOCKSTEP_HD void step(T& p, T g, T& m, T& v) const {
    const T x = p * shrink;
    advance(x, g, m, v);
    p = moved(x, m, v);
  }
  [[gnu::always_inline]] LOCKSTEP_HD void step(T& p, T g, T& m, T& v, T& largest) const {
    const T x = p * shrink;
    advance(x, g, m, v);
    largest = largest > v ? largest : v;
    p = moved(x, m, largest);
  }

 private:
  [[gnu::always_inline]] LOCKSTEP_HD void advance(T x, T g, T& m, T& v) const {
    const T d = sign * g + l2 * x;
    m = beta1 * m + rest1 * d;
    v = beta2 * v + rest2 * d * d;
  }
  [[gnu::always_inline]] LOCKSTEP_HD T moved(T x, T mean, T square) const {
    return x - step_size * (mean / (std::sqrt(square) / root + eps));
  }
};

}  // namespace lockstep
