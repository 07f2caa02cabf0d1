#include "lockstep/engine/cpu/cpu_backend.h"

#include <cstring>
#include <vector>

#include "lockstep/engine/cpu/caching_allocator.h"
#include "lockstep/engine/cpu/conv.h"
#include "lockstep/engine/cpu/elementwise.h"
#include "lockstep/engine/cpu/gemm.h"
#include "lockstep/engine/cpu/gemm_half.h"
#include "lockstep/engine/cpu/gemm_integer.h"
#include "lockstep/engine/cpu/in_float32.h"
#include "lockstep/engine/cpu/indexing.h"
#include "lockstep/engine/cpu/layer_norm.h"
#include "lockstep/engine/cpu/norm.h"
#include "lockstep/engine/cpu/optimizer_kernels.h"
#include "lockstep/engine/cpu/pool.h"
#include "lockstep/engine/cpu/reduction.h"
#include "lockstep/engine/cpu/reduction_kernels.h"
#include "lockstep/engine/cpu/scan.h"
#include "lockstep/engine/cpu/softmax.h"
#include "lockstep/engine/cpu/thread_pool.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/same_device.h"

namespace lockstep::cpu {
namespace {

constexpr int64_t kOptimizerTile = 16384;  // elements of a segment per parallel tile

// Everything has happened by the time a CPU call returns.
class CpuEvent final : public Event {
 public:
  void wait_on_host() override {}
};

// float and double kernels share their shape: calls fn with a null pointer of the element type.
template <typename F>
void for_float_or_double(const char* op, DType dtype, F&& fn) {
  if (dtype == DType::kFloat32) return fn(static_cast<float*>(nullptr));
  if (dtype == DType::kFloat64) return fn(static_cast<double*>(nullptr));
  fail("[{}] no kernel for {}", op, name_of(dtype));
}

template <typename T>
T* data_or_null(const Tensor& t) {
  return t.defined() ? t.data<T>() : nullptr;
}

// The common layout of a kernel's activations; a tensor with one channel or one pixel has both.
Layout layout_of(const Tensor& a, const Tensor& b) {
  return a.is_channels_last() && b.is_channels_last() ? Layout::kNhwc : Layout::kNchw;
}

Conv2dShape conv_shape(const Tensor& x, const Tensor& w, const Conv2dParams& p) {
  return {.n = x.size(0),
          .c = x.size(1),
          .h = x.size(2),
          .w = x.size(3),
          .o = w.size(0),
          .kh = w.size(2),
          .kw = w.size(3),
          .stride_h = p.stride[0],
          .stride_w = p.stride[1],
          .pad_h = p.padding[0],
          .pad_w = p.padding[1],
          .dilation_h = p.dilation[0],
          .dilation_w = p.dilation[1],
          .groups = p.groups};
}

Pool2dShape pool_shape(const Tensor& x, const Tensor& y, const Pool2dParams& p) {
  return {.n = x.size(0),
          .c = x.size(1),
          .h = x.size(2),
          .w = x.size(3),
          .out_h = y.size(2),
          .out_w = y.size(3),
          .kh = p.kernel[0],
          .kw = p.kernel[1],
          .stride_h = p.stride[0],
          .stride_w = p.stride[1],
          .pad_h = p.padding[0],
          .pad_w = p.padding[1],
          .dilation_h = p.dilation[0],
          .dilation_w = p.dilation[1],
          .count_include_pad = p.count_include_pad};
}

NormShape norm_shape(const Tensor& x, const Tensor& y) {
  NormShape s{.n = x.size(0), .c = x.size(1)};
  for (int d = 2; d < x.dim(); ++d) s.spatial *= x.sizes()[d];
  s.layout = x.dim() == 4 ? layout_of(x, y) : Layout::kNchw;
  return s;
}

template <typename T>
ClassRows<T> class_rows(const Tensor& x, const Tensor& target, const Tensor& weight,
                        int64_t ignore_index) {
  return {.rows = x.size(0),
          .cols = x.size(1),
          .x = x.data<T>(),
          .target = target.data<int64_t>(),
          .weight = data_or_null<T>(weight),
          .ignore_index = ignore_index};
}

// Calls fn(segment, begin, end) for fixed tiles of every segment, in parallel.
template <typename F>
void for_segment_tiles(std::span<const OptimizerSegment> segments, F&& fn) {
  std::vector<int64_t> first_tile = {0};
  for (const auto& s : segments) {
    first_tile.push_back(first_tile.back() + (s.count + kOptimizerTile - 1) / kOptimizerTile);
  }
  parallel_for(first_tile.back(), [&](int64_t tile) {
    const auto at = std::upper_bound(first_tile.begin(), first_tile.end(), tile) - 1;
    const auto& s = segments[static_cast<size_t>(at - first_tile.begin())];
    const int64_t begin = (tile - *at) * kOptimizerTile;
    fn(s, begin, std::min(s.count, begin + kOptimizerTile), tile);
  });
}

void check_segments(const char* op, std::span<const OptimizerSegment> segments) {
  for (const auto& s : segments) {
    check(s.dtype == DType::kFloat32 || s.dtype == DType::kFloat64, "[{}] no kernel for {}", op,
          name_of(s.dtype));
  }
}

class CpuBackend final : public Backend {
 public:
  Device device() const override { return {}; }

