#include "lockstep/engine/cpu/conv.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>

#include "lockstep/engine/cpu/caching_allocator.h"
#include "lockstep/engine/cpu/dnn.h"
#include "lockstep/engine/cpu/thread_pool.h"
#include "lockstep/engine/cpu/tree_sum.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::cpu {
namespace {

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t input_image(const Conv2dShape& s) { return s.c * s.h * s.w; }
int64_t output_image(const Conv2dShape& s) { return s.o * s.out_h() * s.out_w(); }
int64_t weight_count(const Conv2dShape& s) { return s.o * (s.c / s.groups) * s.kh * s.kw; }

// The batch in tiles of a fixed number of images, the last one perhaps smaller. A tile is worth at
// least some 100 us, and there are at most `most` of them.
class BatchTiles {
 public:
  BatchTiles(const Conv2dShape& shape, Layout layout, ConvPass pass, bool bias, int64_t most) {
    constexpr double kWorthATile = 8e6;  // multiply-adds
    const int64_t weights_per_output = shape.c / shape.groups * shape.kh * shape.kw;
    const double work =
        static_cast<double>(output_image(shape)) * static_cast<double>(weights_per_output);
    const int64_t worth = static_cast<int64_t>(kWorthATile / work) + 1;
    images_ = std::min(std::max(worth, ceil_div(shape.n, most)), shape.n);
    count_ = ceil_div(shape.n, images_);
    Conv2dShape tile = shape;
    tile.n = images_;
    full_ = last_ = ConvPlan::get(tile, layout, pass, bias);
    if (const int64_t rest = shape.n % images_; rest != 0) {
      tile.n = rest;
      last_ = ConvPlan::get(tile, layout, pass, bias);
    }
  }

  int64_t images() const { return images_; }
  int64_t count() const { return count_; }
  const ConvPlan& full() const { return *full_; }
  const ConvPlan& last() const { return *last_; }
  const ConvPlan& plan(int64_t tile) const { return tile + 1 == count_ ? *last_ : *full_; }

 private:
  int64_t images_;
  int64_t count_;
  std::shared_ptr<const ConvPlan> full_;
  std::shared_ptr<const ConvPlan> last_;
};

// The weights as a plan wants them, packed once per call.
class PackedWeights {
 public:
  PackedWeights(const ConvPlan& plan, const float* w)
      : packed_(plan.weights_are_plain() ? 0 : plan.packed_weight_bytes()),
        data_(const_cast<float*>(w)) {
    if (!plan.weights_are_plain()) {
      data_ = packed_.as<float>();
      plan.pack_weights(w, data_);
    }
  }
  float* data() const { return data_; }

 private:
  Workspace packed_;
  float* data_;
};

void check_shape(const Conv2dShape& s) {
  check(s.groups >= 1 && s.c >= 1 && s.o >= 1 && s.c % s.groups == 0 && s.o % s.groups == 0,
        "[conv2d] {} input and {} output channels do not divide into {} groups", s.c, s.o,
        s.groups);
  check(s.kh >= 1 && s.kw >= 1 && s.stride_h >= 1 && s.stride_w >= 1 && s.dilation_h >= 1 &&
            s.dilation_w >= 1 && s.pad_h >= 0 && s.pad_w >= 0,
        "[conv2d] kernel {}x{}, stride {}x{}, padding {}x{}, dilation {}x{}: out of range", s.kh,
        s.kw, s.stride_h, s.stride_w, s.pad_h, s.pad_w, s.dilation_h, s.dilation_w);
  check(s.h + 2 * s.pad_h >= s.dilation_h * (s.kh - 1) + 1 &&
            s.w + 2 * s.pad_w >= s.dilation_w * (s.kw - 1) + 1,
        "[conv2d] kernel {}x{} (dilation {}x{}) is larger than the padded input {}x{}", s.kh, s.kw,
        s.dilation_h, s.dilation_w, s.h + 2 * s.pad_h, s.w + 2 * s.pad_w);
}

// Forward and backward_data: every tile reads the weights and writes its own images.
void run_over_images(const Conv2dShape& s, Layout layout, ConvPass pass, float* x, const float* w,
                     float* bias, float* y) {
  check_shape(s);
  if (s.n == 0) {
    return;
  }
  prepare_this_thread();
  const BatchTiles tiles(s, layout, pass, bias != nullptr, 64);
  const PackedWeights full(tiles.full(), w);
  const bool shared = tiles.last().same_packing(tiles.full());
  const PackedWeights last(tiles.last(), w);
  parallel_for(tiles.count(), [&](int64_t tile) {
    const int64_t first = tile * tiles.images();
    const bool is_last = !shared && tile + 1 == tiles.count();
    tiles.plan(tile).execute(x + first * input_image(s), (is_last ? last : full).data(), bias,
                             y + first * output_image(s));
  });
}

}  // namespace

void conv2d_forward(const Conv2dShape& shape, Layout layout, const float* x, const float* w,
                    const float* bias, float* y) {
  run_over_images(shape, layout, ConvPass::kForward, const_cast<float*>(x), w,
                  const_cast<float*>(bias), y);
}

void conv2d_backward_data(const Conv2dShape& shape, Layout layout, const float* gy, const float* w,
                          float* gx) {
  run_over_images(shape, layout, ConvPass::kBackwardData, gx, w, nullptr, const_cast<float*>(gy));
}

// Every tile has its own partial gradients, packed weights then bias; a tree over the tiles adds
// them up.
void conv2d_backward_weights(const Conv2dShape& s, Layout layout, const float* x, const float* gy,
                             float* gw, float* gb) {
  check_shape(s);
  if (s.n == 0) {
    std::memset(gw, 0, weight_count(s) * sizeof(float));
    if (gb != nullptr) {
      std::memset(gb, 0, s.o * sizeof(float));
    }
    return;
  }
  prepare_this_thread();
  constexpr int64_t kPartialBytes = 32 << 20;
  const int64_t most = std::clamp<int64_t>(
      kPartialBytes / (weight_count(s) * static_cast<int64_t>(sizeof(float))), 4, 16);
  const BatchTiles tiles(s, layout, ConvPass::kBackwardWeights, gb != nullptr, most);
  const ConvPlan& plan = tiles.full();
  const auto packed = static_cast<int64_t>(plan.packed_weight_bytes() / sizeof(float));
  const int64_t partial = (packed + s.o + 15) / 16 * 16;
  const Workspace partials(tiles.count() * partial * sizeof(float));
  parallel_for(tiles.count(), [&](int64_t tile) {
    const int64_t first = tile * tiles.images();
    float* out = partials.as<float>() + tile * partial;
    const ConvPlan& own = tiles.plan(tile);
    float* bias = gb != nullptr ? out + packed : nullptr;
    auto* images = const_cast<float*>(x + first * input_image(s));
    auto* gradients = const_cast<float*>(gy + first * output_image(s));
    if (own.same_packing(plan)) {
      own.execute(images, out, bias, gradients);
    } else {
      const Workspace other(own.packed_weight_bytes());
      const Workspace plain(weight_count(s) * sizeof(float));
      own.execute(images, other.as<float>(), bias, gradients);
      own.unpack_weights(other.as<float>(), plain.as<float>());
      plan.pack_weights(plain.as<float>(), out);
    }
  });
  tree_sum(partials.as<float>(), tiles.count(), partial, packed + (gb != nullptr ? s.o : 0));
  plan.unpack_weights(partials.as<float>(), gw);
  if (gb != nullptr) {
    std::memcpy(gb, partials.as<float>() + packed, s.o * sizeof(float));
  }
}

}  // namespace lockstep::cpu
