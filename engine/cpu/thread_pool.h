#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

namespace lockstep::cpu {

// How many threads a parallel_for may use, the caller included. Starts as OMP_NUM_THREADS if that
// is a positive number, otherwise as the number of cores in the process's affinity mask.
int num_threads();

// Throws ValueError unless 1 <= threads <= 1024. Results never depend on it.
void set_num_threads(int threads);

// Readies the calling thread for numerical work: denormals are flushed to zero (on input and
// output), and OpenMP libraries called from it run single-threaded. parallel_for does it for the
// caller and the workers; code that computes outside of parallel_for calls it itself. Cheap.
void prepare_this_thread();

namespace detail {

// A borrowed callable: two words, no allocation.
struct TileFunction {
  void* object;
  void (*call)(void* object, int64_t tile);
};
void run_tiles(int64_t tiles, TileFunction fn);

}  // namespace detail

// Calls fn(tile) once for every tile in [0, tiles), on the caller and up to num_threads() - 1
// workers, in no particular order, and returns when all are done. What a tile computes must not
// depend on which thread runs it. Any number of threads may call at once: while the workers serve
// one caller the others run their tiles themselves; a call from within a tile runs inline. The
// first exception thrown by a tile is rethrown here; tiles not yet begun are then skipped.
template <typename F>
void parallel_for(int64_t tiles, F&& fn) {
  using Function = std::remove_reference_t<F>;
  detail::run_tiles(tiles,
                    {const_cast<void*>(static_cast<const volatile void*>(std::addressof(fn))),
                     [](void* object, int64_t tile) { (*static_cast<Function*>(object))(tile); }});
}

}  // namespace lockstep::cpu
