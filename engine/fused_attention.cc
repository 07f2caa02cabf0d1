#include "lockstep/engine/fused_attention.h"

namespace lockstep {

FusedAttention::~FusedAttention() = default;

FusedAttention* fused_attention_of(Device device) {
  return device.is_cpu() ? nullptr : dynamic_cast<FusedAttention*>(&backend_of(device));
}

}  // namespace lockstep
