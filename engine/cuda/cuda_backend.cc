#include "lockstep/engine/cuda/cuda_backend.h"

#include "lockstep/engine/cuda/conv.h"
#include "lockstep/engine/cuda/cross_entropy.h"
#include "lockstep/engine/cuda/elementwise.h"
#include "lockstep/engine/cuda/event.h"
#include "lockstep/engine/cuda/finite.h"
#include "lockstep/engine/cuda/gemm.h"
#include "lockstep/engine/cuda/graph.h"
#include "lockstep/engine/cuda/index_check.h"
#include "lockstep/engine/cuda/indexing.h"
#include "lockstep/engine/cuda/layer_norm.h"
#include "lockstep/engine/cuda/libraries.h"
#include "lockstep/engine/cuda/low_rank.h"
#include "lockstep/engine/cuda/memory.h"
#include "lockstep/engine/cuda/norm.h"
#include "lockstep/engine/cuda/optimizer.h"
#include "lockstep/engine/cuda/pinned.h"
#include "lockstep/engine/cuda/pool.h"
#include "lockstep/engine/cuda/reduction.h"
#include "lockstep/engine/cuda/scan.h"
#include "lockstep/engine/cuda/softmax.h"
#include "lockstep/engine/cuda/sort.h"
#include "lockstep/engine/cuda/status.h"
#include "lockstep/engine/device_clock.h"
#include "lockstep/engine/fused_attention.h"
#include "lockstep/engine/gradient_kernels.h"
#include "lockstep/engine/sync_debug.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/same_device.h"
#include "lockstep/engine/transfer.h"

namespace lockstep::cuda {
namespace {

// The most that a copy from the host passes through pinned memory. More goes by the driver's own,
// which may wait for the stream.
constexpr size_t kMostStaged = size_t{32} << 20;

class Stream {
 public:
  explicit Stream(int device) {
    make_current(device);
    check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
  }
  ~Stream() { cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

bool is_for_library(const GemmCall& c) {
  return is_floating(c.dtype) && c.m != 0 && c.n != 0 && c.k != 0 && c.batch != 0;
}

class CudaBackend final : public Backend,
                          public Capturing,
                          public FusedAttention,
                          public GradientKernels,
                          public IndexChecks,
                          public Transfers {
 public:
  explicit CudaBackend(int index)
      : index_(index),
        stream_(index),
        copies_(index),
        memory_(index, stream_.get()),
        captures_(index, stream_.get(), memory_, pinned_) {}

  Device device() const override { return {DeviceType::kCuda, static_cast<int16_t>(index_)}; }

  void* allocate(size_t bytes) override {
    make_current(index_);
    if (CudaGraph* const graph = captures_.current()) return graph->allocate(bytes);
    return memory_.allocate(bytes);
  }
  void deallocate(void* data, size_t bytes) noexcept override {
    try {
      make_current(index_);
    } catch (const Error&) {  // the device is lost, and the memory with it
    }
    if (!captures_.deallocate(data, bytes)) memory_.deallocate(data, bytes);
  }
  // Through pinned memory, so that the caller may go on, and use its own again.
  void copy_from_host(void* to, const void* from, size_t bytes) override {
    if (bytes == 0) return;
    forbid_host_memory();
    if (bytes <= kMostStaged) {
      pinned_.copy_to_device(to, from, bytes, stream());
      return;
    }
    check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream()),
               "copy to device");
  }
  void copy_to_host(void* to, const void* from, size_t bytes) override {
    if (bytes == 0) return;
    about_to_wait("a copy to the host");
    check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream()), "copy to host");
    check_cuda(cudaStreamSynchronize(stream()), "copy to host");
    throw_wrong_index();
  }
  size_t bytes_in_use() const override { return memory_.bytes_in_use(); }
  size_t peak_bytes() const override { return memory_.peak_bytes(); }
  void reset_peak_bytes() override { memory_.reset_peak_bytes(); }

