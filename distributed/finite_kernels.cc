#include "lockstep/distributed/finite_kernels.h"

namespace lockstep::cpu::LOCKSTEP_ISA {

// Without the sign, the bits of a number that is not finite are at least those of infinity; so the
// largest ones tell. A fixed number of partial maxima, which become vectors.
template <typename Bits>
static bool all_finite(const Bits* x, int64_t n, Bits infinity) {
  constexpr int64_t kWidth = 256 / sizeof(Bits);
  Bits largest[kWidth] = {};
  const Bits magnitude = ~(Bits{1} << (8 * sizeof(Bits) - 1));
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    for (int64_t k = 0; k < kWidth; ++k) {
      const Bits value = x[i + k] & magnitude;
      largest[k] = value > largest[k] ? value : largest[k];
    }
  }
  for (; i < n; ++i) {
    const Bits value = x[i] & magnitude;
    largest[0] = value > largest[0] ? value : largest[0];
  }
  bool finite = true;
  for (int64_t k = 0; k < kWidth; ++k) finite = finite && largest[k] < infinity;
  return finite;
}

static bool all_finite32(const uint32_t* x, int64_t n) {
  return all_finite<uint32_t>(x, n, 0x7f800000u);
}
static bool all_finite64(const uint64_t* x, int64_t n) {
  return all_finite<uint64_t>(x, n, 0x7ff0000000000000u);
}

const FiniteKernels& finite_kernels() {
  static constexpr FiniteKernels kTable{.all_finite32 = all_finite32, .all_finite64 = all_finite64};
  return kTable;
}

}  // namespace lockstep::cpu::LOCKSTEP_ISA