  void* allocate(size_t bytes) override { return cpu::allocate(bytes); }
  void deallocate(void* data, size_t bytes) noexcept override { cpu::deallocate(data, bytes); }
  void copy_from_host(void* to, const void* from, size_t bytes) override {
    if (bytes) std::memcpy(to, from, bytes);
  }
  void copy_to_host(void* to, const void* from, size_t bytes) override {
    if (bytes) std::memcpy(to, from, bytes);
  }
  size_t bytes_in_use() const override { return allocator_stats().bytes_in_use; }
  size_t peak_bytes() const override { return allocator_stats().peak_bytes; }
  void reset_peak_bytes() override { cpu::reset_peak_bytes(); }

  std::shared_ptr<Event> record_event() override {
    static const auto event = std::make_shared<CpuEvent>();
    return event;
  }
  void wait_for(const std::shared_ptr<Event>&) override {}
  void synchronize() override {}

  void pointwise(PointwiseOp op, const PointwiseCall& call) override { run_pointwise(op, call); }
  void copy(const Tensor& out, const Tensor& in) override {
    check_on_device("copy", device(), out, in);
    copy_strided(out, in);
  }
  void fill(const Tensor& out, Scalar value) override {
    check_on_device("fill", device(), out);
    fill_strided(out, value);
  }
  void random(const Tensor& out, RandomKind kind, double p, double q,
              const RandomKey& key) override {
    check_on_device("random", device(), out);
    fill_random(out, kind, p, q, key);
  }

  void sum(const Tensor& out, const Tensor& in) override {
    check_on_device("sum", device(), out, in);
    sum_dims(out, in);
  }
  void extreme(const Tensor& values, const Tensor& indices, const Tensor& in, int dim,
               bool largest) override {
    check_on_device("extreme", device(), values, indices, in);
    if (is_half(in)) {
      return in_float32({values}, {in}, [&](const auto& out, const auto& wide) {
        extreme(out[0], indices, wide[0], dim, largest);
      });
    }
    extreme_along(values, indices, in, dim, largest);
  }
  void index_select(const Tensor& out, const Tensor& in, int dim, const Tensor& index) override {
    check_on_device("index_select", device(), out, in, index);
    gather_slices(out, in, dim, index);
  }
  void index_add(const Tensor& out, int dim, const Tensor& index, const Tensor& in) override {
    check_on_device("index_add", device(), out, index, in);
    if (is_half(out)) {
      return in_float32({out}, {out, in}, [&](const auto& sum, const auto& wide) {
        copy(sum[0], wide[0]);
        index_add(sum[0], dim, index, wide[1]);
      });
    }
    add_slices(out, dim, index, in);
  }
  void gather(const Tensor& out, const Tensor& in, int dim, const Tensor& index) override {
    check_on_device("gather", device(), out, in, index);
    gather_elements(out, in, dim, index);
  }
  void scatter_add(const Tensor& out, int dim, const Tensor& index, const Tensor& in) override {
    check_on_device("scatter_add", device(), out, index, in);
    if (is_half(out)) {
      return in_float32({out}, {out, in}, [&](const auto& sum, const auto& wide) {
        copy(sum[0], wide[0]);
        scatter_add(sum[0], dim, index, wide[1]);
      });
    }
    scatter_add_elements(out, dim, index, in);
  }
  void sort(const Tensor& values, const Tensor& indices, const Tensor& in, int dim,
            bool descending) override {
    check_on_device("sort", device(), values, indices, in);
    if (is_half(in)) {
      return in_float32({values}, {in}, [&](const auto& out, const auto& wide) {
        sort(out[0], indices, wide[0], dim, descending);
      });
    }
    sort_along(values, indices, in, dim, descending);
  }
  void cumsum(const Tensor& out, const Tensor& in, int dim, bool reverse) override {
    check_on_device("cumsum", device(), out, in);
    if (is_half(in)) {
      return in_float32({out}, {in}, [&](const auto& sums, const auto& wide) {
        cumsum(sums[0], wide[0], dim, reverse);
      });
    }
    cumsum_along(out, in, dim, reverse);
  }

