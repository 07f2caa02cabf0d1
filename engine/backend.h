#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "lockstep/engine/ops/pointwise_call.h"
#include "lockstep/engine/tensor/draw.h"
#include "lockstep/engine/tensor/random.h"
#include "lockstep/engine/tensor/tensor.h"

// The only seam between the engine and a device. The CPU backend is part of the core library,
// others come as plugins; everything above calls kernels through this class.
//
// Kernels get outputs that are already allocated, of the right shape, dtype and device, and inputs
// whose shapes the op has checked. They know nothing of autograd. "dense" below means contiguous,
// or for 4-d activations channels-last; where a kernel takes two activations they have one layout.
namespace lockstep {

struct Conv2dParams {
  int64_t stride[2] = {1, 1};
  int64_t padding[2] = {0, 0};
  int64_t dilation[2] = {1, 1};
  int64_t groups = 1;
};

struct Pool2dParams {
  int64_t kernel[2] = {1, 1};
  int64_t stride[2] = {1, 1};
  int64_t padding[2] = {0, 0};
  int64_t dilation[2] = {1, 1};   // max pooling only
  bool count_include_pad = true;  // average pooling only
};

// C = A B (+ C): row-major matrices given by element strides between rows; `trans` reads the
// transpose. batch > 1 repeats with the given strides.
struct GemmCall {
  DType dtype = DType::kFloat32;
  bool trans_a = false, trans_b = false;
  bool accumulate = false;
  int64_t m = 0, n = 0, k = 0;
  const void* a = nullptr;
  const void* b = nullptr;
  void* c = nullptr;
  int64_t lda = 0, ldb = 0, ldc = 0;
  int64_t batch = 1;
  int64_t stride_a = 0, stride_b = 0, stride_c = 0;
};

// What a product does beside C, in the same pass; null: nothing. Everything has the call's dtype.
struct GemmEpilogue {
  const void* bias = nullptr;      // n elements, added to every row of A B (+ C)
  bool gelu = false;               // C becomes tanh's approximation of the GELU, after the bias,
  void* pre_activation = nullptr;  // of what is kept here, (m, n)
  int64_t pre_activation_ld = 0;   // between its rows, a multiple of 8
  void* bias_gradient = nullptr;   // m elements: the sums of A's rows (those of its transpose, if
                                   // it reads that); goes with nothing else
};

// One parameter's memory in a fused optimizer pass; all pointers have `count` elements of `dtype`.
// `state` are the optimizer's buffers in its own order; unused ones are null.
struct OptimizerSegment {
  void* param = nullptr;
  const void* grad = nullptr;
  void* state[3] = {nullptr, nullptr, nullptr};
  int64_t count = 0;
  DType dtype = DType::kFloat32;
};
struct SgdArgs {  // state[0]: momentum buffer
  double lr = 0, momentum = 0, dampening = 0, weight_decay = 0;
  bool nesterov = false, maximize = false, first_step = false;
};
struct AdamArgs {  // state: exp_avg, exp_avg_sq, max_exp_avg_sq (amsgrad)
  double lr = 0, beta1 = 0, beta2 = 0, eps = 0, weight_decay = 0;
  bool decoupled_weight_decay = false, amsgrad = false, maximize = false;
  int64_t step = 0;  // counted from 1
};

class Event {  // a point in a device's stream of work
 public:
  virtual ~Event() = default;
  virtual void wait_on_host() = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual Device device() const = 0;

  // -- memory
  virtual void* allocate(size_t bytes) = 0;  // 64-byte aligned; throws Error when out of memory
  virtual void deallocate(void* data, size_t bytes) noexcept = 0;
  virtual void copy_from_host(void* device, const void* host, size_t bytes) = 0;
  virtual void copy_to_host(void* host, const void* device, size_t bytes) = 0;  // waits
  virtual size_t bytes_in_use() const = 0;
  virtual size_t peak_bytes() const = 0;  // the largest bytes_in_use() since reset_peak_bytes()
  virtual void reset_peak_bytes() = 0;

  // -- streams
  virtual std::shared_ptr<Event> record_event() = 0;               // after all work issued so far
  virtual void wait_for(const std::shared_ptr<Event>& event) = 0;  // orders later work behind it
  virtual void synchronize() = 0;

  // -- element by element
  virtual void pointwise(PointwiseOp op, const PointwiseCall& call) = 0;
  virtual void copy(const Tensor& out,
                    const Tensor& in) = 0;                 // same shape; any strides, any dtypes
  virtual void fill(const Tensor& out, Scalar value) = 0;  // any strides
  virtual void random(const Tensor& out, RandomKind kind, double p, double q,
                      const RandomKey& key) = 0;  // dense floating

  // -- reductions and indexing
  // `out` has size 1 in every reduced dimension. The order of additions depends on the shape only.
  virtual void sum(const Tensor& out, const Tensor& in) = 0;
  // Extreme along `dim`: values and int64 indices (first on ties, NaN wins) of size 1 there.
  virtual void extreme(const Tensor& values, const Tensor& indices, const Tensor& in, int dim,
                       bool largest) = 0;
  virtual void index_select(const Tensor& out, const Tensor& in, int dim, const Tensor& index) = 0;
  // out[..., index[i], ...] += in[..., i, ...]; deterministic for repeated indices.
  virtual void index_add(const Tensor& out, int dim, const Tensor& index, const Tensor& in) = 0;
  // out[..., i, ...] = in[..., index[..., i, ...], ...]; contiguous, index of out's shape, in at
  // least as long in the other dimensions.
  virtual void gather(const Tensor& out, const Tensor& in, int dim, const Tensor& index) = 0;
  // out[..., index[..., i, ...], ...] += in[..., i, ...]; contiguous, index of in's shape;
  // deterministic for repeated indices.
  virtual void scatter_add(const Tensor& out, int dim, const Tensor& index, const Tensor& in) = 0;
  // Stable; NaN counts as the largest. Contiguous, all of one shape, indices int64.
  virtual void sort(const Tensor& values, const Tensor& indices, const Tensor& in, int dim,
                    bool descending) = 0;
  // Running sums along `dim`, from its end if `reverse`. Contiguous; float32 adds up in double.
  virtual void cumsum(const Tensor& out, const Tensor& in, int dim, bool reverse) = 0;

