#include "lockstep/data/fashion_mnist.h"

#include <algorithm>
#include <string>
#include <utility>

#include "lockstep/data/idx.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::data {
namespace {

constexpr int64_t kClasses = 10;

using std::filesystem::path;

path find_file(const path& dir, const std::string& name) {
  for (const auto& folder : {dir, dir / "fashion-mnist"}) {
    for (const char* suffix : {"", ".gz"}) {
      const path file = folder / (name + suffix);
      std::error_code error;
      if (std::filesystem::exists(file, error)) return file;
    }
  }
  fail<DataError>(
      "[fashion_mnist] neither {0} nor {0}.gz is in {1} or {1}/fashion-mnist; install the package "
      "dataset-fashion-mnist (apt-get install dataset-fashion-mnist) or name the directory that "
      "holds the four files with --data DIR or LOCKSTEP_DATA=DIR",
      name, dir.string());
}

}  // namespace

path distribution_data_dir() { return "/usr/share/datasets"; }

InMemoryDataset fashion_mnist(const path& dir, Split split) {
  const auto root = dir.empty() ? distribution_data_dir() : dir;
  const std::string prefix = split == Split::kTrain ? "train" : "t10k";
  const auto images_path = find_file(root, prefix + "-images-idx3-ubyte");
  const auto labels_path = find_file(root, prefix + "-labels-idx1-ubyte");

  auto images = read_idx(images_path);
  check<DataError>(images.type == IdxType::kUInt8 && images.dims.size() == 3 &&
                       images.dims[1] == 28 && images.dims[2] == 28,
                   "[fashion_mnist] {}: expected uint8 of N x 28 x 28, found {} of {}",
                   images_path.string(), name_of(images.type), fmt::join(images.dims, " x "));
  const auto labels = read_idx(labels_path);
  check<DataError>(
      labels.type == IdxType::kUInt8 && labels.dims.size() == 1 && labels.dims[0] == images.dims[0],
      "[fashion_mnist] {}: expected {} uint8 labels, one for each image, found {} of {}",
      labels_path.string(), images.dims[0], name_of(labels.type), fmt::join(labels.dims, " x "));
  const auto wrong = std::find_if(labels.bytes.begin(), labels.bytes.end(),
                                  [](uint8_t label) { return label >= kClasses; });
  check<DataError>(wrong == labels.bytes.end(),
                   "[fashion_mnist] {}: expected labels from 0 to {}, found {} at position {}",
                   labels_path.string(), kClasses - 1, wrong == labels.bytes.end() ? 0 : *wrong,
                   wrong - labels.bytes.begin());
  return InMemoryDataset(
      std::move(images.bytes), {labels.bytes.begin(), labels.bytes.end()},
      {.shape = {1, 28, 28}, .mean = 0.2860f, .stddev = 0.3530f, .transform = {}});
}

}  // namespace lockstep::data
