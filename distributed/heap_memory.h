#pragma once

#include <cstring>
#include <memory>
#include <new>

#include "lockstep/distributed/process_group.h"

namespace lockstep::distributed {

// Group memory where all ranks share one address space: zeroed. In pages of its own, because a
// device's driver pins pages.
class HeapMemory final : public Memory {
 public:
  explicit HeapMemory(size_t bytes)
      : bytes_(bytes),
        data_(::operator new ((bytes / kPage + 1) * kPage, std::align_val_t{kPage})) {
    std::memset(data_.get(), 0, bytes);
  }
  void* data() const override { return data_.get(); }
  size_t bytes() const override { return bytes_; }

 private:
  static constexpr size_t kPage = 4096;
  struct Free {
    void operator()(void* data) const { ::operator delete (data, std::align_val_t{kPage}); }
  };
  size_t bytes_;
  std::unique_ptr<void, Free> data_;
};

}  // namespace lockstep::distributed
