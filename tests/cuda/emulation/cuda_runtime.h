#pragma once

// A stand-in for CUDA's header of this name, for machines without a GPU: with this folder first
// on the include path, g++ compiles the sources of the CUDA plugin, kernels included
// (g++ -x c++ -std=c++20), and every kernel runs on the CPU, under sanitizers if one likes.
//
// What is emulated. Grids, blocks and warps; each thread of a block is a fiber, blocks run one
// after the other in the thread that launches. __syncthreads, __syncwarp, shuffles and votes are
// the only places where threads take turns. Streams and events are handles that are checked;
// all work is done by the time the call returns, or on demand as late as can be. Types, constants,
// signatures and error codes are those of CUDA 13; what this folder lacks does not compile or
// returns cudaErrorNotSupported.
//
// What is caught:
// - Host code that dereferences device memory: the memory is inaccessible except while a kernel or
//   a copy runs. A kernel that reaches into another device or far outside of all memory: likewise.
// - Under AddressSanitizer, reads and writes beside an allocation or after its release, and beside
//   __shared__ arrays of kernels with internal linkage. Elsewhere fresh memory, of device and
//   dynamic shared memory, is filled with 0xFF bytes (NaN), so that reading it shows.
// - A missing barrier: the order of blocks and of threads is pseudo-random and changes from launch
//   to launch (LOCKSTEP_EMULATION_SEED repeats a run), so results come out wrong.
// - Barriers that only some live threads reach, or that they reach at different lines; warp
//   operations whose mask leaves out the caller or, for shuffles, names a lane that has returned:
//   a line on stderr, then abort(). A shuffle from a lane outside of the mask yields 0xFF bytes.
// - Launches beyond a device's limits, copies beyond an allocation or with the wrong direction,
//   handles of another device or already destroyed, releases of unknown pointers: error codes.
// - Calls that a capturing stream or thread must not make, forks of a capture that never join, and
//   missing order within a graph, whose nodes run in any order that is left open (graph.h).
// - Missing ordering between streams or between host and device, in runs in which work is done as
//   late as possible (LOCKSTEP_EMULATION_DEFER=1; pending.h says what shows then).
//
// What it cannot show: such ordering in runs in which work is done as it is issued; data races
// between the barriers of threads that happen to be harmless in every order tried; the memory
// model (all accesses are sequentially consistent); stale contents of __shared__ arrays, which
// start as zeros or as the previous block left them; kernels that dereference host memory; waiting
// in a loop for another thread (hangs); occupancy, registers and time.
//
// Environment, read once: LOCKSTEP_EMULATED_GPUS is the number of devices (default 1; with 0 every
// call returns cudaErrorNoDevice), LOCKSTEP_EMULATED_GPU_BYTES the memory of each (default 1 GiB),
// LOCKSTEP_EMULATION_SEED the seed of the order, LOCKSTEP_EMULATION_DEFER=1 defers work. `extern
// __shared__` arrays cannot be emulated: a kernel takes lockstep::emulation::dynamic_shared()
// instead. Compile with -Wno-unknown-pragmas where kernels say `#pragma unroll`.

#define LOCKSTEP_CUDA_EMULATION 1

// Headers of the toolkit that ask for these find them included.
#define __CUDA_RUNTIME_H__
#define __CUDA_RUNTIME_API_H__
#define __DRIVER_TYPES_H__
#define __VECTOR_TYPES_H__
#define __VECTOR_FUNCTIONS_H__
#define __VECTOR_FUNCTIONS_HPP__

#include "device_code.h"
#include "intrinsics.h"
#include "runtime_api.h"
#include "runtime_types.h"
