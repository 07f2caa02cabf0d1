#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "lockstep/engine/tensor/tensor.h"

namespace lockstep::distributed {

// What each rank says about its part of a reduction. It lies in the last bucket's trailer, is
// summed over the ranks with the gradients, and so costs no message; from the sums every rank
// concludes alike. Trailers may be float32: whatever must be exact is cut into small integers.
class StepTrailer {
 public:
  // Throws ValueError for more than 65,536 ranks, whose sums would not be exact.
  StepTrailer(int rank, int world, size_t loss_terms);

  struct Share {          // of one rank
    bool joined = false;  // it has no data left and takes part with nothing
    int64_t step = 0;
    int64_t backwards = 0;  // those whose gradients travel, where ranks must agree on it
    // What its gradients have been averaged over, and what the average is to be over on all ranks
    // together; below 2^40. 0 and 0: it does not matter who has joined.
    int64_t samples = 0, of_samples = 0;
    std::vector<double> loss_terms;
  };
  struct Sums {
    std::vector<bool> joined;                      // by rank
    bool same_step = true, same_backwards = true;  // on those that have not joined
    double scale = 1.0;       // makes the gradients the average over the samples that were there
    bool non_finite = false;  // on some rank
    double loss = 0.0;        // all terms, each summed over the ranks, scaled
    std::vector<bool> wanted;

    int active() const;        // ranks that have not joined
    int first_active() const;  // the lowest of them
  };

  size_t size(size_t places) const;
  // Where in it a device writes what only it knows: whether something is not finite, as a number
  // that is not 0, and for each term of the loss its high and its low part.
  static size_t non_finite_at();
  static size_t loss_at();
  static Tensor split_terms(const Tensor& terms);  // into those parts, on a device
  // `wanted`: the reducer's places that this rank wants to have reduced.
  std::vector<double> write(const Share& share, bool non_finite,
                            const std::vector<bool>& wanted) const;
  Sums read(std::span<const double> sums) const;

 private:
  size_t joined_at() const;  // behind the terms of the loss
  size_t wanted_at() const;  // behind who has joined

  int rank_, world_;
  size_t loss_terms_;
};

}  // namespace lockstep::distributed
