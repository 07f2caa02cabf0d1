#include "lockstep/engine/cuda/cross_entropy.h"

#include <limits>

#include "lockstep/engine/cuda/rows.cuh"

// The logits are read once forward; backward they are read once and their gradient is written.
namespace lockstep::cuda {
namespace {

template <typename T>
struct Classes {
  using C = Compute<T>;
  const T* x;
  const int64_t* target;
  const C* weight;  // may be null
  int64_t rows, cols, ignore_index;

  // What the loss of a target is multiplied by; NaN where there is no such class.
  __device__ C factor_of(int64_t at) const {
    if (at == ignore_index) return C(0);
    if (at < 0 || at >= cols) return std::numeric_limits<C>::quiet_NaN();
    return weight ? weight[at] : C(1);
  }
};

template <int kLanes, int kWidth, typename T>
__global__ void __launch_bounds__(kThreads, kRowBlocks)
    forward_kernel(Compute<T>* losses, Compute<T>* log_sums, const Classes<T> given) {
  using C = Compute<T>;
  for_rows<kLanes>(given.rows, given.cols, [&](int64_t row, int64_t n, int64_t lane) {
    const T* const x = given.x + row * given.cols;
    Exponentials<C> own;
    Row<kLanes, kWidth, T>(x, n, lane).for_packs([&](int64_t, const auto& pack) { own.add(pack); });
    own = joined_over_row<kLanes>(own);
    if (n == 0 || lane != 0) return;
    const C log_sum = std::log(own.sum);
    const int64_t at = given.target[row];
    log_sums[2 * row] = own.most;
    log_sums[2 * row + 1] = log_sum;
    const C factor = given.factor_of(at);
    const bool counts = at != given.ignore_index && at >= 0 && at < n;
    losses[row] = counts ? -((static_cast<C>(x[at]) - own.most) - log_sum) * factor : factor;
  });
}

template <int kLanes, int kWidth, typename T>
__global__ void __launch_bounds__(kThreads, kRowBlocks)
    backward_kernel(T* gx, const Compute<T>* gy, const Compute<T>* log_sums,
                    const Classes<T> given) {
  using C = Compute<T>;
  for_rows<kLanes>(given.rows, given.cols, [&](int64_t row, int64_t n, int64_t lane) {
    const int64_t at = given.target[row];
    const bool ignored = at == given.ignore_index;
    const C factor = ignored ? C(0) : gy[row] * given.factor_of(at);
    const C most = log_sums[2 * row], log_sum = log_sums[2 * row + 1];
    const auto* const packs = reinterpret_cast<const Pack<T, kWidth>*>(given.x + row * given.cols);
    for (int64_t p = lane; p < n / kWidth; p += kLanes) {
      const Pack<T, kWidth> pack = packs[p];
      store_pack<kWidth>(gx + row * given.cols, p, [&](int64_t column, int k) {
        const C part = factor * std::exp((static_cast<C>(pack.values[k]) - most) - log_sum);
        return ignored ? C(0) : column == at ? part - factor : part;
      });
    }
  });
}

// Calls fn(what the kernels are given, lanes, width, blocks) for the dtype and shape of x; packs
// are taken from x, and stored to `stored` unless that is undefined.
template <typename F>
void for_classes(const char* op, const Tensor& x, const Tensor& target, const Tensor& weight,
                 int64_t ignore_index, const Tensor& stored, F&& fn) {
  if (x.numel() == 0) return;
  dispatch_floating(op, x.dtype(), [&](auto type) {
    using T = decltype(type);
    const Classes<T> given{
        data_of<T>(x), data_of<int64_t>(target), data_of<Compute<T>>(weight), x.size(0), x.size(1),
        ignore_index};
    with_row_shape<T>(
        given.rows, given.cols,
        [&](auto lanes, auto width, int64_t blocks) { fn(given, lanes, width, blocks); }, given.x,
        data_of<T>(stored));
  });
}

}  // namespace

void cross_entropy(cudaStream_t stream, const Tensor& losses, const Tensor& log_sums,
                   const Tensor& x, const Tensor& target, const Tensor& weight,
                   int64_t ignore_index) {
  for_classes("cross_entropy", x, target, weight, ignore_index, {},
              [&]<typename T>(const Classes<T>& given, auto lanes, auto width, int64_t blocks) {
                launch(stream, blocks, kThreads, forward_kernel<lanes(), width(), T>,
                       data_of<Compute<T>>(losses), data_of<Compute<T>>(log_sums), given);
              });
}

void cross_entropy_gradient(cudaStream_t stream, const Tensor& gx, const Tensor& gy,
                            const Tensor& x, const Tensor& log_sums, const Tensor& target,
                            const Tensor& weight, int64_t ignore_index) {
  for_classes("cross_entropy_gradient", x, target, weight, ignore_index, gx,
              [&]<typename T>(const Classes<T>& given, auto lanes, auto width, int64_t blocks) {
                launch(stream, blocks, kThreads, backward_kernel<lanes(), width(), T>,
                       data_of<T>(gx), data_of<Compute<T>>(gy), data_of<Compute<T>>(log_sums),
                       given);
              });
}

}  // namespace lockstep::cuda
