#pragma once

#include <filesystem>

#include "lockstep/data/dataset.h"

namespace lockstep::data {

enum class Split { kTrain, kTest };

// The folder below which distributions put data sets: Debian's package dataset-fashion-mnist uses
// fashion-mnist/ in it.
std::filesystem::path distribution_data_dir();

// The Fashion-MNIST images: 60,000 for training, 10,000 for testing. Reads
// train-images-idx3-ubyte[.gz], train-labels-idx1-ubyte[.gz] or their t10k- counterparts from `dir`
// or its subfolder fashion-mnist (an empty `dir` is the distribution's). Batches: x float32 (B, 1,
// 28, 28), normalised with mean 0.2860 and standard deviation 0.3530; y int64 (B), classes 0 to 9.
// Throws DataError if a file is missing, malformed, or does not fit the other one.
InMemoryDataset fashion_mnist(const std::filesystem::path& dir, Split split);

}  // namespace lockstep::data
