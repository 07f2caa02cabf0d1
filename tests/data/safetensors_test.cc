#include "lockstep/data/safetensors.h"

#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/data/safetensors_header.h"
#include "lockstep/engine/ops/ops.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/nn/nn.h"

#include "data/temp_dir.h"

namespace lockstep::data {
namespace {

using test::TempDir;

std::string bytes_of_file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void write_file(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

std::string with_length(uint64_t length, const std::string& rest) {
  std::string out(8, '\0');
  std::memcpy(out.data(), &length, 8);
  return out + rest;
}

std::string file_bytes(const std::string& header, size_t data_bytes) {
  return with_length(header.size(), header + std::string(data_bytes, '\0'));
}

// "name": {...} of a header.
std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape +
         ",\"data_offsets\":" + offsets + "}";
}

void expect_refused(const std::string& bytes, const std::vector<std::string>& mentions) {
  const TempDir dir;
  const auto path = dir / "bad.safetensors";
  write_file(path, bytes);
  try {
    read_safetensors(path);
    FAIL() << "read without complaint: " << bytes.substr(0, 200);
  } catch (const DataError& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find(path.string()), std::string::npos) << text;
    for (const auto& mention : mentions) {
      EXPECT_NE(text.find(mention), std::string::npos) << "missing \"" << mention << "\": " << text;
    }
  }
}

Tensor bfloat16_bits(const std::vector<uint16_t>& bits) {
  const Tensor t = empty({static_cast<int64_t>(bits.size())}, {DType::kBFloat16});
  std::memcpy(t.data_ptr(), bits.data(), 2 * bits.size());
  return t;
}

// As GOLDEN in safetensors_golden.py.
NamedTensors golden() {
  constexpr double kInf = std::numeric_limits<double>::infinity();
  return {{"counts", tensor({-(int64_t{1} << 62), int64_t{-1}, int64_t{0}, int64_t{1} << 62})},
          {"weights.f64",
           tensor({0.1, -2.5, kInf, 1e-300, -0.0, 3.0}, {.dtype = DType::kFloat64}).view({2, 3})},
          {"empty", zeros({0, 3})},
          {"scalar", tensor(-7.25)},
          {"schräg", tensor({-3, -2, -1, 0, 1, 2}, {.dtype = DType::kInt32}).view({1, 2, 3})},
          {"brain", bfloat16_bits({0x3f80, 0xc040, 0x7f80})},
          {"half", tensor({1.5, -65504.0}, {.dtype = DType::kFloat16})},
          {"pixels", tensor({0, 1, 255}, {.dtype = DType::kUInt8})},
          {"mask", tensor({true, false, true})}};
}

std::filesystem::path golden_file() {
  return std::filesystem::path(LOCKSTEP_TEST_DATA) / "python.safetensors";
}

const std::map<std::string, std::string> kGoldenMetadata = {{"format", "golden \"quoted\" ü"}};

void expect_same(const NamedTensors& got, const NamedTensors& wanted) {
  ASSERT_EQ(got.size(), wanted.size());
  for (size_t i = 0; i < got.size(); ++i) {
    const auto& [name, t] = got[i];
    const auto& [wanted_name, w] = wanted[i];
    EXPECT_EQ(name, wanted_name);
    ASSERT_EQ(t.dtype(), w.dtype()) << name;
    ASSERT_EQ(t.sizes(), w.sizes()) << name;
    EXPECT_EQ(0, std::memcmp(t.data_ptr(), w.contiguous().data_ptr(),
                             static_cast<size_t>(w.numel()) * size_of(w.dtype())))
        << name;
  }
}

TEST(Safetensors, ReadsWhatPythonWrote) {
  const Safetensors file = read_safetensors(golden_file());
  expect_same(file.tensors, golden());
  EXPECT_EQ(file.metadata, kGoldenMetadata);
}

TEST(Safetensors, WritesTheBytesThatPythonWrites) {
  const TempDir dir;
  write_safetensors(dir / "ours", golden(), kGoldenMetadata);
  const std::string ours = bytes_of_file(dir / "ours"), python = bytes_of_file(golden_file());
  ASSERT_GT(python.size(), 600u);
  EXPECT_EQ(ours, python);
}

TEST(Safetensors, KeepsTheOrderOfNamesAndAlignsValues) {
  const TempDir dir;
  const NamedTensors given = {{"z", tensor({true, false, true})},
                              {"a", tensor({1.0, 2.0}, {.dtype = DType::kFloat64})},
                              {"m", tensor({1.5}, {.dtype = DType::kFloat16})}};
  write_safetensors(dir / "file", given);
  expect_same(read_safetensors(dir / "file").tensors, given);
  const std::string bytes = bytes_of_file(dir / "file");
  EXPECT_NE(bytes.find(R"("z":{"dtype":"BOOL","shape":[3],"data_offsets":[18,21]},"a":)"),
            std::string::npos);
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  EXPECT_EQ(length % 8, 0u);
}

TEST(Safetensors, WritesViewsAndTensorsThatRequireGrad) {
  const TempDir dir;
  const Tensor matrix = tensor({1.0, 2.0, 3.0, 4.0, 5.0, 6.0}).view({2, 3}).requires_grad_();
  write_safetensors(dir / "file", {{"t", matrix.t()}, {"row", matrix[1]}});
  const auto read = read_safetensors(dir / "file").tensors;
  EXPECT_EQ(read[0].second.str(), "tensor([[1., 4.],\n        [2., 5.],\n        [3., 6.]])");
  EXPECT_EQ(read[1].second.str(), "tensor([4., 5., 6.])");
}

TEST(Safetensors, NoTensorsAtAll) {
  const TempDir dir;
  write_safetensors(dir / "file", {});
  EXPECT_EQ(bytes_of_file(dir / "file"), file_bytes("{}      ", 0));
  EXPECT_TRUE(read_safetensors(dir / "file").tensors.empty());
  write_file(dir / "unpadded", file_bytes("{}", 0));
  EXPECT_TRUE(read_safetensors(dir / "unpadded").tensors.empty());
}

TEST(Safetensors, RefusesNamesThatCannotBeWritten) {
  const TempDir dir;
  const Tensor t = tensor(1.0);
  EXPECT_THROW(write_safetensors(dir / "file", {{"a", t}, {"a", t}}), ValueError);
  EXPECT_THROW(write_safetensors(dir / "file", {{"__metadata__", t}}), ValueError);
  EXPECT_THROW(write_safetensors(dir / "file", {{"\xff", t}}), ValueError);
  EXPECT_THROW(write_safetensors(dir / "file", {{"a", {}}}), ValueError);
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
}

TEST(Safetensors, AFailedWriteLeavesTheOldFileAndNothingElse) {
  const TempDir dir;
  write_safetensors(dir / "file", {{"a", tensor(1.0)}});
  const std::string before = bytes_of_file(dir / "file");
  EXPECT_THROW(write_safetensors(dir / "file", {{"a", tensor(2.0)}, {"a", tensor(3.0)}}),
               ValueError);
  EXPECT_EQ(bytes_of_file(dir / "file"), before);
  std::filesystem::create_directory(dir / "folder");
  EXPECT_THROW(write_safetensors(dir / "folder", {{"a", tensor(2.0)}}), DataError);
  EXPECT_THROW(write_safetensors(dir / "absent" / "file", {{"a", tensor(2.0)}}), DataError);
  write_safetensors(dir / "file", {{"a", tensor(2.0)}});  // replaced
  EXPECT_EQ(read_safetensors(dir / "file").tensors[0].second.item(), 2.0);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}), 2);
}

