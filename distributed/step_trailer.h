#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace lockstep::distributed {

// What each rank says about its part of a reduction. It lies in the last bucket's trailer, is
// summed over the ranks with the gradients, and so costs no message; from the sums every rank
// concludes alike. Trailers may be float32: whatever must be exact is cut into small integers.
class StepTrailer {
 public:
  explicit StepTrailer(int world, size_t loss_terms) : world_(world), loss_terms_(loss_terms) {}

  struct Share {  // of one rank
    int64_t step = 0;
    int64_t backwards = 0;  // those whose gradients travel, where ranks must agree on it
    std::vector<double> loss_terms;
  };
  struct Sums {
    bool same_step = true, same_backwards = true;
    bool non_finite = false;  // on some rank
    double loss = 0.0;        // all terms, each summed over the ranks
    std::vector<bool> wanted;
  };

  size_t size(size_t places) const;
  // `wanted`: the reducer's places that this rank wants to have reduced.
  std::vector<double> write(const Share& share, bool non_finite,
                            const std::vector<bool>& wanted) const;
  Sums read(std::span<const double> sums) const;

 private:
  int world_;
  size_t loss_terms_;
};

}  // namespace lockstep::distributed