  // -- dense math
  virtual void gemm(const GemmCall& call) = 0;
  // A product with an epilogue in one pass; or false, and nothing done, where there is none such.
  // The answer depends on shapes, strides, dtypes and alignment only.
  virtual bool gemm_with_epilogue(const GemmCall&, const GemmEpilogue&) { return false; }
  // Whether convolutions and pooling run faster on channels-last activations.
  virtual bool prefers_channels_last() const = 0;
  virtual void conv2d(const Tensor& y, const Tensor& x, const Tensor& w, const Tensor& bias,
                      const Conv2dParams& params) = 0;  // bias may be undefined
  virtual void conv2d_input_gradient(const Tensor& gx, const Tensor& gy, const Tensor& w,
                                     const Conv2dParams& params) = 0;
  virtual void conv2d_weight_gradient(const Tensor& gw, const Tensor& gbias, const Tensor& gy,
                                      const Tensor& x, const Conv2dParams& params) = 0;
  // indices: int32, the flat position h * W + w of the maximum within its input plane.
  virtual void max_pool2d(const Tensor& y, const Tensor& indices, const Tensor& x,
                          const Pool2dParams& params) = 0;
  virtual void max_pool2d_gradient(const Tensor& gx, const Tensor& gy, const Tensor& indices,
                                   const Pool2dParams& params) = 0;
  virtual void avg_pool2d(const Tensor& y, const Tensor& x, const Pool2dParams& params) = 0;
  virtual void avg_pool2d_gradient(const Tensor& gx, const Tensor& gy,
                                   const Pool2dParams& params) = 0;
  // Mean and biased variance per channel of (N, C, ...).
  virtual void batch_statistics(const Tensor& mean, const Tensor& var, const Tensor& x) = 0;
  // y = (x - mean) / sqrt(var + eps) * weight + bias; weight and bias may be undefined.
  virtual void batch_norm(const Tensor& y, const Tensor& x, const Tensor& mean, const Tensor& var,
                          const Tensor& weight, const Tensor& bias, double eps) = 0;
  // `batch`: mean and var came from x itself. Undefined outputs are not computed.
  virtual void batch_norm_gradient(const Tensor& gx, const Tensor& gweight, const Tensor& gbias,
                                   const Tensor& gy, const Tensor& x, const Tensor& mean,
                                   const Tensor& var, const Tensor& weight, double eps,
                                   bool batch) = 0;
  virtual void log_softmax(const Tensor& y, const Tensor& x) = 0;  // last dimension, contiguous
  virtual void log_softmax_gradient(const Tensor& gx, const Tensor& gy, const Tensor& y) = 0;
  virtual void softmax(const Tensor& y, const Tensor& x) = 0;  // likewise
  virtual void softmax_gradient(const Tensor& gx, const Tensor& gy, const Tensor& y) = 0;
  // Of logits x (N, C) and int64 targets (N), in [0, C) or `ignore_index`: losses (N), 0 where
  // ignored, times the weight of the target's class if weight (C) is defined; and for the gradient
  // of each row its maximum and the logarithm of the sum of exp(x - maximum), (N, 2). What is not x
  // or the target is float32 where x has 16 bits. Contiguous.
  virtual void cross_entropy(const Tensor& losses, const Tensor& log_sums, const Tensor& x,
                             const Tensor& target, const Tensor& weight, int64_t ignore_index) = 0;
  // gx (N, C) from gy (N), the gradient of the losses; 0 in rows that are ignored.
  virtual void cross_entropy_gradient(const Tensor& gx, const Tensor& gy, const Tensor& x,
                                      const Tensor& log_sums, const Tensor& target,
                                      const Tensor& weight, int64_t ignore_index) = 0;
  // y = (x - mean) * rstd * weight + bias for each row of x (rows, columns), with the row's mean
  // and rstd = 1 / sqrt(variance + eps), (rows); an undefined mean stands for 0 (RMS norm). weight
  // and bias, (columns), may be undefined. What is not x or y is float32 where x has 16 bits.
  // Contiguous.
  virtual void layer_norm(const Tensor& y, const Tensor& mean, const Tensor& rstd, const Tensor& x,
                          const Tensor& weight, const Tensor& bias, double eps) = 0;
  // Undefined outputs are not computed.
  virtual void layer_norm_gradient(const Tensor& gx, const Tensor& gweight, const Tensor& gbias,
                                   const Tensor& gy, const Tensor& x, const Tensor& mean,
                                   const Tensor& rstd, const Tensor& weight) = 0;

  // -- optimizers: one pass over all segments
  virtual void sgd_step(std::span<const OptimizerSegment> segments, const SgdArgs& args) = 0;
  virtual void adam_step(std::span<const OptimizerSegment> segments, const AdamArgs& args) = 0;
  // Sum of squares of every segment's grad, in double, by a tree over fixed blocks.
  virtual double sum_of_squares(std::span<const OptimizerSegment> segments) = 0;
};

// The backend of a device; throws Error with the reason when it is unavailable.
Backend& backend_of(Device device);
inline Backend& backend_of(const Tensor& tensor) { return backend_of(tensor.device()); }

}  // namespace lockstep