  void gemm(const GemmCall& c) override {
    if (c.dtype == DType::kBFloat16 || c.dtype == DType::kFloat16) return gemm_half(c);
    if (is_integral(c.dtype)) return gemm_integer(c);
    for_float_or_double("gemm", c.dtype, [&]<typename T>(T*) {
      const GemmArgs<T> args{.transpose_a = c.trans_a,
                             .transpose_b = c.trans_b,
                             .m = c.m,
                             .n = c.n,
                             .k = c.k,
                             .a = static_cast<const T*>(c.a),
                             .lda = c.lda,
                             .b = static_cast<const T*>(c.b),
                             .ldb = c.ldb,
                             .beta = c.accumulate ? T(1) : T(0),
                             .c = static_cast<T*>(c.c),
                             .ldc = c.ldc};
      if (c.batch == 1) {
        cpu::gemm(args);
      } else {
        batched_gemm(args, c.batch, c.stride_a, c.stride_b, c.stride_c);
      }
    });
  }

  bool prefers_channels_last() const override { return true; }
  void conv2d(const Tensor& y, const Tensor& x, const Tensor& w, const Tensor& bias,
              const Conv2dParams& params) override {
    check_on_device("conv2d", device(), y, x, w, bias);
    if (is_half(x)) {
      return in_float32({y}, {x, w, bias}, [&](const auto& out, const auto& in) {
        conv2d(out[0], in[0], in[1], in[2], params);
      });
    }
    for_float_or_double("conv2d", x.dtype(), [&]<typename T>(T*) {
      conv2d_forward(conv_shape(x, w, params), layout_of(x, y), x.data<T>(), w.data<T>(),
                     data_or_null<T>(bias), y.data<T>());
    });
  }
  void conv2d_input_gradient(const Tensor& gx, const Tensor& gy, const Tensor& w,
                             const Conv2dParams& params) override {
    check_on_device("conv2d_input_gradient", device(), gx, gy, w);
    if (is_half(gx)) {
      return in_float32({gx}, {gy, w}, [&](const auto& out, const auto& in) {
        conv2d_input_gradient(out[0], in[0], in[1], params);
      });
    }
    for_float_or_double("conv2d_input_gradient", gx.dtype(), [&]<typename T>(T*) {
      conv2d_backward_data(conv_shape(gx, w, params), layout_of(gx, gy), gy.data<T>(), w.data<T>(),
                           gx.data<T>());
    });
  }
  void conv2d_weight_gradient(const Tensor& gw, const Tensor& gbias, const Tensor& gy,
                              const Tensor& x, const Conv2dParams& params) override {
    check_on_device("conv2d_weight_gradient", device(), gw, gbias, gy, x);
    if (is_half(x)) {
      return in_float32({gw, gbias}, {gy, x}, [&](const auto& out, const auto& in) {
        conv2d_weight_gradient(out[0], out[1], in[0], in[1], params);
      });
    }
    for_float_or_double("conv2d_weight_gradient", x.dtype(), [&]<typename T>(T*) {
      conv2d_backward_weights(conv_shape(x, gw, params), layout_of(x, gy), x.data<T>(),
                              gy.data<T>(), gw.data<T>(), data_or_null<T>(gbias));
    });
  }

