#include "lockstep/engine/cpu/dnn.h"

#include <map>
#include <mutex>
#include <tuple>
#include <unordered_map>

#include <dnnl.hpp>

#include "lockstep/engine/cpu/caching_allocator.h"
#include "lockstep/engine/cpu/thread_pool.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::cpu {
namespace {

using dnnl::memory;
using Tag = memory::format_tag;

// Never destroyed: plans may run while the process ends.
dnnl::engine& cpu_engine() {
  static auto* const engine = new dnnl::engine(dnnl::engine::kind::cpu, 0);
  return *engine;
}

dnnl::stream& this_threads_stream() {
  static thread_local dnnl::stream stream(cpu_engine());
  return stream;
}

struct ConvDescs {
  memory::desc x;
  memory::desc w_plain;
  memory::desc w_any;
  memory::desc bias;
  memory::desc y;
  memory::dims strides;
  memory::dims dilates;
  memory::dims pads;

  ConvDescs(const Conv2dShape& s, Layout layout, bool with_bias) {
    const auto type = memory::data_type::f32;
    const Tag tag = layout == Layout::kNhwc ? Tag::nhwc : Tag::nchw;
    x = {{s.n, s.c, s.h, s.w}, type, tag};
    y = {{s.n, s.o, s.out_h(), s.out_w()}, type, tag};
    const memory::dims weights =
        s.groups == 1 ? memory::dims{s.o, s.c, s.kh, s.kw}
                      : memory::dims{s.groups, s.o / s.groups, s.c / s.groups, s.kh, s.kw};
    w_plain = {weights, type, s.groups == 1 ? Tag::oihw : Tag::goihw};
    w_any = {weights, type, Tag::any};
    if (with_bias) {
      bias = {{s.o}, type, Tag::x};
    }
    strides = {s.stride_h, s.stride_w};
    dilates = {s.dilation_h - 1, s.dilation_w - 1};
    pads = {s.pad_h, s.pad_w};
  }
};

// From version 3 on a primitive descriptor is made from the parameters, before from an operation
// descriptor.
#if DNNL_VERSION_MAJOR >= 3
#define LOCKSTEP_CONV_DESC(Kind, engine, attr, ...) Kind::primitive_desc(engine, __VA_ARGS__, attr)
#define LOCKSTEP_CONV_DESC_HINT(Kind, engine, attr, hint, ...) \
  Kind::primitive_desc(engine, __VA_ARGS__, hint, attr)
#else
#define LOCKSTEP_CONV_DESC(Kind, engine, attr, ...) \
  Kind::primitive_desc(Kind::desc(__VA_ARGS__), attr, engine)
#define LOCKSTEP_CONV_DESC_HINT(Kind, engine, attr, hint, ...) \
  Kind::primitive_desc(Kind::desc(__VA_ARGS__), attr, engine, hint)
#endif

constexpr auto kDirect = dnnl::algorithm::convolution_direct;

dnnl::primitive_attr attributes() {
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return attr;
}

dnnl::convolution_forward::primitive_desc forward_desc(const ConvDescs& d, bool training) {
  const auto kind =
      training ? dnnl::prop_kind::forward_training : dnnl::prop_kind::forward_inference;
  return LOCKSTEP_CONV_DESC(dnnl::convolution_forward, cpu_engine(), attributes(), kind, kDirect,
                            d.x, d.w_any, d.bias, d.y, d.strides, d.dilates, d.pads, d.pads);
}

class DnnlConvPlan final : public ConvPlan {
 public:
  DnnlConvPlan(const Conv2dShape& shape, Layout layout, ConvPass pass, bool bias)
      : pass_(pass), descs_(shape, layout, bias) {
    const ConvDescs& d = descs_;
    switch (pass) {
      case ConvPass::kForward: {
        const auto desc = forward_desc(d, false);
        packed_ = desc.weights_desc();
        scratchpad_ = desc.scratchpad_desc();
        primitive_ = dnnl::convolution_forward(desc);
        break;
      }
      case ConvPass::kBackwardData: {
        const auto desc = LOCKSTEP_CONV_DESC_HINT(
            dnnl::convolution_backward_data, cpu_engine(), attributes(), forward_desc(d, true),
            kDirect, d.x, d.w_any, d.y, d.strides, d.dilates, d.pads, d.pads);
        packed_ = desc.weights_desc();
        scratchpad_ = desc.scratchpad_desc();
        primitive_ = dnnl::convolution_backward_data(desc);
        break;
      }
      case ConvPass::kBackwardWeights: {
        const auto desc = LOCKSTEP_CONV_DESC_HINT(
            dnnl::convolution_backward_weights, cpu_engine(), attributes(), forward_desc(d, true),
            kDirect, d.x, d.w_any, d.bias, d.y, d.strides, d.dilates, d.pads, d.pads);
        packed_ = desc.diff_weights_desc();
        scratchpad_ = desc.scratchpad_desc();
        primitive_ = dnnl::convolution_backward_weights(desc);
        break;
      }
    }
    pack_ = reorder(d.w_plain, packed_);
    unpack_ = reorder(packed_, d.w_plain);
  }

