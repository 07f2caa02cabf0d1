#include "lockstep/engine/cpu/bf16_matmul.h"

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <string_view>
#include <tuple>

#include <dnnl.hpp>

#include "lockstep/engine/cpu/caching_allocator.h"
#include "lockstep/engine/cpu/isa.h"
#include "lockstep/engine/cpu/thread_pool.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::cpu {
namespace {

using dnnl::memory;

// Never destroyed: threads may compute while the process ends.
dnnl::engine& engine() {
  static auto* const engine = new dnnl::engine(dnnl::engine::kind::cpu, 0);
  return *engine;
}

// A product prepared for one shape and one pair of strides.
struct Plan {
  memory::desc a, b, c, scratchpad;
  std::string_view implementation;
  dnnl::matmul primitive;

  explicit Plan(const Bf16Product& p, int64_t ldc) {
    const auto strides = [](bool transposed, int64_t ld) {
      return transposed ? memory::dims{1, ld} : memory::dims{ld, 1};
    };
    a = {{p.m, p.k}, memory::data_type::bf16, strides(p.transpose_a, p.lda)};
    b = {{p.k, p.n}, memory::data_type::bf16, strides(p.transpose_b, p.ldb)};
    c = {{p.m, p.n}, memory::data_type::f32, strides(false, ldc)};
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
#if DNNL_VERSION_MAJOR >= 3
    const dnnl::matmul::primitive_desc desc(engine(), a, b, c, attributes);
#else
    const dnnl::matmul::primitive_desc desc(dnnl::matmul::desc(a, b, c), attributes, engine());
#endif
    scratchpad = desc.scratchpad_desc();
    implementation = desc.impl_info_str();
    primitive = dnnl::matmul(desc);
  }

  void run(const Bf16Product& p) const {
    static thread_local dnnl::stream stream(engine());
    const Workspace scratch(scratchpad.get_size());
    const auto at = [](const memory::desc& desc, const void* address) {
      return memory(desc, engine(), const_cast<void*>(address));
    };
    primitive.execute(stream, {{DNNL_ARG_SRC, at(a, p.a)},
                               {DNNL_ARG_WEIGHTS, at(b, p.b)},
                               {DNNL_ARG_DST, at(c, p.c)},
                               {DNNL_ARG_SCRATCHPAD, at(scratchpad, scratch.as<void>())}});
  }
};

std::shared_ptr<const Plan> plan_for(const Bf16Product& p, int64_t ldc) {
  using Key = std::tuple<bool, bool, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t>;
  struct Cache {
    std::mutex mutex;
    std::map<Key, std::shared_ptr<const Plan>> plans;
  };
  static auto* const cache = new Cache;
  constexpr size_t kMostPlans = 1024;  // shapes without end start over
  const Key key{p.transpose_a, p.transpose_b, p.m, p.n, p.k, p.lda, p.ldb, ldc};
  const std::lock_guard lock(cache->mutex);
  if (const auto found = cache->plans.find(key); found != cache->plans.end()) return found->second;
  if (cache->plans.size() >= kMostPlans) cache->plans.clear();
  return cache->plans.emplace(key, std::make_shared<Plan>(p, ldc)).first->second;
}

bool probe() {
  if (cpu_isa() != Isa::kAvx512) return false;
  try {
    const Bf16Product typical{.m = 64, .n = 64, .k = 64, .lda = 64, .ldb = 64};
    const std::string_view name = Plan(typical, 64).implementation;
    return name.find("bf16") != name.npos || name.find("amx") != name.npos;
  } catch (const dnnl::error&) {
    return false;
  }
}

}  // namespace

bool has_bf16_matmul() {
  static const bool has = probe();
  return has;
}

// Cut by the problem alone. oneDNN packs B for every tile, so tiles are large.
void bf16_matmul(const Bf16Product& p) {
  if (p.m == 0 || p.n == 0) return;
  if (p.k == 0) {
    std::fill_n(p.c, p.m * p.n, 0.0F);
    return;
  }
  constexpr int64_t kRows = 512, kCols = 1024;
  const int64_t rows = std::min(p.m, kRows), cols = std::min(p.n, kCols);
  const int64_t tiles_n = (p.n + cols - 1) / cols;
  prepare_this_thread();  // oneDNN plans for the number of OpenMP threads it finds
  parallel_for((p.m + rows - 1) / rows * tiles_n, [&](int64_t tile) {
    const int64_t i = tile / tiles_n * rows, j = tile % tiles_n * cols;
    Bf16Product part = p;
    part.m = std::min(rows, p.m - i);
    part.n = std::min(cols, p.n - j);
    part.a += i * (p.transpose_a ? 1 : p.lda);
    part.b += j * (p.transpose_b ? p.ldb : 1);
    part.c += i * p.n + j;
    try {
      plan_for(part, p.n)->run(part);
    } catch (const dnnl::error& error) {
      fail<Error>("[gemm] oneDNN failed on bfloat16 m={} n={} k={}: {} (status {})", part.m, part.n,
                  part.k, error.what(), static_cast<int>(error.status));
    }
  });
}

}  // namespace lockstep::cpu
