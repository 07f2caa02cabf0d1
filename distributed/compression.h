#pragma once

#include <cstdint>

#include "lockstep/distributed/bucket_reduction.h"

// Gradients that travel in fewer bytes: ready-made communication hooks for
// DataParallelOptions::compression. What they do and how to write others is in
// docs/communication-hooks.md.
//
// With any of them all ranks end with the same bits, and a run repeated gives the same ones. Losses
// and the other numbers of a bucket's trailer travel exactly. Gradients have been weighted before
// (their sum over the ranks is their mean), so a sum is no larger than its largest term.
namespace lockstep::distributed {

// Half the bytes. Each rank's gradients are rounded to 16 bits, added in float32 and rounded once
// more, between nodes once for each node. With n nodes an element is off by at most
// (n + 1) u (|g_0| + |g_1| + ...), where g_r is rank r's weighted contribution and u is 2^-8 for
// bfloat16, 2^-11 for float16.
//
// float16 ends at 65504: beyond it the step fails on all ranks, with the parameter and the bucket
// named, or is skipped (DataParallelOptions::non_finite). Below 6e-5 it loses digits, and what is
// less than 3e-8 is lost. bfloat16 has the range of float32.
MakeReduction fp16_compression();
MakeReduction bf16_compression();

struct PowerSgdOptions {
  int64_t rank = 4;                   // columns of the factors: more are more exact
  int64_t start_iteration = 1000;     // the first reductions of a bucket are exact all-reduces
  double min_compression_rate = 2.0;  // matrices that would become smaller by less are left alone
  uint64_t seed = 0;                  // of the first factors; the same on every rank
};

// PowerSGD (Vogels, Karimireddy, Jaggi: "PowerSGD: Practical Low-Rank Gradient Compression for
// Distributed Optimization", NeurIPS 2019). The gradient M of a parameter of two and more
// dimensions, a matrix of size(0) rows, travels as two thin factors: P = M Q, summed over the ranks
// and orthonormalised, then Q = M^T P, summed; the result is P Q^T. What it lacks is kept on each
// rank and added to the next gradient, and Q starts where it ended. Everything else, vectors
// above all, is summed exactly in the same message as P.
//
// When a step is given up (a failed backward, a gradient that is not finite) what had been kept is
// given up, too. Each parameter needs memory for it, as much as for its gradient.
//
// Throws ValueError unless rank >= 1, start_iteration >= 0 and min_compression_rate >= 0.
MakeReduction powersgd(PowerSgdOptions options = {});

}  // namespace lockstep::distributed