  void max_pool2d(const Tensor& y, const Tensor& indices, const Tensor& x,
                  const Pool2dParams& params) override {
    check_on_device("max_pool2d", device(), y, indices, x);
    if (is_half(x)) {
      return in_float32({y}, {x}, [&](const auto& out, const auto& in) {
        max_pool2d(out[0], indices, in[0], params);
      });
    }
    for_float_or_double("max_pool2d", x.dtype(), [&]<typename T>(T*) {
      max_pool2d_forward(pool_shape(x, y, params), layout_of(x, y), x.data<T>(), y.data<T>(),
                         indices.data<int32_t>());
    });
  }
  void max_pool2d_gradient(const Tensor& gx, const Tensor& gy, const Tensor& indices,
                           const Pool2dParams& params) override {
    check_on_device("max_pool2d_gradient", device(), gx, gy, indices);
    if (is_half(gx)) {
      return in_float32({gx}, {gy}, [&](const auto& out, const auto& in) {
        max_pool2d_gradient(out[0], in[0], indices, params);
      });
    }
    for_float_or_double("max_pool2d_gradient", gx.dtype(), [&]<typename T>(T*) {
      max_pool2d_backward(pool_shape(gx, gy, params), layout_of(gx, gy), gy.data<T>(),
                          indices.data<int32_t>(), gx.data<T>());
    });
  }
  void avg_pool2d(const Tensor& y, const Tensor& x, const Pool2dParams& params) override {
    check_on_device("avg_pool2d", device(), y, x);
    if (is_half(x)) {
      return in_float32(
          {y}, {x}, [&](const auto& out, const auto& in) { avg_pool2d(out[0], in[0], params); });
    }
    for_float_or_double("avg_pool2d", x.dtype(), [&]<typename T>(T*) {
      avg_pool2d_forward(pool_shape(x, y, params), layout_of(x, y), x.data<T>(), y.data<T>());
    });
  }
  void avg_pool2d_gradient(const Tensor& gx, const Tensor& gy,
                           const Pool2dParams& params) override {
    check_on_device("avg_pool2d_gradient", device(), gx, gy);
    if (is_half(gx)) {
      return in_float32({gx}, {gy}, [&](const auto& out, const auto& in) {
        avg_pool2d_gradient(out[0], in[0], params);
      });
    }
    for_float_or_double("avg_pool2d_gradient", gx.dtype(), [&]<typename T>(T*) {
      avg_pool2d_backward(pool_shape(gx, gy, params), layout_of(gx, gy), gy.data<T>(),
                          gx.data<T>());
    });
  }

