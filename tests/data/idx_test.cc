#include "lockstep/data/idx.h"

#include <bit>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/engine/tensor/error.h"

#include "data/idx_files.h"
#include "data/temp_dir.h"

namespace lockstep::data {
namespace {

using test::Bytes;
using test::idx_bytes;
using test::TempDir;

template <typename T>
std::vector<T> values_of(const IdxArray& array) {
  std::vector<T> values(array.bytes.size() / sizeof(T));
  std::memcpy(values.data(), array.bytes.data(), array.bytes.size());
  return values;
}

Bytes counting(size_t count) {
  Bytes bytes(count);
  for (size_t i = 0; i < count; ++i) bytes[i] = static_cast<uint8_t>(i * 37 + 11);
  return bytes;
}

// The error's text names the file and holds every one of `mentions`.
void expect_data_error(const std::filesystem::path& path,
                       const std::vector<std::string>& mentions) {
  try {
    read_idx(path);
    FAIL() << path << " was read without complaint";
  } catch (const DataError& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find(path.string()), std::string::npos) << text;
    for (const auto& mention : mentions) {
      EXPECT_NE(text.find(mention), std::string::npos) << "missing \"" << mention << "\": " << text;
    }
  }
}

TEST(Idx, ReadsPlainAndGzipAlike) {
  const TempDir dir;
  const Bytes payload = counting(2 * 3 * 4);
  const Bytes file = idx_bytes(0x08, {2, 3, 4}, payload);
  test::write_plain(dir / "plain", file);
  test::write_gzip(dir / "packed", file);  // the name does not matter
  for (const char* name : {"plain", "packed"}) {
    const auto array = read_idx(dir / name);
    EXPECT_EQ(array.type, IdxType::kUInt8);
    EXPECT_EQ(array.dims, (std::vector<int64_t>{2, 3, 4}));
    EXPECT_EQ(array.count(), 24);
    EXPECT_EQ(array.bytes, payload);
  }
}

TEST(Idx, ConvertsEveryTypeToHostOrder) {
  const TempDir dir;
  test::write_plain(dir / "i8", idx_bytes(0x09, {2}, {0x80, 0x7f}));
  EXPECT_EQ(values_of<int8_t>(read_idx(dir / "i8")), (std::vector<int8_t>{-128, 127}));
  test::write_plain(dir / "i16", idx_bytes(0x0b, {2}, {0x01, 0x02, 0xff, 0xfe}));
  EXPECT_EQ(values_of<int16_t>(read_idx(dir / "i16")), (std::vector<int16_t>{258, -2}));
  test::write_plain(dir / "i32", idx_bytes(0x0c, {1, 1}, {0x01, 0x02, 0x03, 0x04}));
  EXPECT_EQ(values_of<int32_t>(read_idx(dir / "i32")), (std::vector<int32_t>{0x01020304}));
  test::write_plain(dir / "f32", idx_bytes(0x0d, {1}, {0x3f, 0xc0, 0, 0}));
  EXPECT_EQ(values_of<float>(read_idx(dir / "f32")), (std::vector<float>{1.5f}));
  test::write_plain(dir / "f64", idx_bytes(0x0e, {1}, {0xc0, 0x04, 0, 0, 0, 0, 0, 0}));
  EXPECT_EQ(values_of<double>(read_idx(dir / "f64")), (std::vector<double>{-2.5}));
}

TEST(Idx, ReadsScalarsAndEmptyArrays) {
  const TempDir dir;
  test::write_plain(dir / "scalar", idx_bytes(0x08, {}, {42}));
  EXPECT_EQ(read_idx(dir / "scalar").bytes, Bytes{42});
  EXPECT_EQ(read_idx(dir / "scalar").count(), 1);
  test::write_plain(dir / "empty", idx_bytes(0x0e, {3, 0, 0xffffffffu}, {}));
  const auto empty = read_idx(dir / "empty");
  EXPECT_EQ(empty.dims, (std::vector<int64_t>{3, 0, 0xffffffff}));
  EXPECT_EQ(empty.count(), 0);
  EXPECT_TRUE(empty.bytes.empty());
}

TEST(Idx, ReadsManyDimensions) {
  const TempDir dir;
  test::write_plain(dir / "ten", idx_bytes(0x08, {1, 1, 1, 2, 1, 1, 1, 1, 3, 1}, counting(6)));
  EXPECT_EQ(read_idx(dir / "ten").dims.size(), 10u);
  EXPECT_EQ(read_idx(dir / "ten").count(), 6);
}

TEST(Idx, MissingFileAndDirectory) {
  const TempDir dir;
  expect_data_error(dir / "absent", {"no such file"});
  expect_data_error(dir.path(), {"directory"});
}

TEST(Idx, WrongMagic) {
  const TempDir dir;
  test::write_plain(dir / "text", {'P', 'K', 3, 4, 5, 6, 7, 8});
  expect_data_error(dir / "text", {"not an IDX file", "expected the magic number", "50 4b 03 04"});
  test::write_plain(dir / "type", idx_bytes(0x0a, {1}, {1}));
  expect_data_error(dir / "type", {"found 00 00 0a 01"});
  test::write_plain(dir / "late", idx_bytes(0x0f, {1}, {1}));
  expect_data_error(dir / "late", {"found 00 00 0f 01"});
}

TEST(Idx, EveryTruncationIsNoticed) {
  const TempDir dir;
  const Bytes whole = idx_bytes(0x08, {2, 3}, counting(6));
  for (size_t length = 0; length < whole.size(); ++length) {
    SCOPED_TRACE(length);
    const Bytes part(whole.begin(), whole.begin() + static_cast<int64_t>(length));
    test::write_plain(dir / "cut", part);
    expect_data_error(dir / "cut", {"truncated"});
    test::write_gzip(dir / "cut.gz", part);
    expect_data_error(dir / "cut.gz", {"truncated"});
  }
  test::write_gzip(dir / "short.gz", idx_bytes(0x08, {2, 3}, counting(5)));
  expect_data_error(dir / "short.gz", {"expected 6 bytes (2 x 3 of uint8)", "found 5"});
}

TEST(Idx, TruncatedOrDamagedGzip) {
  const TempDir dir;
  test::write_gzip(dir / "whole", idx_bytes(0x08, {1000, 20}, counting(20000)));
  std::ifstream in(dir / "whole", std::ios::binary);
  const Bytes packed((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  ASSERT_GT(packed.size(), 100u);
  for (const size_t cut : {size_t{1}, size_t{8}, packed.size() / 2}) {  // 8: the checksum is gone
    SCOPED_TRACE(cut);
    test::write_plain(dir / "cut", {packed.begin(), packed.end() - static_cast<int64_t>(cut)});
    expect_data_error(dir / "cut", {"truncated"});
  }
  Bytes damaged = packed;
  damaged[damaged.size() - 6] ^= 1;  // in the checksum
  test::write_plain(dir / "damaged", damaged);
  expect_data_error(dir / "damaged", {"damaged gzip data"});
}

TEST(Idx, TrailingBytes) {
  const TempDir dir;
  const Bytes file = idx_bytes(0x08, {2, 2}, counting(5));
  test::write_plain(dir / "long", file);
  expect_data_error(dir / "long", {"to end after 4 bytes", "found more"});
  test::write_gzip(dir / "long.gz", file);
  expect_data_error(dir / "long.gz", {"to end after 4 bytes", "found more"});
}

TEST(Idx, ImpossibleSizesAreRefusedBeforeAllocating) {
  const TempDir dir;
  constexpr uint32_t kMax = 0xffffffffu;
  test::write_plain(dir / "overflow", idx_bytes(0x0e, {kMax, kMax, 2}, counting(9)));
  expect_data_error(dir / "overflow", {"more than 2^64 bytes"});
  // 2^62 bytes would not overflow, and no allocation could be refused with a DataError.
  const Bytes huge = idx_bytes(0x08, {0x80000000u, 0x80000000u}, counting(9));
  test::write_plain(dir / "huge", huge);
  expect_data_error(dir / "huge", {"4611686018427387904 bytes", "holds at most 21"});
  test::write_gzip(dir / "huge.gz", huge);
  expect_data_error(dir / "huge.gz", {"4611686018427387904 bytes"});
}

}  // namespace
}  // namespace lockstep::data
