#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "lockstep/distributed/bucket.h"
#include "lockstep/distributed/compression.h"
#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/cpu/thread_pool.h"
#include "lockstep/engine/gradient_kernels.h"
#include "lockstep/engine/ops/ops.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"

// A bucket travels in two messages:
//
//   1  [ P of every matrix | what is not compressed | trailer ]     launch(), while backward goes
//   on 2  [ Q of every matrix ]                                        proceed(), after backward
//
// The factors are kept transposed, rank x rows and rank x columns, so that their vectors are
// contiguous. With weights in the gradients the ranks' M add up to the mean M; P and Q are sums,
// and the result P Q^T approximates M. A rank keeps its own M less an equal share of the result;
// these errors add up to what the result lacks.
//
// All ranks must compute the same bits from the same sums. The products with M are summed over the
// ranks afterwards, so they may come from any kernel; what follows the sums is plain arithmetic,
// the same on every machine: here, or a GPU's own (engine/gradient_kernels.h), which also decides
// by itself what depends on the numbers. So nobody waits for it.
namespace lockstep::distributed {
namespace {

constexpr int64_t kTile = int64_t{1} << 15;  // elements that one thread reconstructs at a time
constexpr int64_t kStrip = 256;              // of which this many stay in registers and cache
constexpr uint32_t kPurpose = 0x50736764u;   // apart from all random numbers of the engine

template <typename T>
double dot(const T* a, const T* b, int64_t n) {
  double sum = 0.0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

template <typename T>
void draw_row(const VectorSet& set, int64_t row) {
  const int64_t columns = set.vectors.size(1);
  const auto draw = static_cast<uint32_t>(*set.draws.data<int32_t>());
  T* const to = set.vectors.data<T>() + row * columns;
  for (int64_t j = 0; j < columns; j += 4) {
    const auto values =
        set.random.four(draw, static_cast<uint32_t>(row), static_cast<uint32_t>(j / 4));
    for (int64_t k = 0; k < std::min<int64_t>(4, columns - j); ++k) {
      to[j + k] = static_cast<T>(values[static_cast<size_t>(k)]);
    }
  }
}

// GradientKernels::orthonormalize(), of one set.
template <typename T>
void orthonormalize(const VectorSet& set) {
  const int64_t count = set.vectors.size(0);
  const int64_t n = set.vectors.size(1);
  T* const all = set.vectors.data<T>();
  const double least = 64.0 * static_cast<double>(std::numeric_limits<T>::epsilon());
  std::vector<int64_t> zeroed;
  for (int64_t k = 0; k < count; ++k) {
    T* const row = all + k * n;
    const double before = std::sqrt(dot(row, row, n));
    for (int pass = 0; pass < 2; ++pass) {
      for (int64_t l = 0; l < k; ++l) {
        const T* const other = all + l * n;
        const double along = dot(other, row, n);
        for (int64_t i = 0; i < n; ++i) {
          row[i] =
              static_cast<T>(static_cast<double>(row[i]) - along * static_cast<double>(other[i]));
        }
      }
    }
    const double norm = std::sqrt(dot(row, row, n));
    const bool useful = norm > least * before && std::isfinite(norm);
    for (int64_t i = 0; i < n; ++i) {
      row[i] = useful ? static_cast<T>(static_cast<double>(row[i]) / norm) : T(0);
    }
    if (!useful) zeroed.push_back(k);
  }
  if (zeroed.empty() || !set.draws.defined()) return;
  ++*set.draws.data<int32_t>();
  for (const int64_t row : zeroed) draw_row<T>(set, row);
}

// GradientKernels::reconstruct().
template <typename T>
void reconstruct(const Factored& matrix, T share) {
  const int64_t rank = matrix.p.size(0);
  const int64_t rows = matrix.p.size(1);
  const int64_t columns = matrix.q.size(1);
  const T* const p_data = matrix.p.data<T>();
  const T* const q_data = matrix.q.data<T>();
  T* const m_data = matrix.m.data<T>();
  T* const error_data = matrix.error.data<T>();
  const int64_t rows_at_a_time = std::max<int64_t>(1, kTile / columns);
  cpu::parallel_for((rows + rows_at_a_time - 1) / rows_at_a_time, [=](int64_t tile) {
    const int64_t end = std::min(rows, (tile + 1) * rows_at_a_time);
    for (int64_t i = tile * rows_at_a_time; i < end; ++i) {
      for (int64_t begin = 0; begin < columns; begin += kStrip) {
        const int64_t n = std::min(kStrip, columns - begin);
        T sum[kStrip] = {};
        for (int64_t k = 0; k < rank; ++k) {
          const T factor = p_data[k * rows + i];
          const T* const row = q_data + k * columns + begin;
          for (int64_t j = 0; j < n; ++j) sum[j] += factor * row[j];
        }
        T* const to = m_data + i * columns + begin;
        T* const rest = error_data + i * columns + begin;
        for (int64_t j = 0; j < n; ++j) {
          rest[j] = to[j] - share * sum[j];
          to[j] = sum[j];
        }
      }
    }
  });
}

template <typename Body>
void with_dtype(DType dtype, Body body) {
  dtype == DType::kFloat64 ? body.template operator()<double>() : body.template operator()<float>();
}

void orthonormalize(const std::vector<VectorSet>& sets) {
  if (sets.empty()) return;
  const Tensor& first = sets.front().vectors;
  if (auto* const device = gradient_kernels_of(first.device())) {
    device->orthonormalize(sets);
    return;
  }
  for (const VectorSet& set : sets) {
    with_dtype(first.dtype(), [&]<typename T>() { orthonormalize<T>(set); });
  }
}

// `count` (1): how many ranks contributed. Where none did nothing happens.
void reconstruct(const Factored& matrix, double share, const Tensor& count) {
  if (auto* const device = gradient_kernels_of(matrix.m.device())) {
    device->reconstruct(matrix, share, count);
    return;
  }
  with_dtype(matrix.m.dtype(), [&]<typename T>() {
    if (*count.data<T>() > T(0)) reconstruct<T>(matrix, static_cast<T>(share));
  });
}

Tensor tensor_of(const Buffer& buffer) {
  return from_memory(buffer.data, {buffer.count}, buffer.dtype, nullptr, buffer.device);
}

class PowerSgd final : public BucketReduction {
 public:
  explicit PowerSgd(const PowerSgdOptions& options) : options_(options) {}

  bool needs_host_memory() const override { return false; }
  void attach(ProcessGroup& group, const Bucket& bucket) override;
  void launch(ProcessGroup& group, const Bucket& bucket) override;
  void proceed(ProcessGroup& group, const Bucket& bucket) override;
  void finish(const Bucket& bucket) override;
  size_t sent_bytes() const override { return exact_ ? 0 : first_.bytes() + second_.bytes(); }
  void discard() override {
    const autograd::NoGrad no_grad;
    for (const Matrix& matrix : matrices_) matrix.factored.error.zero_();
  }

 private:
  struct Matrix {
    size_t entry;       // in the bucket
    Factored factored;  // m is the gradient's own place; p and q lie in the messages
    VectorSet start;    // q, of which the next one starts
  };

  int64_t rank_of(const Tensor& parameter) const;
  void add_matrix(const Bucket::Entry& entry, size_t number, const Factored& factored);
  std::vector<VectorSet> starts() const;

  const PowerSgdOptions options_;
  DType dtype_ = DType::kFloat32;
  int ranks_ = 1;
  int64_t reductions_ = 0;
  bool exact_ = false;  // the one under way
  std::vector<Matrix> matrices_;
  std::vector<std::pair<Tensor, Tensor>> others_;  // their place, and that in the first message
  Tensor trailer_;                                 // in the first message
  Buffer first_, second_;                          // the messages
};

// Of the factors; 0 for what is not compressed.
int64_t PowerSgd::rank_of(const Tensor& parameter) const {
  if (parameter.dim() < 2 || parameter.numel() == 0) return 0;
  const int64_t rows = parameter.size(0);
  const int64_t columns = parameter.numel() / rows;
  const int64_t rank = std::min({options_.rank, rows, columns});
  const auto compressed = static_cast<double>((rows + columns) * rank);
  return compressed * options_.min_compression_rate < static_cast<double>(rows * columns) ? rank
                                                                                          : 0;
}

void PowerSgd::attach(ProcessGroup& group, const Bucket& bucket) {
  const Tensor gradients = bucket.gradients();
  const Buffer trailer = bucket.trailer_buffer();
  const Device device = gradients.device();
  dtype_ = gradients.dtype();
  ranks_ = group.size();
  int64_t first = trailer.count;
  int64_t second = 0;
  for (const Bucket::Entry& entry : bucket.entries()) {
    const int64_t rank = rank_of(entry.parameter);
    first += rank > 0 ? rank * entry.parameter.size(0) : entry.parameter.numel();
    if (rank > 0) second += rank * (entry.parameter.numel() / entry.parameter.size(0));
  }
  if (second == 0) return;  // nothing here is compressed

  // Runs of the two messages, one after the other.
  struct Message {
    std::shared_ptr<Memory> memory;
    int64_t used = 0;
    DType dtype;
    Device device;
    Tensor take(const Dims& sizes) {
      const int64_t count = sizes.product();
      auto* const at = static_cast<std::byte*>(memory->data()) +
                       static_cast<size_t>(std::exchange(used, used + count)) * size_of(dtype);
      return from_memory(at, sizes, dtype, memory, device);
    }
  };
  const auto message = [&](int64_t count) {
    return Message{group.allocate(static_cast<size_t>(count) * size_of(dtype_), device), 0, dtype_,
                   device};
  };
  Message to_first = message(first);
  Message to_second = message(second);
  const autograd::NoGrad no_grad;
  for (size_t e = 0; e < bucket.entries().size(); ++e) {
    const Bucket::Entry& entry = bucket.entries()[e];
    const int64_t n = entry.parameter.numel();
    const Tensor place = gradients.narrow(0, entry.offset, n);
    const int64_t rank = rank_of(entry.parameter);
    if (rank == 0) {
      others_.emplace_back(place, to_first.take({n}));
      continue;
    }
    const int64_t rows = entry.parameter.size(0);
    const int64_t columns = n / rows;
    add_matrix(entry, e,
               {place.view({rows, columns}), zeros({rows, columns}, {dtype_, device}),
                to_first.take({rank, rows}), to_second.take({rank, columns})});
  }
  orthonormalize(starts());
  trailer_ = to_first.take({trailer.count});
  first_ = {to_first.memory->data(), first, dtype_, device};
  second_ = {to_second.memory->data(), second, dtype_, device};
}

// Q is nothing yet, so that all of it is drawn.
void PowerSgd::add_matrix(const Bucket::Entry& entry, size_t number, const Factored& factored) {
  factored.q.zero_();
  const Tensor draws = full({1}, -1, {DType::kInt32, factored.q.device()});
  const Philox philox{static_cast<uint32_t>(options_.seed),
                      static_cast<uint32_t>(options_.seed >> 32) ^ kPurpose};
  matrices_.push_back({number, factored, {factored.q, draws, {philox, Label(entry.name).hash}}});
}

std::vector<VectorSet> PowerSgd::starts() const {
  std::vector<VectorSet> all;
  for (const Matrix& matrix : matrices_) all.push_back(matrix.start);
  return all;
}

void PowerSgd::launch(ProcessGroup& group, const Bucket& bucket) {
  exact_ = matrices_.empty() || ++reductions_ <= options_.start_iteration;
  if (exact_) {
    issue(group.all_reduce(bucket.gradient_buffer()));
    return;
  }
  const autograd::NoGrad no_grad;
  for (const auto& [number, matrix, start] : matrices_) {
    matrix.m.add_(matrix.error);
    matrix.p.copy_(matmul(matrix.q, matrix.m.t()));
  }
  for (const auto& [place, message] : others_) message.copy_(place);
  trailer_.copy_(tensor_of(bucket.trailer_buffer()));
  issue(group.all_reduce(first_));
}

void PowerSgd::proceed(ProcessGroup& group, const Bucket&) {
  if (exact_) return;
  wait();
  const autograd::NoGrad no_grad;
  std::vector<VectorSet> sums;
  for (const Matrix& matrix : matrices_) sums.push_back({matrix.factored.p, {}, {}});
  orthonormalize(sums);
  for (const auto& [number, matrix, start] : matrices_) {
    matrix.q.copy_(matmul(matrix.p, matrix.m));
  }
  issue(group.all_reduce(second_));
}

void PowerSgd::finish(const Bucket& bucket) {
  wait();
  if (exact_) return;
  const autograd::NoGrad no_grad;
  for (const auto& [place, message] : others_) place.copy_(message);
  tensor_of(bucket.trailer_buffer()).copy_(trailer_);
  for (const Matrix& matrix : matrices_) {
    // A gradient that no rank contributed to stays undefined: what is kept waits for the next.
    reconstruct(matrix.factored, 1.0 / ranks_,
                trailer_.narrow(0, static_cast<int64_t>(matrix.entry), 1));
  }
  // The next one's start. Where P had less than full rank Q has nothing to start from.
  orthonormalize(starts());
}

}  // namespace

MakeReduction powersgd(PowerSgdOptions options) {
  check(options.rank >= 1, "[powersgd] rank {}: must be at least 1", options.rank);
  check(options.start_iteration >= 0, "[powersgd] start_iteration {}: must not be negative",
        options.start_iteration);
  check(options.min_compression_rate >= 0.0,
        "[powersgd] min_compression_rate {}: must be a number from 0 on",
        options.min_compression_rate);
  return [options] { return std::make_unique<PowerSgd>(options); };
}

}  // namespace lockstep::distributed
