#pragma once

#include "lockstep/engine/tensor/tensor.h"

// Indices and targets are checked on the host before a kernel follows them (engine/index_checks.h).
// Nearly all of them came from there a moment ago, with the batch; so the latest are kept, and
// nobody waits for the device.
namespace lockstep {

// `there`, on a device, has just been copied from `here`. Keeps small integer tensors: both of
// them, until some dozens more have come.
void remember_host_values(const Tensor& there, const Tensor& here);

// The values of a tensor, contiguous on the host; not to be written to. Undefined where only a
// device knows them: those of its tensors that did not come from the host, or have been written to
// since. What writes past the engine, by a pointer to the device's memory, is not noticed.
Tensor known_host_values(const Tensor& tensor);

}  // namespace lockstep
