#include "lockstep/distributed/step_trailer.h"

#include "lockstep/distributed/agreement.h"
#include "lockstep/distributed/canonical_sum.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::distributed {
namespace {

// Behind these the high and low part of each term of the loss, and for each place on how many ranks
// it is wanted.
enum Extra : size_t { kStep, kStepSquare, kBackwards, kBackwardsSquare, kNonFinite, kLoss };

// A double as two floats whose sum carries about 48 bits.
void split(double value, double* high, double* low) {
  *high = static_cast<float>(value);
  *low = value - *high;
}

}  // namespace

size_t StepTrailer::size(size_t places) const { return kLoss + 2 * loss_terms_ + places; }

std::vector<double> StepTrailer::write(const Share& share, bool non_finite,
                                       const std::vector<bool>& wanted) const {
  check(share.loss_terms.size() == loss_terms_, "[reducer] {} terms of the loss instead of {}",
        share.loss_terms.size(), loss_terms_);
  std::vector<double> extras(size(wanted.size()));
  const NumberMark step = mark_of(share.step, world_);
  extras[kStep] = step.value;
  extras[kStepSquare] = step.square;
  const NumberMark backwards = mark_of(share.backwards, world_);
  extras[kBackwards] = backwards.value;
  extras[kBackwardsSquare] = backwards.square;
  extras[kNonFinite] = non_finite ? 1.0 : 0.0;
  for (size_t t = 0; t < loss_terms_; ++t) {
    split(share.loss_terms[t], &extras[kLoss + 2 * t], &extras[kLoss + 2 * t + 1]);
  }
  for (size_t i = 0; i < wanted.size(); ++i) {
    extras[kLoss + 2 * loss_terms_ + i] = wanted[i] ? 1.0 : 0.0;
  }
  return extras;
}

StepTrailer::Sums StepTrailer::read(std::span<const double> extras) const {
  Sums sums;
  sums.same_step = marks_agree({extras[kStep], extras[kStepSquare]}, world_);
  sums.same_backwards = marks_agree({extras[kBackwards], extras[kBackwardsSquare]}, world_);
  sums.non_finite = extras[kNonFinite] > 0.0;
  std::vector<double> losses;
  for (size_t t = 0; t < loss_terms_; ++t) {
    losses.push_back(extras[kLoss + 2 * t] + extras[kLoss + 2 * t + 1]);
  }
  sums.loss = canonical_sum(losses);
  for (const double ranks : extras.subspan(kLoss + 2 * loss_terms_)) {
    sums.wanted.push_back(ranks > 0.0);
  }
  return sums;
}

}  // namespace lockstep::distributed