TEST(Safetensors, RefusesFilesThatAreNone) {
  const TempDir dir;
  EXPECT_THROW(read_safetensors(dir / "absent"), DataError);
  EXPECT_THROW(read_safetensors(dir.path()), DataError);
  expect_refused("1234567", {"7 bytes"});
  expect_refused(with_length(3, "{}"), {"3 bytes", "2 bytes after"});
  expect_refused(with_length(100'000'001, "{}"), {"100000001", "100000000"});
  expect_refused(with_length(~uint64_t{0}, "{}"), {"18446744073709551615"});
  expect_refused(file_bytes("", 0), {"begin with {"});
  expect_refused(file_bytes(" {}", 0), {"begin with {"});
  expect_refused(file_bytes("[]", 0), {"begin with {"});
}

TEST(Safetensors, RefusesHeadersThatAreNotJson) {
  expect_refused(file_bytes("{", 0), {"not JSON"});
  expect_refused(file_bytes("{}x", 0), {"not JSON", "byte 3"});
  expect_refused(file_bytes("{\"a\":}", 0), {"not JSON"});
  expect_refused(file_bytes("{" + entry("\xff", "F32", "[]", "[0,4]") + "}", 4), {"not JSON"});
}

TEST(Safetensors, RefusesValuesOfTheWrongKind) {
  const auto refused = [](const std::string& inside, const std::vector<std::string>& mentions) {
    expect_refused(file_bytes("{" + inside + "}", 4), mentions);
  };
  refused("\"a\":1", {"tensor \"a\"", "the number 1"});
  refused("\"a\":null", {"tensor \"a\"", "null"});
  refused("\"a\":" + std::string(100'000, '['), {"tensor \"a\"", "an array"});
  refused("\"a\":{\"shape\":" + std::string(100'000, '['), {"tensor \"a\"", "an array"});
  refused("\"a\":{\"dtype\":{}}", {"tensor \"a\"", "dtype", "an object"});
  refused("\"a\":{\"dtype\":5}", {"tensor \"a\"", "dtype", "the number 5"});
  refused("\"a\":{\"shape\":7}", {"tensor \"a\"", "shape", "the number 7"});
  refused(entry("a", "F32", "[-1]", "[0,4]"), {"tensor \"a\"", "shape", "-1"});
  refused(entry("a", "F32", "[1.0]", "[0,4]"), {"tensor \"a\"", "shape", "1.0"});
  refused(entry("a", "F32", "[true]", "[0,4]"), {"tensor \"a\"", "shape", "a bool"});
  refused(entry("a", "F32", "[1]", "[0,4,8]"), {"tensor \"a\"", "more than two"});
  refused(entry("a", "F32", "[1]", "[0]"), {"tensor \"a\"", "1 numbers"});
  refused(entry("a", "F32", "[1]", "[0,\"4\"]"), {"tensor \"a\"", "the text \"4\""});
  refused("\"__metadata__\":{\"a\":1}", {"metadata \"a\"", "the number 1"});
  refused("\"a\":{\"dtype\":\"F32\",\"shape\":[1]}", {"tensor \"a\"", "no data_offsets"});
  refused("\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}", {"tensor \"a\"", "no shape"});
  refused("\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}", {"tensor \"a\"", "no dtype"});
  refused("\"a\":{\"dtype\":\"F32\",\"extra\":[1]}", {"tensor \"a\"", "\"extra\""});
  refused(entry("a", "I16", "[2]", "[0,4]"), {"tensor \"a\"", "\"I16\"", "BF16"});
  refused(entry("a", "F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), {"tensor \"a\"", "8 dimensions"});
}

TEST(Safetensors, RefusesRepeatedNames) {
  expect_refused(file_bytes("{" + entry("a", "F32", "[1]", "[0,4]") + "," +
                                entry("a", "F32", "[1]", "[4,8]") + "}",
                            8),
                 {"\"a\" appears twice"});
  expect_refused(file_bytes("{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\"}}", 0),
                 {"tensor \"a\"", "\"dtype\" appears twice"});
  expect_refused(file_bytes("{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}", 0),
                 {"metadata \"k\" appears twice"});
  expect_refused(file_bytes("{\"__metadata__\":{},\"__metadata__\":{}}", 0), {"appears twice"});
}

TEST(Safetensors, RefusesOffsetsThatDoNotFit) {
  const auto refused = [](const std::string& entries, size_t data,
                          const std::vector<std::string>& mentions) {
    expect_refused(file_bytes("{" + entries + "}", data), mentions);
  };
  refused(entry("a", "F32", "[2]", "[0,8]"), 4, {"tensor \"a\"", "[0, 8]", "4 bytes of data"});
  refused(entry("a", "F32", "[2]", "[8,0]"), 8, {"tensor \"a\"", "[8, 0]"});
  refused(entry("a", "F32", "[2]", "[0,18446744073709551615]"), 8, {"18446744073709551615"});
  refused(entry("a", "F32", "[2]", "[0,18446744073709551616]"), 8, {"not byte counts"});
  refused(entry("a", "F32", "[2]", "[0,4]"), 4, {"tensor \"a\"", "span 4", "[2] take 8"});
  refused(entry("a", "F32", "[]", "[0,0]"), 0, {"tensor \"a\"", "span 0", "take 4"});
  refused(entry("a", "U8", "[1]", "[0,1]") + "," + entry("b", "F32", "[1]", "[1,5]"), 5,
          {"tensor \"b\"", "[1, 5]", "multiple of 4"});
  refused(entry("a", "F32", "[2]", "[0,8]") + "," + entry("b", "F32", "[1]", "[4,8]"), 8,
          {"tensor \"b\"", "[4, 8]", "overlap tensor \"a\"", "[0, 8]"});
  refused(entry("a", "F32", "[2]", "[0,8]") + "," + entry("b", "F32", "[2]", "[0,8]"), 8,
          {"overlap"});
  refused(entry("a", "F32", "[1]", "[0,4]") + "," + entry("b", "F32", "[1]", "[8,12]"), 12,
          {"tensor \"b\"", "[8, 12]", "gap", "from 4 on"});
  refused(entry("a", "F32", "[1]", "[4,8]"), 8, {"tensor \"a\"", "gap", "from 0 on"});
  refused(entry("a", "F32", "[1]", "[0,4]"), 5, {"after 4 bytes", "5 bytes follow"});
  refused("", 1, {"after 0 bytes", "1 bytes follow"});
}

TEST(Safetensors, RefusesShapesWhoseSizeOverflows) {
  const auto refused = [](const std::string& shape, const std::string& mention) {
    expect_refused(file_bytes("{" + entry("a", "F32", shape, "[0,0]") + "}", 0),
                   {"tensor \"a\"", mention});
  };
  refused("[4611686018427387904]", "2^63 bytes");    // 2^62 elements: 2^64 bytes, wraps to 0
  refused("[4294967296,4294967296]", "2^63 bytes");  // the product wraps to 0
  refused("[0,4611686018427387904,4611686018427387904]", "2^63 bytes");  // strides would overflow
  refused("[9223372036854775808]", "too large");
  refused("[18446744073709551616]", "not sizes");  // JSON calls that a float
}

TEST(Safetensors, RefusesABoolThatIsNone) {
  const std::string header = "{" + entry("a", "BOOL", "[2]", "[0,2]") + "}";
  expect_refused(with_length(header.size(), header + "\1\2"), {"tensor \"a\"", "found 2"});
}

// Whatever happens to a byte: the file is read, or refused with a DataError.
TEST(Safetensors, SurvivesAnyDamage) {
  const std::string whole = bytes_of_file(golden_file());
  const size_t data_begin = whole.size() - 124;
  const std::string header = whole.substr(8, data_begin - 8);
  const auto is_refused = [&](const std::string& json) {
    try {
      parse_safetensors_header(json, 124, "file");
      return false;
    } catch (const DataError&) {
      return true;
    }
  };
  EXPECT_FALSE(is_refused(header));
  size_t refused = 0;
  for (size_t i = 0; i < header.size(); ++i) {
    for (const char c : {'0', '9', '"', '\\', '[', '}', ' ', '\0', '\xff'}) {
      std::string damaged = header;
      damaged[i] = c;
      refused += is_refused(damaged);
    }
  }
  EXPECT_GT(refused, 6 * header.size());  // the rest are other names, or no change at all
  for (size_t length = 0; length < header.size() - 8; ++length) {
    EXPECT_TRUE(is_refused(header.substr(0, length))) << "header cut to " << length;
  }
  for (size_t length = 0; length < whole.size(); length += 31) {
    expect_refused(whole.substr(0, length), {});
  }
  for (size_t i = 0; i < 8; ++i) {
    std::string damaged = whole;
    damaged[i] = static_cast<char>(damaged[i] ^ 0x41);
    expect_refused(damaged, {});
  }
}

struct Net : nn::Module {
  nn::Linear fc1, fc2{4, 2};
  nn::BatchNorm2d norm{3};
  explicit Net(int64_t inputs = 3) : fc1(inputs, 4) {
    register_modules({{"fc1", fc1}, {"fc2", fc2}, {"norm", norm}});
  }
};

TEST(StateDict, GoesToAFileAndBack) {
  const TempDir dir;
  const Net saved, loaded;
  saved.norm.running_mean.fill_(3);
  save_state_dict(dir / "net", saved, {{"epoch", "7"}});
  load_state_dict(dir / "net", loaded);
  expect_same(loaded.state_dict(), saved.state_dict());
  EXPECT_EQ(loaded.state_dict().size(), 4u + 5u);
  EXPECT_TRUE(loaded.fc1.weight.requires_grad());
  EXPECT_EQ(read_safetensors(dir / "net").metadata.at("epoch"), "7");
}

TEST(StateDict, ThatDoesNotFitIsRefusedWithTheFilesName) {
  const TempDir dir;
  save_state_dict(dir / "net", Net());
  const Net other(5);
  const NamedTensors before = other.state_dict();
  try {
    load_state_dict(dir / "net", other);
    FAIL();
  } catch (const ValueError& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find((dir / "net").string()), std::string::npos) << text;
    EXPECT_NE(text.find("size mismatch for fc1.weight"), std::string::npos) << text;
  }
  const nn::Linear line(3, 4);
  EXPECT_THROW(load_state_dict(dir / "net", line), ValueError);
  EXPECT_NO_THROW(load_state_dict(dir / "net", line, false));  // no name in common
}

}  // namespace
}  // namespace lockstep::data