  bool weights_are_plain() const override { return packed_ == descs_.w_plain; }
  size_t packed_weight_bytes() const override { return packed_.get_size(); }
  bool same_packing(const ConvPlan& other) const override {
    return packed_ == static_cast<const DnnlConvPlan&>(other).packed_;
  }

  void pack_weights(const float* plain, float* packed) const override {
    run(pack_, {{DNNL_ARG_FROM, at(descs_.w_plain, plain)}, {DNNL_ARG_TO, at(packed_, packed)}});
  }
  void unpack_weights(const float* packed, float* plain) const override {
    run(unpack_, {{DNNL_ARG_FROM, at(packed_, packed)}, {DNNL_ARG_TO, at(descs_.w_plain, plain)}});
  }

  void execute(float* x, float* w, float* bias, float* y) const override {
    const bool forward = pass_ == ConvPass::kForward;
    const bool to_x = pass_ == ConvPass::kBackwardData;
    const bool to_w = pass_ == ConvPass::kBackwardWeights;
    const Workspace scratchpad(scratchpad_.get_size());
    std::unordered_map<int, memory> arguments{
        {to_x ? DNNL_ARG_DIFF_SRC : DNNL_ARG_SRC, at(descs_.x, x)},
        {to_w ? DNNL_ARG_DIFF_WEIGHTS : DNNL_ARG_WEIGHTS, at(packed_, w)},
        {forward ? DNNL_ARG_DST : DNNL_ARG_DIFF_DST, at(descs_.y, y)},
        {DNNL_ARG_SCRATCHPAD, at(scratchpad_, scratchpad.as<void>())}};
    if (bias != nullptr) {
      arguments.emplace(to_w ? DNNL_ARG_DIFF_BIAS : DNNL_ARG_BIAS, at(descs_.bias, bias));
    }
    run(primitive_, arguments);
  }

 private:
  static dnnl::primitive reorder(const memory::desc& from, const memory::desc& to) {
    return dnnl::reorder(dnnl::reorder::primitive_desc(cpu_engine(), from, cpu_engine(), to));
  }
  static memory at(const memory::desc& desc, const void* address) {
    return {desc, cpu_engine(), const_cast<void*>(address)};
  }
  static void run(const dnnl::primitive& primitive,
                  const std::unordered_map<int, memory>& arguments) {
    try {
      primitive.execute(this_threads_stream(), arguments);
    } catch (const dnnl::error& error) {
      fail<Error>("[conv2d] oneDNN failed: {} (status {})", error.what(),
                  static_cast<int>(error.status));
    }
  }

  ConvPass pass_;
  ConvDescs descs_;
  memory::desc packed_;
  memory::desc scratchpad_;
  dnnl::primitive primitive_;
  dnnl::primitive pack_;
  dnnl::primitive unpack_;
};

}  // namespace

std::shared_ptr<const ConvPlan> ConvPlan::get(const Conv2dShape& shape, Layout layout,
                                              ConvPass pass, bool bias) {
  using Key = std::tuple<Conv2dShape, Layout, ConvPass, bool>;
  struct Cache {
    std::mutex mutex;
    std::map<Key, std::shared_ptr<const ConvPlan>> plans;
  };
  static auto* const cache = new Cache;  // never destroyed, like the engine
  constexpr size_t kMostPlans = 1024;    // shapes without end (one size per image) start over

  const Key key{shape, layout, pass, bias};
  {
    const std::lock_guard lock(cache->mutex);
    const auto found = cache->plans.find(key);
    if (found != cache->plans.end()) {
      return found->second;
    }
  }
  prepare_this_thread();  // oneDNN plans for the number of OpenMP threads it finds
  std::shared_ptr<const ConvPlan> plan;
  try {
    plan = std::make_shared<DnnlConvPlan>(shape, layout, pass, bias);
  } catch (const dnnl::error& error) {
    fail<Error>(
        "[conv2d] oneDNN has no implementation for input ({}, {}, {}, {}), {} output channels, "
        "kernel {}x{}, groups {}: {}",
        shape.n, shape.c, shape.h, shape.w, shape.o, shape.kh, shape.kw, shape.groups,
        error.what());
  }
  const std::lock_guard lock(cache->mutex);
  if (cache->plans.size() >= kMostPlans) {
    cache->plans.clear();
  }
  return cache->plans.emplace(key, std::move(plan)).first->second;
}

}  // namespace lockstep::cpu
