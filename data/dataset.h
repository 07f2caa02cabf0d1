#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "lockstep/data/step.h"
#include "lockstep/engine/tensor/tensor.h"

namespace lockstep::data {

// A finite, indexed collection of samples.
class Dataset {
 public:
  virtual ~Dataset() = default;
  virtual int64_t size() const = 0;
  // The samples at `indices`, in that order, repetitions allowed. Called from the loader's thread.
  // Throws ValueError on an index outside [0, size()).
  virtual Batch get(std::span<const int64_t> indices) const = 0;

 protected:
  Dataset() = default;
  Dataset(const Dataset&) = default;
  Dataset& operator=(const Dataset&) = default;
};

// Byte-valued samples (images) with integer labels, kept in memory as bytes; batches come out as
// x: float32 (B, shape...), scaled to (value / 255 - mean) / stddev, and y: int64 (B).
class InMemoryDataset : public Dataset {
 public:
  using Transform = std::function<Batch(Batch)>;
  struct Options {
    std::vector<int64_t> shape;  // of one sample in a batch, e.g. {1, 28, 28}
    float mean = 0.0f;
    float stddev = 1.0f;
    Transform transform;  // applied to every assembled batch, in the loader's thread
  };

  // values: uint8 (N, ...) with as many values per sample as `shape` has; labels: N integers.
  InMemoryDataset(std::vector<uint8_t> values, std::vector<int64_t> labels, Options options);

  int64_t size() const override { return static_cast<int64_t>(labels_.size()); }
  Batch get(std::span<const int64_t> indices) const override;

  std::span<const uint8_t> values(int64_t index) const;  // one sample as stored
  int64_t label(int64_t index) const;

 private:
  std::vector<uint8_t> values_;
  std::vector<int64_t> labels_;
  Options options_;
  size_t sample_size_ = 1;
  std::vector<float> scaled_;  // what each of the 256 byte values becomes
};

// Samples that are already tensors: x (N, ...), y (N, ...), each of any dtype, on the CPU. Batches
// are rows gathered from both.
class TensorDataset : public Dataset {
 public:
  TensorDataset(const Tensor& x,
                const Tensor& y);  // throws ValueError if the first dimensions differ

  int64_t size() const override;
  Batch get(std::span<const int64_t> indices) const override;

 private:
  Tensor x_, y_;
};

}  // namespace lockstep::data
