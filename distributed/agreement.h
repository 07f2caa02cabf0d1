#pragma once

#include <map>
#include <string>
#include <vector>

#include "lockstep/distributed/process_group.h"
#include "lockstep/engine/tensor/tensor.h"

// Collective checks whose outcome is the same on every rank.
namespace lockstep::distributed {

// Every rank's text, by rank; longer ones are cut to about 1,000 bytes.
std::vector<std::string> exchange_texts(ProcessGroup& group, const std::string& text);

// Which ranks said what.
std::map<std::string, std::vector<int>> ranks_by_text(const std::vector<std::string>& texts);

// Throws DistributedError on every rank if any rank's `problem` is not empty; the text names the
// ranks and quotes what they said.
void throw_together(ProcessGroup& group, const std::string& what, const std::string& problem);

// Throws DistributedError on every rank unless names, shapes and dtypes are the same everywhere.
void verify_same_model(ProcessGroup& group, const NamedTensors& parameters,
                       const NamedTensors& buffers);

// Throws DistributedError on every rank unless all ranks' texts are the same; the message says
// which ranks have which.
void verify_same_text(ProcessGroup& group, const std::string& what, const std::string& text);

// A number that must be the same on all of `world` ranks, compared without a message of its own:
// each rank adds its mark to something that is summed over the ranks anyway, and every rank reads
// from the two sums alike whether all numbers were equal. The marks are integers so small that
// float32 sums them exactly, so numbers that differ by a multiple of some 4000 / sqrt(world) pass
// for equal.
struct NumberMark {
  double value = 0.0, square = 0.0;
};
NumberMark mark_of(int64_t number, int world);
bool marks_agree(const NumberMark& sum, int world);

}  // namespace lockstep::distributed
