#include "lockstep/launch/weights_hash.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/engine/tensor/error.h"
#include "lockstep/engine/tensor/factory.h"

namespace lockstep::launch {
namespace {

std::string hex_of(const NamedTensors& tensors) { return to_hex(weights_hash(tensors)); }

Tensor floats(const std::vector<float>& values, const Dims& sizes) {
  return from_span<float>(values, sizes);
}

// The expected digests were computed with Python's hashlib from the written definition:
//
//   def h(tensors):
//       s = hashlib.sha256()
//       for name, dtype, dims, code, values in tensors:
//           s.update(name.encode() + b'\0' + dtype.encode() + b'\0' + struct.pack('<Q', len(dims)))
//           s.update(b''.join(struct.pack('<Q', d) for d in dims))
//           s.update(struct.pack('<%d%s' % (len(values), code), *values))
//       return s.hexdigest()
//   h([('fc.weight', 'float32', [2, 3], 'f', [1, 2, 3, 4, 5, 6]),
//      ('fc.bias', 'float32', [2], 'f', [0.5, -0.0]), ('count', 'int64', [], 'q', [7])])
//   h([('w', 'float32', [3, 2], 'f', [1, 4, 2, 5, 3, 6])])
TEST(WeightsHash, EqualsTheWrittenDefinition) {
  const std::vector<int64_t> seven = {7};
  EXPECT_EQ(hex_of({{"fc.weight", floats({1, 2, 3, 4, 5, 6}, {2, 3})},
                    {"fc.bias", floats({0.5f, -0.0f}, {2})},
                    {"count", from_span<int64_t>(seven, {})}}),
            "cfb4fc62b2e2971bf811c7df55ca73d08f61bb21fb7bb43b267fa0c030281b69");
}

TEST(WeightsHash, ReadsViewsInRowMajorOrder) {
  const Tensor w = floats({1, 2, 3, 4, 5, 6}, {2, 3}).t();
  ASSERT_FALSE(w.is_contiguous());
  EXPECT_EQ(hex_of({{"w", w}}), "a77ded2a65fc13b1ced996a9873465863845273356966315d8756ab2c70c3d52");
}

TEST(WeightsHash, TiedTensorsCountOnce) {
  const Tensor w = floats({1, 2}, {2});
  const Tensor b = floats({3}, {1});
  const auto once = hex_of({{"w", w}, {"b", b}});
  EXPECT_EQ(hex_of({{"w", w}, {"b", b}, {"head.w", w}}), once);
  EXPECT_EQ(hex_of({{"w", w}, {"b", b}, {"head.w", w.detach()}}), once);
  EXPECT_NE(hex_of({{"w", w}, {"b", b}, {"head.w", w.clone()}}), once);
}

TEST(WeightsHash, EverythingMatters) {
  const auto base = hex_of({{"w", floats({1, 2}, {2})}});
  EXPECT_EQ(hex_of({{"w", floats({1, 2}, {2})}}), base);
  EXPECT_NE(hex_of({{"v", floats({1, 2}, {2})}}), base);
  EXPECT_NE(hex_of({{"w", floats({1, 3}, {2})}}), base);
  EXPECT_NE(hex_of({{"w", floats({1, 2}, {2, 1})}}), base);
  EXPECT_NE(hex_of({{"w", floats({0.0f}, {1})}}), hex_of({{"w", floats({-0.0f}, {1})}}));
  const std::vector<int32_t> same_bits = {1065353216, 1073741824};
  EXPECT_NE(hex_of({{"w", from_span<int32_t>(same_bits, {2})}}), base);
  EXPECT_EQ(hex_of({}), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

TEST(WeightsHash, UndefinedTensorsAreErrors) {
  try {
    hex_of({{"lost", Tensor()}});
    FAIL() << "nothing was thrown";
  } catch (const ValueError& error) {
    EXPECT_NE(std::string(error.what()).find("lost is undefined"), std::string::npos);
  }
}

}  // namespace
}  // namespace lockstep::launch