  void batch_statistics(const Tensor& mean, const Tensor& var, const Tensor& x) override {
    check_on_device("batch_statistics", device(), mean, var, x);
    for_float_or_double("batch_statistics", x.dtype(), [&]<typename T>(T*) {
      cpu::batch_statistics(norm_shape(x, x), x.data<T>(), mean.data<T>(), var.data<T>());
    });
  }
  void batch_norm(const Tensor& y, const Tensor& x, const Tensor& mean, const Tensor& var,
                  const Tensor& weight, const Tensor& bias, double eps) override {
    check_on_device("batch_norm", device(), y, x, mean, var, weight, bias);
    for_float_or_double("batch_norm", x.dtype(), [&]<typename T>(T*) {
      batch_norm_forward(norm_shape(x, y), x.data<T>(), mean.data<T>(), var.data<T>(),
                         data_or_null<T>(weight), data_or_null<T>(bias), eps, y.data<T>());
    });
  }
  void batch_norm_gradient(const Tensor& gx, const Tensor& gweight, const Tensor& gbias,
                           const Tensor& gy, const Tensor& x, const Tensor& mean, const Tensor& var,
                           const Tensor& weight, double eps, bool batch) override {
    check_on_device("batch_norm_gradient", device(), gx, gweight, gbias, gy, x, mean, var, weight);
    for_float_or_double("batch_norm_gradient", x.dtype(), [&]<typename T>(T*) {
      batch_norm_backward(norm_shape(x, gy), gy.data<T>(), x.data<T>(), mean.data<T>(),
                          var.data<T>(), data_or_null<T>(weight), eps, batch, data_or_null<T>(gx),
                          data_or_null<T>(gweight), data_or_null<T>(gbias));
    });
  }
  void log_softmax(const Tensor& y, const Tensor& x) override {
    check_on_device("log_softmax", device(), y, x);
    if (is_half(x)) {
      return in_float32({y}, {x},
                        [&](const auto& out, const auto& in) { log_softmax(out[0], in[0]); });
    }
    for_float_or_double("log_softmax", x.dtype(), [&]<typename T>(T*) {
      const int64_t columns = x.size(-1);
      log_softmax_forward(columns ? x.numel() / columns : 0, columns, x.data<T>(), y.data<T>());
    });
  }
  void log_softmax_gradient(const Tensor& gx, const Tensor& gy, const Tensor& y) override {
    check_on_device("log_softmax_gradient", device(), gx, gy, y);
    if (is_half(y)) {
      return in_float32({gx}, {gy, y}, [&](const auto& out, const auto& in) {
        log_softmax_gradient(out[0], in[0], in[1]);
      });
    }
    for_float_or_double("log_softmax_gradient", y.dtype(), [&]<typename T>(T*) {
      const int64_t columns = y.size(-1);
      log_softmax_backward(columns ? y.numel() / columns : 0, columns, gy.data<T>(), y.data<T>(),
                           gx.data<T>());
    });
  }
  void softmax(const Tensor& y, const Tensor& x) override {
    check_on_device("softmax", device(), y, x);
    if (is_half(x)) {
      return in_float32({y}, {x}, [&](const auto& out, const auto& in) { softmax(out[0], in[0]); });
    }
    for_float_or_double("softmax", x.dtype(), [&]<typename T>(T*) {
      const int64_t columns = x.size(-1);
      softmax_forward(columns ? x.numel() / columns : 0, columns, x.data<T>(), y.data<T>());
    });
  }
  void softmax_gradient(const Tensor& gx, const Tensor& gy, const Tensor& y) override {
    check_on_device("softmax_gradient", device(), gx, gy, y);
    if (is_half(y)) {
      return in_float32({gx}, {gy, y}, [&](const auto& out, const auto& in) {
        softmax_gradient(out[0], in[0], in[1]);
      });
    }
    for_float_or_double("softmax_gradient", y.dtype(), [&]<typename T>(T*) {
      const int64_t columns = y.size(-1);
      softmax_backward(columns ? y.numel() / columns : 0, columns, gy.data<T>(), y.data<T>(),
                       gx.data<T>());
    });
  }
  void cross_entropy(const Tensor& losses, const Tensor& log_sums, const Tensor& x,
                     const Tensor& target, const Tensor& weight, int64_t ignore_index) override {
    check_on_device("cross_entropy", device(), losses, log_sums, x, target, weight);
    if (is_half(x)) {
      return in_float32({}, {x}, [&](const auto&, const auto& in) {
        cross_entropy(losses, log_sums, in[0], target, weight, ignore_index);
      });
    }
    for_float_or_double("cross_entropy", x.dtype(), [&]<typename T>(T*) {
      cross_entropy_forward<T>(class_rows<T>(x, target, weight, ignore_index), losses.data<T>(),
                               log_sums.data<T>());
    });
  }
  void cross_entropy_gradient(const Tensor& gx, const Tensor& gy, const Tensor& x,
                              const Tensor& log_sums, const Tensor& target, const Tensor& weight,
                              int64_t ignore_index) override {
    check_on_device("cross_entropy_gradient", device(), gx, gy, x, log_sums, target, weight);
    if (is_half(x)) {
      return in_float32({gx}, {x}, [&](const auto& out, const auto& in) {
        cross_entropy_gradient(out[0], gy, in[0], log_sums, target, weight, ignore_index);
      });
    }
    for_float_or_double("cross_entropy_gradient", x.dtype(), [&]<typename T>(T*) {
      cross_entropy_backward<T>(class_rows<T>(x, target, weight, ignore_index), gy.data<T>(),
                                log_sums.data<T>(), gx.data<T>());
    });
  }
  void layer_norm(const Tensor& y, const Tensor& mean, const Tensor& rstd, const Tensor& x,
                  const Tensor& weight, const Tensor& bias, double eps) override {
    check_on_device("layer_norm", device(), y, mean, rstd, x, weight, bias);
    if (is_half(x)) {
      return in_float32({y}, {x}, [&](const auto& out, const auto& in) {
        layer_norm(out[0], mean, rstd, in[0], weight, bias, eps);
      });
    }
    for_float_or_double("layer_norm", x.dtype(), [&]<typename T>(T*) {
      layer_norm_forward(x.size(0), x.size(1), x.data<T>(), data_or_null<T>(weight),
                         data_or_null<T>(bias), eps, y.data<T>(), data_or_null<T>(mean),
                         rstd.data<T>());
    });
  }
  void layer_norm_gradient(const Tensor& gx, const Tensor& gweight, const Tensor& gbias,
                           const Tensor& gy, const Tensor& x, const Tensor& mean,
                           const Tensor& rstd, const Tensor& weight) override {
    check_on_device("layer_norm_gradient", device(), gx, gweight, gbias, gy, x, mean, rstd, weight);
    if (is_half(x)) {
      return in_float32({gx}, {gy, x}, [&](const auto& out, const auto& in) {
        layer_norm_gradient(out[0], gweight, gbias, in[0], in[1], mean, rstd, weight);
      });
    }
    for_float_or_double("layer_norm_gradient", x.dtype(), [&]<typename T>(T*) {
      layer_norm_backward(x.size(0), x.size(1), gy.data<T>(), x.data<T>(), data_or_null<T>(mean),
                          rstd.data<T>(), data_or_null<T>(weight), data_or_null<T>(gx),
                          data_or_null<T>(gweight), data_or_null<T>(gbias));
    });
  }

