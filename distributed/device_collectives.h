#pragma once

#include "lockstep/distributed/collective.h"
#include "lockstep/distributed/device_link.h"

namespace lockstep::distributed {

// Issues a collective to the link's communicator, whose members are ranks 0 to size - 1.
//
// A canonical sum only moves bytes by the library; each rank adds up its slice of the elements
// along the tree, by the kernels that add everything else on the device. Minimum and maximum of
// float32 and float64 are made in the same way, since the library's drop NaN.
void run_on_device(DeviceLink& link, const Collective& collective, int rank, int size);

}  // namespace lockstep::distributed
