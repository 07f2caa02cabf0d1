#pragma once

#include <functional>
#include <string>

namespace lockstep::launch {

// What the launcher of this process says about its place in the world.
struct Environment {
  std::string launcher;  // "Open MPI", "PMI", "PMIx", "Slurm"; empty: started by itself
  int rank = 0;
  int size = 1;         // 0: the launcher names a rank but no world size (bare PMIx)
  int local_rank = -1;  // among the ranks of this machine; -1: the launcher does not say
  int local_size = -1;

  bool launched() const { return !launcher.empty(); }
};

// Like getenv: the value of a variable, or null.
using Getenv = std::function<const char*(const char*)>;

// Looks for Open MPI (OMPI_COMM_WORLD_*), MPICH, Intel MPI and other Hydra launchers (PMI_*), PMIx,
// and an srun step, in this order. Slurm counts only inside a step that srun started: a batch
// script and an salloc shell carry SLURM_PROCID too, but run once. An mpirun that starts its
// daemons through srun passes their SLURM_* on to the ranks, so Slurm never contradicts the others.
// Throws Error if the values are incomplete, malformed, out of range or contradict each other.
Environment read_environment(const Getenv& get);

// The same from this process's environment.
Environment read_environment();

}  // namespace lockstep::launch
