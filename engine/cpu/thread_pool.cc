#include "lockstep/engine/cpu/thread_pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <exception>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <utility>

#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/threads.h"

// Weak: present where oneDNN was built on OpenMP, absent where it was not.
extern "C" void omp_set_num_threads(int threads) __attribute__((weak));

namespace lockstep::cpu {
namespace {

// How it works. Each worker has one atomic word. A caller that finds the pool free describes its
// job in the pool, moves the words of the workers it wants from kIdle to kAssigned and starts to
// take tiles itself. A worker that wakes up moves its word to kRunning, takes tiles until there are
// none, and goes back to kIdle. When the caller runs out of tiles it takes back, by moving
// kAssigned to kIdle, the assignments of workers that have not woken up yet (on a busy machine that
// can take milliseconds, and they would find nothing to do) and waits only for those that are
// running. Each word has at most one waiter: the worker while it is idle, the caller while it runs.
enum : int { kIdle, kAssigned, kRunning };

constexpr int kMaxThreads = 1024;

// Both sides poll for some 20-40 us before they sleep in the kernel, because the kernels of a step
// follow each other closely and a sleeping thread costs 6-12 us to wake. With 2 and with 4
// processes of two threads on two cores this measured no slower than not polling; 4000 did.
constexpr int kSpins = 1000;

thread_local bool in_tile = false;

inline void pause_cpu() {
#if defined(__SSE2__)
  _mm_pause();
#endif
}

// Returns once the word differs from `old`.
void wait_while(std::atomic<int>& word, int old) {
  for (int i = 0; i < kSpins; ++i) {
    if (word.load(std::memory_order_acquire) != old) {
      return;
    }
    pause_cpu();
  }
  word.wait(old, std::memory_order_acquire);
}

int default_num_threads() {
  const ThreadRequest request = requested_threads();
  if (request.threads > 0) {
    return request.threads;
  }
  int cores = static_cast<int>(std::thread::hardware_concurrency());
  cpu_set_t mask;
  if (sched_getaffinity(0, sizeof mask, &mask) == 0) {
    cores = CPU_COUNT(&mask);
  }
  cores = std::clamp(cores, 1, kMaxThreads);
  if (!request.understood()) {
    std::fprintf(stderr, "warning: OMP_NUM_THREADS=%s is not a number of threads; using %d\n",
                 request.text.c_str(), cores);
  }
  return cores;
}

std::atomic<int> thread_count{0};  // 0: nobody has asked or said yet

class Pool {
 public:
  // False if the pool serves another caller.
  bool try_run(int64_t tiles, detail::TileFunction fn, int threads);

 private:
  struct alignas(64) Worker {
    std::atomic<int> state{kIdle};
  };

  void start_workers(int wanted);
  void work(Worker& worker);
  void take_tiles();

  std::mutex owner_;  // held by the caller that the workers serve
  std::array<Worker*, kMaxThreads> workers_{};
  int started_ = 0;

