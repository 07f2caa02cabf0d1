#include "lockstep/data/dataset.h"

#include <filesystem>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/data/fashion_mnist.h"
#include "lockstep/engine/tensor/error.h"
#include "lockstep/engine/tensor/factory.h"

#include "data/idx_files.h"
#include "data/temp_dir.h"

namespace lockstep::data {
namespace {

using test::Bytes;
using test::idx_bytes;
using test::TempDir;

using Indices = std::vector<int64_t>;

InMemoryDataset small(const InMemoryDataset::Transform& transform = {}) {
  return InMemoryDataset({0, 255, 51, 102, 1, 2}, {7, 8, 9},
                         {.shape = {1, 2}, .mean = 0.5f, .stddev = 0.25f, .transform = transform});
}

float scaled(int value) { return (static_cast<float>(value) / 255.0f - 0.5f) / 0.25f; }

TEST(InMemoryDataset, GathersAndNormalises) {
  const auto dataset = small();
  EXPECT_EQ(dataset.size(), 3);
  const auto batch = dataset.get(Indices{2, 0, 2});
  EXPECT_EQ(batch.size(), 3);
  EXPECT_EQ(batch.x.sizes(), (Dims{3, 1, 2}));
  EXPECT_EQ(batch.x.dtype(), DType::kFloat32);
  EXPECT_EQ(batch.y.sizes(), (Dims{3}));
  EXPECT_EQ(batch.y.dtype(), DType::kInt64);
  const std::vector<float> x(batch.x.data<float>(), batch.x.data<float>() + 6);
  EXPECT_EQ(
      x, (std::vector<float>{scaled(1), scaled(2), scaled(0), scaled(255), scaled(1), scaled(2)}));
  EXPECT_EQ(x[3], 2.0f);  // (1 - 0.5) / 0.25
  const std::vector<int64_t> y(batch.y.data<int64_t>(), batch.y.data<int64_t>() + 3);
  EXPECT_EQ(y, (std::vector<int64_t>{9, 7, 9}));
}

TEST(InMemoryDataset, TransformsBatches) {
  const auto dataset = small([](Batch batch) {
    batch.y.data<int64_t>()[0] += 100;
    return batch;
  });
  EXPECT_EQ(dataset.get(Indices{1}).y.data<int64_t>()[0], 108);
}

TEST(InMemoryDataset, AnEmptyBatch) {
  const auto batch = small().get(Indices{});
  EXPECT_EQ(batch.size(), 0);
  EXPECT_EQ(batch.x.sizes(), (Dims{0, 1, 2}));
}

TEST(InMemoryDataset, WrongArguments) {
  EXPECT_THROW(small().get(Indices{3}), ValueError);
  EXPECT_THROW(small().get(Indices{0, -1}), ValueError);
  EXPECT_THROW(small().values(3), ValueError);
  EXPECT_THROW(small().label(-1), ValueError);
  const auto make = [](size_t values, size_t labels, const std::vector<int64_t>& shape,
                       float stddev) {
    return InMemoryDataset(Bytes(values), std::vector<int64_t>(labels),
                           {.shape = shape, .mean = 0.0f, .stddev = stddev, .transform = {}});
  };
  EXPECT_EQ(make(6, 3, {2}, 1.0f).size(), 3);
  EXPECT_THROW(make(7, 3, {2}, 1.0f), ValueError);
  EXPECT_THROW(make(6, 2, {2}, 1.0f), ValueError);
  EXPECT_THROW(make(6, 3, {0}, 1.0f), ValueError);
  EXPECT_THROW(make(6, 3, {2}, 0.0f), ValueError);
}

TEST(TensorDataset, GathersRowsOfAnyDtype) {
  const std::vector<double> x = {1, 2, 3, 4, 5, 6};
  const std::vector<uint8_t> y = {10, 20, 30};
  const TensorDataset dataset(from_span<double>(x, {3, 2}), from_span<uint8_t>(y, {3}));
  EXPECT_EQ(dataset.size(), 3);
  const auto batch = dataset.get(Indices{2, 1});
  EXPECT_EQ(batch.size(), 2);
  EXPECT_EQ(batch.x.sizes(), (Dims{2, 2}));
  EXPECT_EQ(batch.x.dtype(), DType::kFloat64);
  EXPECT_EQ(batch.x.to_vector(), (std::vector<double>{5, 6, 3, 4}));
  EXPECT_EQ(batch.y.dtype(), DType::kUInt8);
  EXPECT_EQ(batch.y.to_vector(), (std::vector<double>{30, 20}));
  EXPECT_THROW(dataset.get(Indices{3}), ValueError);
}

TEST(TensorDataset, BatchesAreCopiesOutsideTheGraph) {
  const Tensor x = tensor({1.0, 2.0}, {.requires_grad = true});
  const TensorDataset dataset(x, tensor({0, 1}));
  const auto batch = dataset.get(Indices{0});
  EXPECT_FALSE(batch.x.requires_grad());
  batch.x.data<float>()[0] = 9.0f;
  EXPECT_EQ(dataset.get(Indices{0}).x.to_vector(), std::vector<double>{1.0});
}

TEST(TensorDataset, WrongArguments) {
  EXPECT_THROW(TensorDataset(zeros({3, 2}), zeros({2})), ValueError);
  EXPECT_THROW(TensorDataset(zeros({}), zeros({})), ValueError);
  EXPECT_THROW(TensorDataset(Tensor(), zeros({2})), ValueError);
}

// A directory with a tiny, well-formed Fashion-MNIST.
void write_tiny(const std::filesystem::path& dir, uint32_t count) {
  Bytes images(count * 784), labels(count);
  for (size_t i = 0; i < images.size(); ++i) images[i] = static_cast<uint8_t>(i % 251);
  for (size_t i = 0; i < labels.size(); ++i) labels[i] = static_cast<uint8_t>(i % 10);
  test::write_gzip(dir / "train-images-idx3-ubyte.gz", idx_bytes(0x08, {count, 28, 28}, images));
  test::write_plain(dir / "train-labels-idx1-ubyte", idx_bytes(0x08, {count}, labels));
}

std::string failure_of(const std::filesystem::path& dir, Split split = Split::kTrain) {
  try {
    fashion_mnist(dir, split);
  } catch (const DataError& error) {
    return error.what();
  }
  return "nothing was thrown";
}

TEST(FashionMnist, ReadsPlainAndPackedFilesFromTheDirectoryOrItsSubfolder) {
  const TempDir dir;
  write_tiny(dir.path(), 12);
  std::filesystem::create_directories(dir / "above/fashion-mnist");
  write_tiny(dir / "above/fashion-mnist", 12);
  for (const auto& path : {dir.path(), dir / "above"}) {
    const auto dataset = fashion_mnist(path, Split::kTrain);
    EXPECT_EQ(dataset.size(), 12);
    EXPECT_EQ(dataset.label(11), 1);
    const auto batch = dataset.get(Indices{1});
    EXPECT_EQ(batch.x.sizes(), (Dims{1, 1, 28, 28}));
    EXPECT_EQ(batch.x.data<float>()[0],
              (static_cast<float>(784 % 251) / 255.0f - 0.2860f) / 0.3530f);
  }
}

TEST(FashionMnist, SaysWhatIsMissing) {
  const TempDir dir;
  auto text = failure_of(dir.path());
  for (const std::string& mention : {std::string("train-images-idx3-ubyte.gz"), dir.path().string(),
                                     std::string("dataset-fashion-mnist"), std::string("--data"),
                                     std::string("LOCKSTEP_DATA")}) {
    EXPECT_NE(text.find(mention), std::string::npos) << mention << " is not in: " << text;
  }
  write_tiny(dir.path(), 3);
  EXPECT_NE(failure_of(dir.path(), Split::kTest).find("t10k-images"), std::string::npos);
  std::filesystem::remove(dir / "train-labels-idx1-ubyte");
  EXPECT_NE(failure_of(dir.path()).find("train-labels-idx1-ubyte"), std::string::npos);
}

TEST(FashionMnist, FilesMustFitTogether) {
  const TempDir dir;
  write_tiny(dir.path(), 3);
  const auto labels = dir / "train-labels-idx1-ubyte";
  test::write_plain(labels, idx_bytes(0x08, {4}, {0, 1, 2, 3}));
  auto text = failure_of(dir.path());
  EXPECT_NE(text.find("expected 3 uint8 labels"), std::string::npos) << text;
  EXPECT_NE(text.find("found uint8 of 4"), std::string::npos) << text;
  test::write_plain(labels, idx_bytes(0x08, {3}, {0, 10, 2}));
  text = failure_of(dir.path());
  EXPECT_NE(text.find("found 10 at position 1"), std::string::npos) << text;
  test::write_plain(labels, idx_bytes(0x09, {3}, {0, 1, 2}));
  EXPECT_NE(failure_of(dir.path()).find("found int8 of 3"), std::string::npos);
  write_tiny(dir.path(), 3);
  test::write_plain(dir / "train-images-idx3-ubyte",
                    idx_bytes(0x08, {3, 28, 27}, Bytes(3 * 28 * 27)));
  EXPECT_NE(failure_of(dir.path()).find("found uint8 of 3 x 28 x 27"), std::string::npos);
  test::write_plain(dir / "train-images-idx3-ubyte", idx_bytes(0x08, {3, 28, 28}, Bytes(100)));
  EXPECT_NE(failure_of(dir.path()).find("truncated"), std::string::npos);
}

// The real data, where the package is installed: known sizes, class counts and mean.
TEST(FashionMnist, TheDistributionsFiles) {
  ASSERT_TRUE(std::filesystem::exists(distribution_data_dir() / "fashion-mnist"))
      << "the package dataset-fashion-mnist is not installed";
  const auto train = fashion_mnist({}, Split::kTrain);
  const auto test = fashion_mnist({}, Split::kTest);
  ASSERT_EQ(train.size(), 60000);
  ASSERT_EQ(test.size(), 10000);
  EXPECT_EQ(train.label(0), 9);  // an ankle boot
  std::vector<int> classes(10, 0);
  double sum = 0.0;
  for (int64_t i = 0; i < train.size(); ++i) {
    ++classes[static_cast<size_t>(train.label(i))];
    for (const uint8_t value : train.values(i)) sum += value;
  }
  EXPECT_EQ(classes, std::vector<int>(10, 6000));
  EXPECT_NEAR(sum / (60000.0 * 784.0) / 255.0, 0.2860, 5e-5);
}

}  // namespace
}  // namespace lockstep::data
