#pragma once

#include <string>

#include "lockstep/distributed/process_group.h"
#include "lockstep/engine/algorithm_choice.h"
#include "lockstep/engine/tensor/device.h"
#include "lockstep/launch/options.h"

// Tables of algorithms for products on GPUs: --tune-matmul makes one, --matmul-table uses it.
namespace lockstep::launch {

struct MatmulTable {
  std::string gpu, library;  // that it was made on and with, as `lockstep doctor` names them
  AlgorithmTable algorithms;
};

// One JSON object: format, gpu, library, algorithms.
std::string to_json(const MatmulTable& table);

// Throws Error, naming `file`, if the text is no such object.
MatmulTable parse_matmul_table(const std::string& text, const std::string& file);

// Throws Error unless the table was made for that GPU and library.
void check_matmul_table(const MatmulTable& table, const std::string& gpu,
                        const std::string& library, const std::string& file);

// A file's contents, read by rank 0 alone. Collective; throws DistributedError on every rank if
// rank 0 cannot read it.
std::string read_for_all(distributed::ProcessGroup& group, const std::string& file);

// How products on `device` are to be computed, as the flags say: by timing with --reduction fast or
// --tune-matmul, by the table of --matmul-table, else by heuristics. Collective.
void choose_algorithms(const Options& options, distributed::ProcessGroup& group, Device device);

// At a job's end: rank 0 writes what it has timed to the file of --tune-matmul, if there is one.
void write_tuned_algorithms(const Options& options, int rank, Device device);

}  // namespace lockstep::launch
