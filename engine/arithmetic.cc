#include "lockstep/engine/arithmetic.h"

#include <dnnl.h>
#include <unistd.h>
#if defined(__GLIBC__)
#include <gnu/libc-version.h>
#endif

#include "lockstep/engine/cpu/isa.h"
#include "lockstep/engine/matmul_precision.h"
#include "lockstep/engine/plugin.h"
#include "lockstep/engine/tensor/check.h"

#ifndef LOCKSTEP_VERSION
#define LOCKSTEP_VERSION "unknown"
#endif

namespace lockstep {
namespace {

// The C library's exp and log are chosen by what the CPU has, whatever LOCKSTEP_ISA says.
std::string cpu_features() {
  std::string text;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const auto add = [&](const char* name, bool has) {
    if (has) text += fmt::format(" {}", name);
  };
  add("sse4.1", __builtin_cpu_supports("sse4.1"));
  add("avx", __builtin_cpu_supports("avx"));
  add("avx2", __builtin_cpu_supports("avx2"));
  add("fma", __builtin_cpu_supports("fma"));
  add("fma4", __builtin_cpu_supports("fma4"));
  add("avx512f", __builtin_cpu_supports("avx512f"));
#endif
  return text.empty() ? " none" : text;
}

std::string cache_sizes() {
  std::string text;
#if defined(_SC_LEVEL1_DCACHE_SIZE)
  text = fmt::format("{}/{}/{}", sysconf(_SC_LEVEL1_DCACHE_SIZE) >> 10,
                     sysconf(_SC_LEVEL2_CACHE_SIZE) >> 10, sysconf(_SC_LEVEL3_CACHE_SIZE) >> 10);
#endif
  return text;
}

std::string libc_version() {
#if defined(__GLIBC__)
  return std::string("glibc ") + gnu_get_libc_version();
#else
  return "another C library";
#endif
}

}  // namespace

std::string describe_arithmetic(Device device) {
  const dnnl_version_t* dnn = dnnl_version();
  std::string text = fmt::format(
      "Lockstep {} ({}), kernels for {}, oneDNN {}.{}.{} with instruction set {:#x}, {}, CPU "
      "with{}, caches of {} KiB",
      LOCKSTEP_VERSION, __VERSION__, cpu::name_of(cpu::cpu_isa()), dnn->major, dnn->minor,
      dnn->patch, static_cast<unsigned>(dnnl_get_effective_cpu_isa()), libc_version(),
      cpu_features(), cache_sizes());
  if (device.is_cpu()) return text;
  text += fmt::format(", float32 products of {} precision", get_float32_matmul_precision());
  for (const auto& [name, value] : cuda_facts()) {
    if (!name.starts_with("cuda:")) text += fmt::format(", {} {}", name, value);
    if (name == device.str()) text += ", on " + value;
  }
  return text;
}

}  // namespace lockstep
