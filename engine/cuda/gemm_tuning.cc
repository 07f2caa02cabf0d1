#include "lockstep/engine/cuda/gemm_tuning.h"

#include <charconv>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "lockstep/engine/algorithm_choice.h"
#include "lockstep/engine/cuda/status.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::cuda {
namespace {

constexpr int kMostCandidates = 16;
constexpr int kTimedRuns = 5;  // the median of them: the first may be slow
constexpr uint32_t kFixedOrder =
    CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;

using Preference = Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

// The heuristic's suggestions among those that add up in a fixed order, the best first.
std::vector<cublasLtMatmulAlgo_t> suggestions(cublasLtHandle_t handle, const BlasProduct& product,
                                              int most) {
  Preference preference;
  check_blas(cublasLtMatmulPreferenceCreate(preference.out()), "prefer");
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t which, const auto& value) {
    check_blas(cublasLtMatmulPreferenceSetAttribute(preference.get(), which, &value, sizeof value),
               "prefer");
  };
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{kBlasWorkspaceBytes});
  set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, kFixedOrder);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, product.first_alignment());
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, product.second_alignment());
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, product.result_alignment());
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, product.result_alignment());
  std::vector<cublasLtMatmulHeuristicResult_t> results(static_cast<size_t>(most));
  int count = 0;
  const BlasProduct anywhere = product.anywhere();
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      handle, anywhere.operation(), anywhere.first(), anywhere.second(), anywhere.result(),
      anywhere.result(), preference.get(), most, results.data(), &count);
  if (is_refusal(status, product)) return {};
  check_blas(status, "choose an algorithm");
  std::vector<cublasLtMatmulAlgo_t> algorithms;
  for (const auto& result : std::span(results).first(static_cast<size_t>(count))) {
    if (result.state == CUBLAS_STATUS_SUCCESS) algorithms.push_back(result.algo);
  }
  return algorithms;
}

std::string to_text(const cublasLtMatmulAlgo_t& algorithm) {
  std::string text;
  for (const uint64_t word : algorithm.data) text += fmt::format("{:016x}", word);
  return text;
}

std::optional<cublasLtMatmulAlgo_t> from_text(const std::string& text) {
  constexpr size_t kDigits = 16;
  cublasLtMatmulAlgo_t algorithm{};
  if (text.size() != kDigits * std::size(algorithm.data)) return std::nullopt;
  const char* at = text.data();
  for (uint64_t& word : algorithm.data) {
    const auto [end, error] = std::from_chars(at, at + kDigits, word, 16);
    if (error != std::errc{} || end != at + kDigits) return std::nullopt;
    at = end;
  }
  return algorithm;
}

bool adds_in_a_fixed_order(const cublasLtMatmulAlgo_t& algorithm) {
  uint32_t scheme = 0;
  check_blas(cublasLtMatmulAlgoConfigGetAttribute(&algorithm, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME,
                                                  &scheme, sizeof scheme, nullptr),
             "look at an algorithm");
  return (scheme & ~kFixedOrder) == 0;
}

// The table is of this GPU and library, so that what it says must work.
cublasLtMatmulAlgo_t from_table(cublasLtHandle_t handle, const BlasProduct& product,
                                const std::string& text) {
  const auto algorithm = from_text(text);
  cublasLtMatmulHeuristicResult_t result{};
  const bool works = algorithm &&
                     cublasLtMatmulAlgoCheck(handle, product.operation(), product.first(),
                                             product.second(), product.result(), product.result(),
                                             &*algorithm, &result) == CUBLAS_STATUS_SUCCESS &&
                     result.workspaceSize <= kBlasWorkspaceBytes &&
                     adds_in_a_fixed_order(*algorithm);
  check<Error>(works,
               "[gemm] the table of algorithms has one that cublasLt refuses, for {}: {}. The file "
               "is damaged; --tune-matmul FILE makes a new one",
               product.text(), text);
  return *algorithm;
}

