#pragma once

// What a function that is compiled for host and device alike is marked with.
#if defined(__CUDACC__)
#define LOCKSTEP_HD __host__ __device__
#else
#define LOCKSTEP_HD
#endif
