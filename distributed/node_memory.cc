#include "lockstep/distributed/node_memory.h"

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace lockstep::distributed {
namespace {

int open_ticket(const NodeMemory::Ticket& ticket) {
  if (ticket.kind == NodeMemory::Kind::kSharedMemoryObject) {
    return shm_open(ticket.name, O_RDWR | O_CLOEXEC, 0);
  }
  char path[64];
  std::snprintf(path, sizeof(path), "/proc/%d/fd/%d", ticket.pid, ticket.fd);
  return open(path, O_RDWR | O_CLOEXEC);
}

}  // namespace

NodeMemory::Kind NodeMemory::preferred_kind() {
  const char* wanted = std::getenv("LOCKSTEP_NODE_MEMORY");
  return wanted != nullptr && std::string_view(wanted) == "shm" ? Kind::kSharedMemoryObject
                                                                : Kind::kAnonymousFile;
}

int NodeMemory::map(int fd, int index) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  stride_ = (slice_bytes_ + page - 1) / page * page;
  if (stride_ == 0) stride_ = page;
  const size_t total = stride_ * static_cast<size_t>(slices_);
  // Whoever is short of memory hears of it here, not by a SIGBUS in the middle of a step; and each
  // rank gets its own slice from its own NUMA node.
  int error = 0;
  do {
    error = posix_fallocate(fd, static_cast<off_t>(stride_) * index, static_cast<off_t>(stride_));
  } while (error == EINTR);
  if (error != 0) return error;
  void* data = mmap(nullptr, total, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (data == MAP_FAILED) return errno;
  base_ = static_cast<std::byte*>(data);
  madvise(data, total, MADV_DONTDUMP);
  return 0;
}

std::shared_ptr<NodeMemory> NodeMemory::create(Kind kind, uint64_t slice_bytes, int slices,
                                               int index, Ticket& ticket) {
  static std::atomic<unsigned> counter = 0;
  std::shared_ptr<NodeMemory> memory(new NodeMemory);
  memory->slice_bytes_ = slice_bytes;
  memory->slices_ = slices;
  ticket = Ticket{};
  ticket.kind = kind;
  ticket.pid = static_cast<int32_t>(getpid());
  ticket.slice_bytes = slice_bytes;
  ticket.slices = slices;
  if (kind == Kind::kAnonymousFile) {
    memory->fd_ = memfd_create("lockstep", MFD_CLOEXEC);
  } else {
    timespec now{};
    clock_gettime(CLOCK_REALTIME, &now);  // pids repeat across namespaces that share /dev/shm
    std::snprintf(memory->name_, sizeof(memory->name_), "/lockstep-%d-%ld-%u", ticket.pid,
                  now.tv_nsec, counter++);
    memory->fd_ = shm_open(memory->name_, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
    if (memory->fd_ < 0) memory->name_[0] = '\0';
  }
  ticket.fd = memory->fd_;
  std::memcpy(ticket.name, memory->name_, sizeof(ticket.name));
  ticket.error = memory->fd_ < 0 ? errno : memory->map(memory->fd_, index);
  if (ticket.error != 0) return nullptr;
  // posix_fallocate made the file as long as this slice needs; peers add theirs, but must be able
  // to map all of it at once.
  const auto total = static_cast<off_t>(memory->stride_) * slices;
  if (ftruncate(memory->fd_, total) != 0) {
    ticket.error = errno;
    return nullptr;
  }
  return memory;
}

std::shared_ptr<NodeMemory> NodeMemory::attach(const Ticket& ticket, int index, int& error) {
  std::shared_ptr<NodeMemory> memory(new NodeMemory);
  memory->slice_bytes_ = ticket.slice_bytes;
  memory->slices_ = ticket.slices;
  const int fd = open_ticket(ticket);
  if (fd < 0) {
    error = errno;
    return nullptr;
  }
  error = memory->map(fd, index);
  close(fd);
  return error == 0 ? memory : nullptr;
}

void NodeMemory::forget_name() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
  if (name_[0] != '\0') shm_unlink(name_);
  name_[0] = '\0';
}

NodeMemory::~NodeMemory() {
  forget_name();
  if (base_ != nullptr) munmap(base_, stride_ * static_cast<size_t>(slices_));
}

}  // namespace lockstep::distributed
