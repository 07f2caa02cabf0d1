#include "lockstep/launch/sha256.h"

#include <string>

#include <gtest/gtest.h>

#include "lockstep/engine/tensor/error.h"

namespace lockstep::launch {
namespace {

std::string hex_of(const std::string& text) {
  Sha256 hash;
  hash.update(text);
  return to_hex(hash.finish());
}

// FIPS 180-4's examples and the empty message.
TEST(Sha256, KnownVectors) {
  EXPECT_EQ(hex_of(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(hex_of("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(hex_of("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(hex_of(std::string(1000000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256, PiecesMakeTheSameDigest) {
  Sha256 hash;
  hash.update("ab");
  hash.update("");
  hash.update("c");
  EXPECT_EQ(to_hex(hash.finish()), hex_of("abc"));
}

TEST(Sha256, NothingAfterTheEnd) {
  Sha256 hash;
  hash.finish();
  EXPECT_THROW(hash.finish(), Error);
  EXPECT_THROW(hash.update("x"), Error);
}

}  // namespace
}  // namespace lockstep::launch