class Timing {
 public:
  explicit Timing(cudaStream_t stream) : stream_(stream) {
    check_cuda(cudaEventCreate(&start_), "cudaEventCreate");
    check_cuda(cudaEventCreate(&stop_), "cudaEventCreate");
  }
  ~Timing() {
    if (start_) cudaEventDestroy(start_);
    if (stop_) cudaEventDestroy(stop_);
  }
  Timing(const Timing&) = delete;
  Timing& operator=(const Timing&) = delete;

  // Of what `run` issues; nothing if it is refused.
  template <typename F>
  std::optional<double> seconds(const F& run) {
    check_cuda(cudaEventRecord(start_, stream_), "cudaEventRecord");
    if (run() != CUBLAS_STATUS_SUCCESS) return std::nullopt;
    check_cuda(cudaEventRecord(stop_, stream_), "cudaEventRecord");
    check_cuda(cudaEventSynchronize(stop_), "a trial of a product");
    float milliseconds = 0;
    check_cuda(cudaEventElapsedTime(&milliseconds, start_, stop_), "cudaEventElapsedTime");
    return milliseconds / 1000.0;
  }

 private:
  cudaStream_t stream_;
  cudaEvent_t start_ = nullptr, stop_ = nullptr;
};

// Where trials write C: its own place, or memory of the same size if it is to be added to.
class TrialResult {
 public:
  TrialResult(cudaStream_t stream, const GemmCall& c) : stream_(stream), data_(c.c) {
    if (!c.accumulate) return;
    const int64_t elements = (c.batch - 1) * c.stride_c + (c.m - 1) * c.ldc + c.n;
    const size_t bytes = static_cast<size_t>(elements) * size_of(c.dtype);
    check_cuda(cudaMallocAsync(&scratch_, bytes, stream), "memory for a trial of a product");
    check_cuda(cudaMemsetAsync(scratch_, 0, bytes, stream), "cudaMemsetAsync");
    data_ = scratch_;
  }
  ~TrialResult() {
    if (scratch_) cudaFreeAsync(scratch_, stream_);
  }
  TrialResult(const TrialResult&) = delete;
  TrialResult& operator=(const TrialResult&) = delete;
  void* data() const { return data_; }

 private:
  cudaStream_t stream_;
  void* data_;
  void* scratch_ = nullptr;
};

std::optional<cublasLtMatmulAlgo_t> timed(cublasLtHandle_t handle, cudaStream_t stream,
                                          const BlasProduct& product, void* workspace) {
  const auto candidates = suggestions(handle, product, kMostCandidates);
  Timing timing(stream);
  const TrialResult c(stream, product.call());
  const auto best = fastest_of(candidates.size(), kTimedRuns, [&](size_t i) {
    return timing.seconds(
        [&] { return product.run(handle, stream, candidates[i], workspace, c.data()); });
  });
  if (!best) return std::nullopt;
  record_timed_algorithm(product.text(), to_text(candidates[*best]));
  return candidates[*best];
}

bool is_capturing(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check_cuda(cudaStreamIsCapturing(stream, &status), "cudaStreamIsCapturing");
  return status != cudaStreamCaptureStatusNone;
}

}  // namespace

bool is_refusal(cublasStatus_t status, const BlasProduct& product) {
  return product.has_epilogue() &&
         (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE);
}

std::optional<cublasLtMatmulAlgo_t> choose_algorithm(cublasLtHandle_t handle, cudaStream_t stream,
                                                     const BlasProduct& product, void* workspace) {
  const AlgorithmChoice choice = algorithm_choice();
  if (choice == AlgorithmChoice::kTable) {
    const auto text = algorithm_of_table(product.text());
    if (text) return from_table(handle, product, *text);
  }
  if (choice == AlgorithmChoice::kTimed && !is_capturing(stream)) {
    return timed(handle, stream, product, workspace);
  }
  const auto first = suggestions(handle, product, 1);
  return first.empty() ? std::nullopt : std::optional(first[0]);
}

}  // namespace lockstep::cuda
