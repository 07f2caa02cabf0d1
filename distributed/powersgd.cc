#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "lockstep/distributed/bucket.h"
#include "lockstep/distributed/compression.h"
#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/cpu/thread_pool.h"
#include "lockstep/engine/ops/ops.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/engine/tensor/philox.h"

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
// ranks afterwards, so they may come from any kernel; what follows the sums is plain arithmetic
// here, the same on every machine.
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

// Gram-Schmidt over the rows of `vectors`, twice for each, since once leaves a part of the others
// where little is left of a row. A row that is nothing but rounding beside the others becomes zero;
// made a unit vector, it would point anywhere, at the others too. So do rows that are not finite.
// Returns which rows those are.
template <typename T>
std::vector<int64_t> orthonormalize(const Tensor& vectors) {
  const int64_t count = vectors.size(0);
  const int64_t n = vectors.size(1);
  T* const all = vectors.data<T>();
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
  return zeroed;
}

// m = P Q^T, and error = m before that, less `share` of it now.
template <typename T>
void reconstruct(const Tensor& p, const Tensor& q, T share, const Tensor& m, const Tensor& error) {
  const int64_t rank = p.size(0);
  const int64_t rows = p.size(1);
  const int64_t columns = q.size(1);
  const T* const p_data = p.data<T>();
  const T* const q_data = q.data<T>();
  T* const m_data = m.data<T>();
  T* const error_data = error.data<T>();
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

class PowerSgd final : public BucketReduction {
 public:
  explicit PowerSgd(const PowerSgdOptions& options) : options_(options) {}

  void attach(ProcessGroup& group, const Bucket& bucket) override;
  void launch(ProcessGroup& group, const Bucket& bucket) override;
  void proceed(ProcessGroup& group, const Bucket& bucket) override;
  Work::Times finish(const Bucket& bucket) override;
  size_t sent_bytes() const override { return exact_ ? 0 : first_.bytes() + second_.bytes(); }
  void discard() override {
    const autograd::NoGrad no_grad;
    for (const Matrix& matrix : matrices_) matrix.error.zero_();
  }

 private:
  struct Matrix {
    size_t entry;     // in the bucket
    Tensor m, error;  // rows x columns; m is the gradient's own place
    Tensor p, q;      // rank x rows, rank x columns, in the messages
    uint64_t stream;  // of random numbers, by the parameter's name
    uint32_t draws = 0;
  };

  int64_t rank_of(const Tensor& parameter) const;
  template <typename T>
  void draw(Matrix& matrix, int64_t row) const;
  template <typename T>
  void renew(Matrix& matrix, const std::vector<int64_t>& rows) const {
    if (!rows.empty()) ++matrix.draws;
    for (const int64_t row : rows) draw<T>(matrix, row);
  }
  template <typename T>
  void finish_matrices();
  template <typename Body>
  void with_dtype(Body body) const {
    dtype_ == DType::kFloat64 ? body.template operator()<double>()
                              : body.template operator()<float>();
  }

  const PowerSgdOptions options_;
  DType dtype_ = DType::kFloat32;
  int ranks_ = 1;
  int64_t reductions_ = 0;
  bool exact_ = false;  // the one under way
  std::vector<Matrix> matrices_;
  std::vector<std::pair<Tensor, Tensor>> others_;  // their place, and that in the first message
  Tensor trailer_;                                 // in the first message
  Buffer first_, second_;                          // the messages
  Work::Times first_times_;
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
    Tensor take(const Dims& sizes, int64_t count) {
      auto* const at = static_cast<std::byte*>(memory->data()) +
                       static_cast<size_t>(std::exchange(used, used + count)) * size_of(dtype);
      return from_memory(at, sizes, dtype, memory);
    }
  };
  const auto message = [&](int64_t count) {
    return Message{group.allocate(static_cast<size_t>(count) * size_of(dtype_), Device{}), 0,
                   dtype_};
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
      others_.emplace_back(place, to_first.take({n}, n));
      continue;
    }
    const int64_t rows = entry.parameter.size(0);
    const int64_t columns = n / rows;
    matrices_.push_back({e, place.view({rows, columns}), zeros({rows, columns}, {dtype_}),
                         to_first.take({rank, rows}, rank * rows),
                         to_second.take({rank, columns}, rank * columns), Label(entry.name).hash});
    with_dtype([&]<typename T>() {
      for (int64_t k = 0; k < rank; ++k) draw<T>(matrices_.back(), k);
    });
  }
  trailer_ = to_first.take({trailer.count}, trailer.count);
  first_ = {to_first.memory->data(), first, dtype_, Device{}};
  second_ = {to_second.memory->data(), second, dtype_, Device{}};
}

