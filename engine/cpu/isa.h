#pragma once

// Hot loops are compiled once per instruction set and chosen at run time, so that one binary runs
// on every x86-64 and still uses what the machine has. A kernel family is three small pieces:
//
//   scale_kernels.h    struct ScaleKernels { void (*scale)(float* x, int64_t n, float factor); };
//                      LOCKSTEP_ISA_DECLARE(ScaleKernels, scale_kernels)
//
//   scale_kernels.cc   (listed in lockstep_add_isa_sources, never in target_sources)
//                      namespace lockstep::cpu::LOCKSTEP_ISA {
//                      static void scale(float* x, int64_t n, float factor) { ... }
//                      const ScaleKernels& scale_kernels() {
//                        static constexpr ScaleKernels kTable{.scale = scale};
//                        return kTable;
//                      }
//                      }
//
//   anywhere           cpu::scale_kernels().scale(x, n, factor);
//
// All of this is in namespace lockstep::cpu. Loops over plain pointers vectorise by themselves;
// mark them __restrict where they do not alias, and keep standard-library templates out of them.
// Reductions do not vectorise without reassociation: keep an array of partial sums of fixed width.
namespace lockstep::cpu {

enum class Isa { kBaseline, kAvx2, kAvx512 };

// The best set that this machine has, lowered by LOCKSTEP_ISA=baseline|avx2|avx512 in the
// environment. Decided once. Throws ValueError if the variable names no set, or one that this
// machine lacks.
Isa cpu_isa();
const char* name_of(Isa isa);

#if defined(__x86_64__)
#define LOCKSTEP_ISA_DECLARE(Table, getter)                                               \
  namespace baseline {                                                                    \
  const Table& getter();                                                                  \
  }                                                                                       \
  namespace avx2 {                                                                        \
  const Table& getter();                                                                  \
  }                                                                                       \
  namespace avx512 {                                                                      \
  const Table& getter();                                                                  \
  }                                                                                       \
  inline const Table& getter() {                                                          \
    static const Table& table =                                                           \
        ::lockstep::cpu::cpu_isa() == ::lockstep::cpu::Isa::kAvx512 ? avx512::getter()    \
        : ::lockstep::cpu::cpu_isa() == ::lockstep::cpu::Isa::kAvx2 ? avx2::getter()      \
                                                                    : baseline::getter(); \
    return table;                                                                         \
  }
#else
#define LOCKSTEP_ISA_DECLARE(Table, getter) \
  namespace baseline {                      \
  const Table& getter();                    \
  }                                         \
  inline const Table& getter() { return baseline::getter(); }
#endif

}  // namespace lockstep::cpu
