#pragma once

#include <cstring>
#include <memory>
#include <new>

#include "lockstep/distributed/process_group.h"

namespace lockstep::distributed {

// Group memory where all ranks share one address space: zeroed, aligned to a cache line.
class HeapMemory final : public Memory {
 public:
  explicit HeapMemory(size_t bytes)
      : bytes_(bytes), data_(::operator new (bytes == 0 ? 1 : bytes, std::align_val_t{64})) {
    std::memset(data_.get(), 0, bytes);
  }
  void* data() const override { return data_.get(); }
  size_t bytes() const override { return bytes_; }

 private:
  struct Free {
    void operator()(void* data) const { ::operator delete (data, std::align_val_t{64}); }
  };
  size_t bytes_;
  std::unique_ptr<void, Free> data_;
};

}  // namespace lockstep::distributed
