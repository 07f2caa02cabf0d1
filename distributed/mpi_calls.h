#pragma once

#include <mpi.h>

// Internal: MPI's error codes as exceptions.
namespace lockstep::distributed {

// Throws DistributedError with MPI's text unless code is MPI_SUCCESS. Communicators must have
// MPI_ERRORS_RETURN set.
void check_mpi(int code, const char* call);

#define LOCKSTEP_MPI(call) ::lockstep::distributed::check_mpi((call), #call)

}  // namespace lockstep::distributed
