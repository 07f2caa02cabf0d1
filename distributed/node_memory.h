#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace lockstep::distributed {

// Memory shared by the ranks of one node: one slice per rank, mapped whole by every rank. It is
// made by one rank (create), opened by the others with the ticket they are given (attach), and has
// no name in any file system once all have it, so that nothing can be left behind by whatever ends
// the ranks. It lives as long as any rank maps it.
//
// Preferred is an anonymous file (memfd) that peers open through /proc/<pid>/fd: it never has a
// name, and no small /dev/shm limits it, as in containers. Where peers cannot open it (ranks in
// different PID namespaces), a POSIX shared memory object is used and unlinked at once.
class NodeMemory {
 public:
  enum class Kind : int32_t { kAnonymousFile, kSharedMemoryObject };

  // Tells another process how to attach. Trivially copyable; error is an errno, 0 if all is well.
  struct Ticket {
    Kind kind = Kind::kAnonymousFile;
    int32_t error = 0;
    int32_t pid = 0;
    int32_t fd = -1;
    uint64_t slice_bytes = 0;
    int32_t slices = 0;
    char name[64] = {};
  };

  // The kind to try first: an anonymous file, unless LOCKSTEP_NODE_MEMORY=shm.
  static Kind preferred_kind();

  // Both reserve the memory of slice `index`, zero-filled, and return null with ticket.error (for
  // attach: error) set to an errno if that fails.
  static std::shared_ptr<NodeMemory> create(Kind kind, uint64_t slice_bytes, int slices, int index,
                                            Ticket& ticket);
  static std::shared_ptr<NodeMemory> attach(const Ticket& ticket, int index, int& error);

  // The creator calls this once every peer has attached or failed to.
  void forget_name();

  ~NodeMemory();
  NodeMemory(const NodeMemory&) = delete;
  NodeMemory& operator=(const NodeMemory&) = delete;

  std::byte* slice(int index) const { return base_ + static_cast<size_t>(index) * stride_; }
  size_t slice_bytes() const { return slice_bytes_; }

 private:
  NodeMemory() = default;
  int map(int fd, int index);  // an errno

  std::byte* base_ = nullptr;
  size_t slice_bytes_ = 0;
  size_t stride_ = 0;  // slice_bytes_ rounded up to pages
  int slices_ = 0;
  int fd_ = -1;         // open in the creator until forget_name()
  char name_[64] = {};  // likewise
};

}  // namespace lockstep::distributed