template <typename T>
void PowerSgd::draw(Matrix& matrix, int64_t row) const {
  const Philox philox{static_cast<uint32_t>(options_.seed),
                      static_cast<uint32_t>(options_.seed >> 32) ^ kPurpose};
  const int64_t columns = matrix.q.size(1);
  T* const to = matrix.q.data<T>() + row * columns;
  for (int64_t j = 0; j < columns; j += 4) {
    const auto words =
        philox(static_cast<uint32_t>(j / 4), (matrix.draws << 16) ^ static_cast<uint32_t>(row),
               static_cast<uint32_t>(matrix.stream), static_cast<uint32_t>(matrix.stream >> 32));
    for (int64_t k = 0; k < std::min<int64_t>(4, columns - j); ++k) {
      to[j + k] = static_cast<T>(2.0f * uniform_float(words[static_cast<size_t>(k)]) - 1.0f);
    }
  }
}

void PowerSgd::launch(ProcessGroup& group, const Bucket& bucket) {
  exact_ = matrices_.empty() || ++reductions_ <= options_.start_iteration;
  if (exact_) {
    issue(group.all_reduce(bucket.gradient_buffer()));
    return;
  }
  const autograd::NoGrad no_grad;
  for (const Matrix& matrix : matrices_) {
    matrix.m.add_(matrix.error);
    matrix.p.copy_(matmul(matrix.q, matrix.m.t()));
  }
  for (const auto& [place, message] : others_) message.copy_(place);
  const Buffer trailer = bucket.trailer_buffer();
  std::memcpy(trailer_.data_ptr(), trailer.data, trailer.bytes());
  issue(group.all_reduce(first_));
}

void PowerSgd::proceed(ProcessGroup& group, const Bucket&) {
  if (exact_) return;
  first_times_ = wait();
  const autograd::NoGrad no_grad;
  for (const Matrix& matrix : matrices_) {
    with_dtype([&]<typename T>() { orthonormalize<T>(matrix.p); });
    matrix.q.copy_(matmul(matrix.p, matrix.m));
  }
  issue(group.all_reduce(second_));
}

Work::Times PowerSgd::finish(const Bucket& bucket) {
  Work::Times times = wait();
  if (exact_) return times;
  times.launched = first_times_.launched;
  times.started = first_times_.started;
  const autograd::NoGrad no_grad;
  for (const auto& [place, message] : others_) place.copy_(message);
  const Buffer trailer = bucket.trailer_buffer();
  std::memcpy(trailer.data, trailer_.data_ptr(), trailer.bytes());
  with_dtype([&]<typename T>() { finish_matrices<T>(); });
  return times;
}

template <typename T>
void PowerSgd::finish_matrices() {
  const T* const counts = trailer_.data<T>();
  for (Matrix& matrix : matrices_) {
    // A gradient that no rank contributed to stays undefined: what is kept waits for the next.
    if (counts[matrix.entry] > T(0)) {
      reconstruct<T>(matrix.p, matrix.q, T(1) / static_cast<T>(ranks_), matrix.m, matrix.error);
    }
    // The next one's start. Where P had less than full rank Q has nothing to start from.
    renew<T>(matrix, orthonormalize<T>(matrix.q));
  }
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
