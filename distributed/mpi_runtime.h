#pragma once

#include <cstdint>
#include <string>

// MPI as a resource of the process: started once, under a launcher only (it costs 0.3 s), and ended
// only when all went well. No header of MPI is needed to use this one.
//
// How a job ends (launch does this):
//  - All went well: destroy the groups, then finalize(), then return from main.
//  - This rank failed: group.abort(reason), report, then
//      group.wait_for_peers_to_fail(3 s)       // process_group.h
//    and leave with a non-zero code through std::_Exit after flushing the streams. The wait lets
//    the peers report their own errors before the launcher, which notices the first rank to go,
//    signals the others (Open MPI: SIGTERM one second later). finalize() does nothing after a
//    failure: MPI_Finalize would wait for ranks that are gone.
namespace lockstep::distributed::mpi_runtime {

// What the launcher's environment says; -1 where it says nothing.
struct Expected {
  int rank = -1;
  int size = -1;
};

// Starts MPI with full thread support, or checks what is running already. Throws DistributedError
// if MPI and the launcher disagree (as when another MPI's launcher started N processes that each
// see a world of one), or if MPI cannot be used from several threads. Must be called from one
// thread; further calls only check.
//
// When it starts MPI it sets, unless the user has, OMPI_MCA_mpi_yield_when_idle=1 (ranks may
// outnumber cores), and removes the names of Open MPI's shared segments once all ranks of the node
// have attached to them, so that nothing stays in /dev/shm however the job ends.
void initialize(Expected expected = {});

bool initialized();  // started and not yet ended, by whomever
int world_rank();    // both need initialized()
int world_size();

// Ends MPI if initialize() started it and no failure was marked. Collective: it waits until every
// rank ends well. Idempotent.
void finalize();

// Which MPI this is, in its own words, one line. Needs no initialize().
std::string library_version();

// From now on finalize() does nothing. Groups call it when they are aborted.
void mark_failed() noexcept;

}  // namespace lockstep::distributed::mpi_runtime
