#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "lockstep/engine/tensor/tensor.h"
#include "lockstep/nn/module.h"

// Tensors in files: https://huggingface.co/docs/safetensors. Eight bytes of header length, a JSON
// header with every tensor's dtype, shape and place, the values, all little-endian.
namespace lockstep::data {

struct Safetensors {
  NamedTensors tensors;  // on the CPU, in the header's order
  std::map<std::string, std::string> metadata;
};

// Throws DataError that names the file, the tensor and its values where the file is not what it
// should be: a length beyond the file or 100 MB, a header that is not the JSON described, a dtype
// that no tensor here can have, a name that appears twice, offsets that overlap, leave gaps, lie
// outside the file, or do not fit shape and dtype, bytes left over. All of that is found before
// memory for the values is asked for, and that never exceeds the file's size.
Safetensors read_safetensors(const std::filesystem::path& path);

// The file appears complete or not at all, and replaces one that is there. Keeps the order of
// `tensors` in the header; wider dtypes come first in the data, so that all values are aligned.
// Tensors that share memory are written once for each name. Throws ValueError on names that repeat
// or that the format reserves (`__metadata__`), DataError when the file cannot be written.
void write_safetensors(const std::filesystem::path& path, const NamedTensors& tensors,
                       const std::map<std::string, std::string>& metadata = {});

// module.state_dict() to a file and back. Loading converts dtypes and throws as
// Module::load_state_dict does, with the file's name in front.
void save_state_dict(const std::filesystem::path& path, const nn::Module& module,
                     const std::map<std::string, std::string>& metadata = {});
void load_state_dict(const std::filesystem::path& path, const nn::Module& module,
                     bool strict = true);

}  // namespace lockstep::data