  std::shared_ptr<Event> record_event() override { return record_event(Lane::kCompute); }
  void wait_for(const std::shared_ptr<Event>& event) override { wait_for(event, Lane::kCompute); }
  void synchronize() override {
    about_to_wait("synchronize()");
    check_cuda(cudaStreamSynchronize(stream()), "synchronize");
    check_cuda(cudaStreamSynchronize(copies_.get()), "synchronize");
    throw_wrong_index();
  }

  // -- transfers
  void* allocate_pinned(size_t bytes) override {
    forbid_host_memory();
    make_current(index_);
    return pinned_.allocate(bytes);
  }
  void deallocate_pinned(void* data) noexcept override {
    try {
      make_current(index_);
    } catch (const Error&) {  // the device is lost
    }
    if (captures_.deallocate_pinned(data, copies_.get())) return;
    pinned_.deallocate(data, {stream_.get(), copies_.get()});
  }
  bool pin(void* data, size_t bytes) noexcept override {
    if (cudaSetDevice(index_) == cudaSuccess &&
        cudaHostRegister(data, bytes, cudaHostRegisterPortable) == cudaSuccess) {
      return true;
    }
    cudaGetLastError();
    return false;
  }
  void unpin(void* data) noexcept override {
    if (cudaHostUnregister(data) != cudaSuccess) cudaGetLastError();
  }
  void copy_from_pinned(void* to, const void* from, size_t bytes, Lane lane) override {
    if (bytes == 0) return;
    forbid_host_memory();
    check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream(lane)),
               "copy to device");
  }
  void copy_to_pinned(void* to, const void* from, size_t bytes, Lane lane) override {
    if (bytes == 0) return;
    forbid_host_memory();
    check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream(lane)),
               "copy to host");
  }
  std::shared_ptr<Event> record_event(Lane lane) override {
    // Who waits for copies beside the computation is not the thread that issues it.
    const unsigned sleeps = lane == Lane::kCopies ? cudaEventBlockingSync : 0u;
    return std::make_shared<CudaEvent>(stream(lane), cudaEventDisableTiming | sleeps);
  }
  std::shared_ptr<CommEvent> record_timed_event() override {
    if (!clock_.started()) {
      const SyncAllowed allowed;
      const auto origin = std::make_shared<CudaEvent>(stream(), cudaEventDefault);
      origin->wait_on_host();
      clock_.start(origin);
    }
    return std::make_shared<CudaEvent>(stream(), cudaEventDefault);
  }
  std::optional<std::chrono::steady_clock::time_point> time_of(
      const std::shared_ptr<CommEvent>& event) override {
    return clock_.time_of(event);
  }
  void wait_for(const std::shared_ptr<Event>& event, Lane lane) override {
    if (const auto* ours = dynamic_cast<const CudaEvent*>(event.get())) {
      check_cuda(cudaStreamWaitEvent(stream(lane), ours->get(), 0), "cudaStreamWaitEvent");
    }  // the CPU's events lie in the past
  }

  void pointwise(PointwiseOp op, const PointwiseCall& call) override {
    run_pointwise(stream(), op, call);
  }
  void copy(const Tensor& out, const Tensor& in) override {
    check_on_device("copy", device(), out, in);
    copy_strided(stream(), out, in);
  }
  void fill(const Tensor& out, Scalar value) override {
    check_on_device("fill", device(), out);
    fill_strided(stream(), out, value);
  }
  void random(const Tensor& out, RandomKind kind, double p, double q,
              const RandomKey& key) override {
    check_on_device("random", device(), out);
    const cudaStream_t compute = stream();
    if (CudaGraph* const graph = captures_.current()) {
      fill_random(compute, out, kind, p, q, graph->relative(key), graph->random());
    } else {
      fill_random(compute, out, kind, p, q, key);
    }
  }

  // -- indices
  void check_indices(const IndexRule& rule, const Tensor& index, const Tensor& poisoned) override {
    check_on_device("check_indices", device(), index, poisoned);
    wrong_index_.check(stream(), rule, index.contiguous(), poisoned);
  }
  std::string wrong_index() override { return wrong_index_.take(); }

  // -- reductions and indexing
  void sum(const Tensor& out, const Tensor& in) override {
    check_on_device("sum", device(), out, in);
    sum_dims(stream(), out, in);
  }
  void extreme(const Tensor& values, const Tensor& indices, const Tensor& in, int dim,
               bool largest) override {
    check_on_device("extreme", device(), values, indices, in);
    extreme_along(stream(), values, indices, in, dim, largest);
  }
  void index_select(const Tensor& out, const Tensor& in, int dim, const Tensor& index) override {
    check_on_device("index_select", device(), out, in, index);
    gather_slices(stream(), out, in, dim, index);
  }
  void index_add(const Tensor& out, int dim, const Tensor& index, const Tensor& in) override {
    check_on_device("index_add", device(), out, index, in);
    add_slices(stream(), out, dim, index, in);
  }
  void gather(const Tensor& out, const Tensor& in, int dim, const Tensor& index) override {
    check_on_device("gather", device(), out, in, index);
    gather_elements(stream(), out, in, dim, index);
  }
  void scatter_add(const Tensor& out, int dim, const Tensor& index, const Tensor& in) override {
    check_on_device("scatter_add", device(), out, index, in);
    scatter_add_elements(stream(), out, dim, index, in);
  }
  void sort(const Tensor& values, const Tensor& indices, const Tensor& in, int dim,
            bool descending) override {
    check_on_device("sort", device(), values, indices, in);
    sort_along(stream(), values, indices, in, dim, descending);
  }
  void cumsum(const Tensor& out, const Tensor& in, int dim, bool reverse) override {
    check_on_device("cumsum", device(), out, in);
    cumsum_along(stream(), out, in, dim, reverse);
  }

  // -- dense math
  void gemm(const GemmCall& call) override {
    if (is_for_library(call)) {
      gemm_by_library(stream(), call);
    } else {
      gemm_by_kernel(stream(), call);
    }
  }
  bool gemm_with_epilogue(const GemmCall& call, const GemmEpilogue& epilogue) override {
    return is_for_library(call) && call.batch == 1 &&
           gemm_with_epilogue_by_library(stream(), call, epilogue);
  }
  bool prefers_channels_last() const override { return false; }
  void conv2d(const Tensor& y, const Tensor& x, const Tensor& w, const Tensor& bias,
              const Conv2dParams& params) override {
    check_on_device("conv2d", device(), y, x, w, bias);
    if (conv2d_by_library(stream(), y, x, w, bias, params)) return;
    conv2d_by_kernel(stream(), y, x, w, bias, params);
  }
  void conv2d_input_gradient(const Tensor& gx, const Tensor& gy, const Tensor& w,
                             const Conv2dParams& params) override {
    check_on_device("conv2d_input_gradient", device(), gx, gy, w);
    if (conv2d_input_gradient_by_library(stream(), gx, gy, w, params)) return;
    conv2d_input_gradient_by_kernel(stream(), gx, gy, w, params);
  }
  void conv2d_weight_gradient(const Tensor& gw, const Tensor& gbias, const Tensor& gy,
                              const Tensor& x, const Conv2dParams& params) override {
    check_on_device("conv2d_weight_gradient", device(), gw, gbias, gy, x);
    if (conv2d_weight_gradient_by_library(stream(), gw, gbias, gy, x, params)) return;
    conv2d_weight_gradient_by_kernel(stream(), gw, gbias, gy, x, params);
  }

  // -- attention
  bool can_attend(const AttentionCall& call, bool gradient) override {
    make_current(index_);
    return can_attend_by_library(call, gradient);
  }
  void attention(const Tensor& y, const Tensor& stats, const AttentionCall& call) override {
    check_on_device("attention", device(), y, stats, call.q, call.k, call.v);
    attention_by_library(stream(), y, stats, call);
  }
  void attention_gradient(const Tensor& gq, const Tensor& gk, const Tensor& gv, const Tensor& gy,
                          const Tensor& y, const Tensor& stats,
                          const AttentionCall& call) override {
    check_on_device("attention_gradient", device(), gq, gk, gv, gy, y, stats, call.q, call.k,
                    call.v);
    attention_gradient_by_library(stream(), gq, gk, gv, gy, y, stats, call);
  }
  void attention_mask(const Tensor& mask, const AttentionCall& call) override {
    check_on_device("attention_mask", device(), mask, call.q, call.k, call.v);
    attention_mask_by_library(stream(), mask, call);
  }

  // -- pooling
  void max_pool2d(const Tensor& y, const Tensor& indices, const Tensor& x,
                  const Pool2dParams& params) override {
    check_on_device("max_pool2d", device(), y, indices, x);
    cuda::max_pool2d(stream(), y, indices, x, params);
  }
  void max_pool2d_gradient(const Tensor& gx, const Tensor& gy, const Tensor& indices,
                           const Pool2dParams& params) override {
    check_on_device("max_pool2d_gradient", device(), gx, gy, indices);
    cuda::max_pool2d_gradient(stream(), gx, gy, indices, params);
  }
  void avg_pool2d(const Tensor& y, const Tensor& x, const Pool2dParams& params) override {
    check_on_device("avg_pool2d", device(), y, x);
    cuda::avg_pool2d(stream(), y, x, params);
  }
  void avg_pool2d_gradient(const Tensor& gx, const Tensor& gy,
                           const Pool2dParams& params) override {
    check_on_device("avg_pool2d_gradient", device(), gx, gy);
    cuda::avg_pool2d_gradient(stream(), gx, gy, params);
  }

  // -- normalisation
  void batch_statistics(const Tensor& mean, const Tensor& var, const Tensor& x) override {
    check_on_device("batch_statistics", device(), mean, var, x);
    cuda::batch_statistics(stream(), mean, var, x);
  }
  void batch_norm(const Tensor& y, const Tensor& x, const Tensor& mean, const Tensor& var,
                  const Tensor& weight, const Tensor& bias, double eps) override {
    check_on_device("batch_norm", device(), y, x, mean, var, weight, bias);
    cuda::batch_norm(stream(), y, x, mean, var, weight, bias, eps);
  }
  void batch_norm_gradient(const Tensor& gx, const Tensor& gweight, const Tensor& gbias,
                           const Tensor& gy, const Tensor& x, const Tensor& mean, const Tensor& var,
                           const Tensor& weight, double eps, bool batch) override {
    check_on_device("batch_norm_gradient", device(), gx, gweight, gbias, gy, x, mean, var, weight);
    cuda::batch_norm_gradient(stream(), gx, gweight, gbias, gy, x, mean, var, weight, eps, batch);
  }
  void log_softmax(const Tensor& y, const Tensor& x) override {
    check_on_device("log_softmax", device(), y, x);
    cuda::log_softmax(stream(), y, x);
  }
  void log_softmax_gradient(const Tensor& gx, const Tensor& gy, const Tensor& y) override {
    check_on_device("log_softmax_gradient", device(), gx, gy, y);
    cuda::log_softmax_gradient(stream(), gx, gy, y);
  }

  void softmax(const Tensor& y, const Tensor& x) override {
    check_on_device("softmax", device(), y, x);
    cuda::softmax(stream(), y, x);
  }
  void softmax_gradient(const Tensor& gx, const Tensor& gy, const Tensor& y) override {
    check_on_device("softmax_gradient", device(), gx, gy, y);
    cuda::softmax_gradient(stream(), gx, gy, y);
  }
  void cross_entropy(const Tensor& losses, const Tensor& log_sums, const Tensor& x,
                     const Tensor& target, const Tensor& weight, int64_t ignore_index) override {
    check_on_device("cross_entropy", device(), losses, log_sums, x, target, weight);
    cuda::cross_entropy(stream(), losses, log_sums, x, target, weight, ignore_index);
  }
  void cross_entropy_gradient(const Tensor& gx, const Tensor& gy, const Tensor& x,
                              const Tensor& log_sums, const Tensor& target, const Tensor& weight,
                              int64_t ignore_index) override {
    check_on_device("cross_entropy_gradient", device(), gx, gy, x, log_sums, target, weight);
    cuda::cross_entropy_gradient(stream(), gx, gy, x, log_sums, target, weight, ignore_index);
  }
  void layer_norm(const Tensor& y, const Tensor& mean, const Tensor& rstd, const Tensor& x,
                  const Tensor& weight, const Tensor& bias, double eps) override {
    check_on_device("layer_norm", device(), y, mean, rstd, x, weight, bias);
    cuda::layer_norm(stream(), y, mean, rstd, x, weight, bias, eps);
  }
  void layer_norm_gradient(const Tensor& gx, const Tensor& gweight, const Tensor& gbias,
                           const Tensor& gy, const Tensor& x, const Tensor& mean,
                           const Tensor& rstd, const Tensor& weight) override {
    check_on_device("layer_norm_gradient", device(), gx, gweight, gbias, gy, x, mean, rstd, weight);
    cuda::layer_norm_gradient(stream(), gx, gweight, gbias, gy, x, mean, rstd, weight);
  }

  // -- optimizers
  void sgd_step(std::span<const OptimizerSegment> segments, const SgdArgs& args) override {
    forbid_plain_update();
    cuda::sgd_step(stream(), segments, args);
  }
  void adam_step(std::span<const OptimizerSegment> segments, const AdamArgs& args) override {
    forbid_plain_update();
    cuda::adam_step(stream(), segments, args);
  }
  double sum_of_squares(std::span<const OptimizerSegment> segments) override {
    about_to_wait("the norm of gradients");
    const double sum = cuda::sum_of_squares(stream(), device(), segments);
    throw_wrong_index();
    return sum;
  }

  // -- graphs
  std::unique_ptr<DeviceGraph> make_graph() override { return captures_.make_graph(); }

  // -- gradients
  void flag_non_finite(const Tensor& flags, std::span<const Tensor> tensors) override {
    check_on_device("flag_non_finite", device(), flags);
    for (const Tensor& t : tensors) check_on_device("flag_non_finite", device(), t);
    cuda::flag_non_finite(stream(), flags, tensors);
  }
  void orthonormalize(std::span<const VectorSet> sets) override {
    for (const auto& set : sets) check_on_device("orthonormalize", device(), set.vectors);
    cuda::orthonormalize(stream(), sets);
  }
  void reconstruct(const Factored& matrix, double share, const Tensor& count) override {
    check_on_device("reconstruct", device(), matrix.m, matrix.error, matrix.p, matrix.q, count);
    cuda::reconstruct(stream(), matrix, share, count);
  }

 private:
  static void forbid_host_memory() {
    forbid_in_capture("a copy between the device and memory of the host",
                      "a replay would copy what lies there then. Write into a tensor on the device "
                      "before the replay (copy_)");
  }
  static void forbid_plain_update() {
    forbid_in_capture("an optimizer's kernel with rates of now",
                      "call step() of an optim::SGD, Adam or AdamW");
  }

  void throw_wrong_index() {
    if (const std::string text = wrong_index(); !text.empty()) throw IndexError(text);
  }
  // A capture takes one device's work: another's would run now, and in no replay.
  void check_captured() const {
    const bool captured = captures_.current() != nullptr;  // throws where another thread captures
    if (captured || graph_in_capture() == nullptr) return;
    forbid_in_capture("work for " + device().str(),
                      "the capture began for another device: name "
                      "this one there");
  }
  // For every call: the thread's device is this one.
  cudaStream_t stream(Lane lane = Lane::kCompute) const {
    make_current(index_);
    if (lane == Lane::kCompute) check_captured();
    return lane == Lane::kCompute ? stream_.get() : copies_.get();
  }

  const int index_;
  const Stream stream_, copies_;
  MemoryPool memory_;
  PinnedPool pinned_;
  DeviceClock clock_;
  Captures captures_;
  IndexCheck wrong_index_;
};

}  // namespace

std::unique_ptr<Backend> make_backend(int index) { return std::make_unique<CudaBackend>(index); }

}  // namespace lockstep::cuda
