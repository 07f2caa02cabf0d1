#include "lockstep/launch/sha256.h"

#include <openssl/evp.h>

#include "lockstep/engine/tensor/check.h"

namespace lockstep::launch {

struct Sha256::Context {
  Context() : evp(EVP_MD_CTX_new()) {}
  ~Context() { EVP_MD_CTX_free(evp); }
  EVP_MD_CTX* evp;
  bool finished = false;
};

std::string to_hex(const Sha256Digest& digest) {
  return fmt::format("{:02x}", fmt::join(digest, ""));
}

Sha256::Sha256() : context_(std::make_unique<Context>()) {
  check<Error>(
      context_->evp != nullptr && EVP_DigestInit_ex(context_->evp, EVP_sha256(), nullptr) == 1,
      "[sha256] OpenSSL offers no SHA-256 here");
}

Sha256::~Sha256() = default;

void Sha256::update(std::span<const std::byte> bytes) {
  check<Error>(
      !context_->finished && EVP_DigestUpdate(context_->evp, bytes.data(), bytes.size()) == 1,
      "[sha256] update after finish");
}

void Sha256::update(std::string_view text) { update(std::as_bytes(std::span(text))); }

Sha256Digest Sha256::finish() {
  Sha256Digest digest{};
  check<Error>(
      !context_->finished && EVP_DigestFinal_ex(context_->evp, digest.data(), nullptr) == 1,
      "[sha256] finish was called twice");
  context_->finished = true;
  return digest;
}

}  // namespace lockstep::launch