  detail::TileFunction fn_{};
  int64_t tiles_ = 0;
  alignas(64) std::atomic<int64_t> next_{0};
  std::mutex error_mutex_;
  std::exception_ptr error_;
};

void Pool::take_tiles() {
  const detail::TileFunction fn = fn_;
  const int64_t tiles = tiles_;
  in_tile = true;
  try {
    for (int64_t tile; (tile = next_.fetch_add(1, std::memory_order_relaxed)) < tiles;) {
      fn.call(fn.object, tile);
    }
  } catch (...) {
    next_.store(tiles, std::memory_order_relaxed);
    const std::lock_guard lock(error_mutex_);
    if (!error_) {
      error_ = std::current_exception();
    }
  }
  in_tile = false;
}

void Pool::work(Worker& worker) {
  prepare_this_thread();
  for (;;) {
    wait_while(worker.state, kIdle);
    int expected = kAssigned;
    if (!worker.state.compare_exchange_strong(expected, kRunning, std::memory_order_acq_rel)) {
      continue;
    }
    take_tiles();
    worker.state.store(kIdle, std::memory_order_release);
    worker.state.notify_one();
  }
}

// Workers live until the process ends. They take no signals: those are for the program's threads.
void Pool::start_workers(int wanted) {
  if (started_ >= wanted) {
    return;
  }
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    while (started_ < wanted) {
      auto worker = std::make_unique<Worker>();
      std::thread([this, worker = worker.get()] { work(*worker); }).detach();
      workers_[started_++] = worker.release();
    }
  } catch (const std::system_error&) {
    // The system gives no more threads: slower, but right.
  } catch (const std::bad_alloc&) {
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

bool Pool::try_run(int64_t tiles, detail::TileFunction fn, int threads) {
  const std::unique_lock lock(owner_, std::try_to_lock);
  if (!lock.owns_lock()) {
    return false;
  }
  const int wanted = static_cast<int>(std::min<int64_t>(threads - 1, tiles - 1));
  start_workers(wanted);
  const int helpers = std::min(wanted, started_);
  fn_ = fn;
  tiles_ = tiles;
  next_.store(0, std::memory_order_relaxed);
  for (int i = 0; i < helpers; ++i) {
    workers_[i]->state.store(kAssigned, std::memory_order_release);
    workers_[i]->state.notify_one();
  }
  take_tiles();
  for (int i = 0; i < helpers; ++i) {
    std::atomic<int>& state = workers_[i]->state;
    int expected = kAssigned;
    if (!state.compare_exchange_strong(expected, kIdle, std::memory_order_acq_rel)) {
      wait_while(state, kRunning);
    }
  }
  if (error_) [[unlikely]] {
    std::rethrow_exception(std::exchange(error_, nullptr));
  }
  return true;
}

// Never destroyed: workers may outlive static destructors. A forked child has no workers and
// perhaps a locked mutex, so it starts over with a pool of its own.
std::atomic<Pool*> current_pool{nullptr};

Pool& pool() {
  Pool* pool = current_pool.load(std::memory_order_acquire);
  if (pool == nullptr) [[unlikely]] {
    static const int registered =
        pthread_atfork(nullptr, nullptr, [] { current_pool.store(nullptr); });
    (void)registered;
    auto made = std::make_unique<Pool>();
    if (current_pool.compare_exchange_strong(pool, made.get(), std::memory_order_acq_rel)) {
      pool = made.release();
    }
  }
  return *pool;
}

}  // namespace

int num_threads() {
  const int threads = thread_count.load(std::memory_order_relaxed);
  if (threads > 0) {
    return threads;
  }
  static const int initial = default_num_threads();
  int unset = 0;
  thread_count.compare_exchange_strong(unset, initial, std::memory_order_relaxed);
  return unset > 0 ? unset : initial;
}

void set_num_threads(int threads) {
  check(threads >= 1 && threads <= kMaxThreads, "[set_num_threads] {} is not in 1..{}", threads,
        kMaxThreads);
  thread_count.store(threads, std::memory_order_relaxed);
}

void prepare_this_thread() {
#if defined(__SSE2__)
  constexpr unsigned kFlushToZero = 0x8000;
  constexpr unsigned kDenormalsAreZero = 0x0040;
  const unsigned flags = _mm_getcsr();
  if ((flags & (kFlushToZero | kDenormalsAreZero)) != (kFlushToZero | kDenormalsAreZero)) {
    _mm_setcsr(flags | kFlushToZero | kDenormalsAreZero);
  }
#endif
  thread_local bool single_threaded = false;
  if (!single_threaded) {
    single_threaded = true;
    if (omp_set_num_threads != nullptr) {
      omp_set_num_threads(1);
    }
  }
}

void detail::run_tiles(int64_t tiles, TileFunction fn) {
  prepare_this_thread();
  if (tiles > 1 && !in_tile) {
    const int threads = num_threads();
    if (threads > 1 && pool().try_run(tiles, fn, threads)) {
      return;
    }
  }
  for (int64_t tile = 0; tile < tiles; ++tile) {
    fn.call(fn.object, tile);
  }
}

}  // namespace lockstep::cpu
