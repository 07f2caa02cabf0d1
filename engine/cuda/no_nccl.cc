#include "lockstep/engine/cuda/nccl_comm.h"
#include "lockstep/engine/tensor/check.h"

// A plugin that was built without NCCL.
namespace lockstep::cuda {
namespace {

constexpr const char* kWhy =
    "this build has no NCCL; install it with its header and configure with -DLOCKSTEP_CUDA_NCCL=ON";

class NoComms final : public DeviceComms {
 public:
  std::string problem() override { return kWhy; }
  std::string version() override { fail<Error>("[nccl] {}", kWhy); }
  std::string identity(int) override { fail<Error>("[nccl] {}", kWhy); }
  DeviceCommId make_id() override { fail<Error>("[nccl] {}", kWhy); }
  std::unique_ptr<DeviceComm> join(const DeviceCommConfig&) override {
    fail<Error>("[nccl] {}", kWhy);
  }
};

}  // namespace

DeviceComms& nccl_comms() {
  static auto* const comms = new NoComms;
  return *comms;
}

}  // namespace lockstep::cuda