  void sgd_step(std::span<const OptimizerSegment> segments, const SgdArgs& args) override {
    check_segments("sgd", segments);
    const auto& kernels = optimizer_kernels();
    for_segment_tiles(segments, [&](const OptimizerSegment& s, int64_t begin, int64_t end,
                                    int64_t) { kernels.sgd(s, begin, end, args); });
  }
  void adam_step(std::span<const OptimizerSegment> segments, const AdamArgs& args) override {
    check_segments("adam", segments);
    const auto& kernels = optimizer_kernels();
    for_segment_tiles(segments, [&](const OptimizerSegment& s, int64_t begin, int64_t end,
                                    int64_t) { kernels.adam(s, begin, end, args); });
  }
  double sum_of_squares(std::span<const OptimizerSegment> segments) override {
    check_segments("sum_of_squares", segments);
    int64_t tiles = 0;
    for (const auto& s : segments) tiles += (s.count + kOptimizerTile - 1) / kOptimizerTile;
    std::vector<double> partial(static_cast<size_t>(tiles));
    const auto& kernels = reduction_kernels();
    for_segment_tiles(
        segments, [&](const OptimizerSegment& s, int64_t begin, int64_t end, int64_t tile) {
          partial[static_cast<size_t>(tile)] =
              s.dtype == DType::kFloat32
                  ? kernels.squares_f32(static_cast<const float*>(s.grad) + begin, end - begin)
                  : kernels.squares_f64(static_cast<const double*>(s.grad) + begin, end - begin);
        });
    return kernels.sum_f64(partial.data(), tiles);
  }
};

}  // namespace

Backend& cpu_backend() {
  static CpuBackend* backend = new CpuBackend;  // outlives every static tensor
  return *backend;
}

}  // namespace lockstep::cpu
