#include "lockstep/engine/cuda/cudnn_library.h"

#include <array>
#include <optional>
#include <string>
#include <type_traits>

#include <dlfcn.h>
#include <fmt/format.h>

#include "lockstep/engine/tensor/check.h"

namespace lockstep::cuda {
namespace {

std::optional<CudnnLibrary> load() {
  const std::string file = fmt::format("libcudnn.so.{}", CUDNN_MAJOR);
  void* const library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) return std::nullopt;
  CudnnLibrary all{};
  bool complete = true;
  const auto take = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
    complete = complete && function;
  };
  take(all.version, "cudnnGetVersion");
  take(all.error_string, "cudnnGetErrorString");
  take(all.last_error_string, "cudnnGetLastErrorString");
  take(all.create, "cudnnCreate");
  take(all.destroy, "cudnnDestroy");
  take(all.set_stream, "cudnnSetStream");
  take(all.create_descriptor, "cudnnBackendCreateDescriptor");
  take(all.destroy_descriptor, "cudnnBackendDestroyDescriptor");
  take(all.set_attribute, "cudnnBackendSetAttribute");
  take(all.get_attribute, "cudnnBackendGetAttribute");
  take(all.finalize, "cudnnBackendFinalize");
  take(all.execute, "cudnnBackendExecute");
  if (!complete) return std::nullopt;
  return all;
}

}  // namespace

const CudnnLibrary* find_cudnn() {
  static const std::optional<CudnnLibrary> library = load();
  return library ? &*library : nullptr;
}

const CudnnLibrary& cudnn() {
  const CudnnLibrary* const library = find_cudnn();
  check<Error>(library,
               "[cudnn] there is no libcudnn.so.{} here; install it, or put its folder on "
               "LD_LIBRARY_PATH",
               CUDNN_MAJOR);
  return *library;
}

void check_cudnn(cudnnStatus_t status, const char* call) {
  if (status == CUDNN_STATUS_SUCCESS) [[likely]] {
    return;
  }
  std::array<char, 1024> message{};
  cudnn().last_error_string(message.data(), message.size());
  fail<Error>("[cudnn] {}: {} ({})", call, cudnn().error_string(status), message.data());
}

}  // namespace lockstep::cuda
