#include "lockstep/distributed/step_trailer.h"

#include <algorithm>

#include "lockstep/distributed/agreement.h"
#include "lockstep/distributed/canonical_sum.h"
#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/ops/ops.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::distributed {
namespace {

// Float32 holds every integer up to 2^24. A count travels as digits so small that their sums over
// all ranks stay below, and who has joined as a few bits a word.
constexpr size_t kDigits = 5;
constexpr int64_t kBase = 256;
constexpr int kMostRanks = (1 << 24) / kBase;
constexpr size_t kRanksPerWord = 16;

// Behind these the high and low part of each term of the loss; words that say who has joined; and
// for each place on how many ranks it is wanted.
enum Extra : size_t {
  kStep,
  kStepSquare,
  kBackwards,
  kBackwardsSquare,
  kNonFinite,
  kSamples,
  kOfSamples = kSamples + kDigits,
  kLoss = kOfSamples + kDigits
};

// A double as two floats whose sum carries about 48 bits.
void split(double value, double* high, double* low) {
  *high = static_cast<float>(value);
  *low = value - *high;
}

void write_count(int64_t count, double* digits) {
  for (size_t d = 0; d < kDigits; ++d, count /= kBase) {
    digits[d] = static_cast<double>(count % kBase);
  }
}

double read_count(const double* digits) {
  double count = 0.0;
  for (size_t d = kDigits; d-- > 0;) count = count * static_cast<double>(kBase) + digits[d];
  return count;
}

}  // namespace

int StepTrailer::Sums::active() const {
  return static_cast<int>(std::count(joined.begin(), joined.end(), false));
}

int StepTrailer::Sums::first_active() const {
  return static_cast<int>(std::find(joined.begin(), joined.end(), false) - joined.begin());
}

StepTrailer::StepTrailer(int rank, int world, size_t loss_terms)
    : rank_(rank), world_(world), loss_terms_(loss_terms) {
  check(world <= kMostRanks, "[data_parallel] {} ranks; at most {} are supported", world,
        kMostRanks);
}

size_t StepTrailer::non_finite_at() { return kNonFinite; }

size_t StepTrailer::loss_at() { return kLoss; }

Tensor StepTrailer::split_terms(const Tensor& terms) {
  const autograd::NoGrad no_grad;
  const Tensor high = terms.to(DType::kFloat32).to(DType::kFloat64);
  return stack({high, terms - high}, 1).view({-1});
}

size_t StepTrailer::joined_at() const { return kLoss + 2 * loss_terms_; }

size_t StepTrailer::wanted_at() const {
  return joined_at() + (static_cast<size_t>(world_) + kRanksPerWord - 1) / kRanksPerWord;
}

size_t StepTrailer::size(size_t places) const { return wanted_at() + places; }

std::vector<double> StepTrailer::write(const Share& share, bool non_finite,
                                       const std::vector<bool>& wanted) const {
  check(share.loss_terms.size() == loss_terms_, "[reducer] {} terms of the loss instead of {}",
        share.loss_terms.size(), loss_terms_);
  std::vector<double> extras(size(wanted.size()));
  if (share.joined) {
    const auto rank = static_cast<size_t>(rank_);
    extras[joined_at() + rank / kRanksPerWord] = static_cast<double>(1 << rank % kRanksPerWord);
  } else {
    const NumberMark step = mark_of(share.step, world_);
    extras[kStep] = step.value;
    extras[kStepSquare] = step.square;
    const NumberMark backwards = mark_of(share.backwards, world_);
    extras[kBackwards] = backwards.value;
    extras[kBackwardsSquare] = backwards.square;
    write_count(share.samples, &extras[kSamples]);
    write_count(share.of_samples, &extras[kOfSamples]);
  }
  extras[kNonFinite] = non_finite ? 1.0 : 0.0;
  for (size_t t = 0; t < loss_terms_; ++t) {
    split(share.loss_terms[t], &extras[kLoss + 2 * t], &extras[kLoss + 2 * t + 1]);
  }
  for (size_t i = 0; i < wanted.size(); ++i) extras[wanted_at() + i] = wanted[i] ? 1.0 : 0.0;
  return extras;
}

StepTrailer::Sums StepTrailer::read(std::span<const double> extras) const {
  Sums sums;
  for (size_t r = 0; r < static_cast<size_t>(world_); ++r) {
    const auto word = static_cast<int64_t>(extras[joined_at() + r / kRanksPerWord]);
    sums.joined.push_back((word >> r % kRanksPerWord & 1) != 0);
  }
  const int active = sums.active();
  sums.same_step = marks_agree({extras[kStep], extras[kStepSquare]}, active);
  sums.same_backwards = marks_agree({extras[kBackwards], extras[kBackwardsSquare]}, active);
  // All active ranks average over the same number, whose sum this is.
  const double samples = read_count(&extras[kSamples]),
               of_samples = read_count(&extras[kOfSamples]);
  if (active < world_ && samples > 0 && of_samples > 0) {
    sums.scale = of_samples / (active * samples);
  }
  sums.non_finite = extras[kNonFinite] != 0.0;  // which NaN is not
  std::vector<double> losses;
  for (size_t t = 0; t < loss_terms_; ++t) {
    losses.push_back(extras[kLoss + 2 * t] + extras[kLoss + 2 * t + 1]);
  }
  sums.loss = canonical_sum(losses) * sums.scale;
  for (const double ranks : extras.subspan(wanted_at())) sums.wanted.push_back(ranks > 0.0);
  return sums;
}

}  // namespace lockstep::distributed
