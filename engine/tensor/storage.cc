#include "lockstep/engine/tensor/storage.h"

#include "lockstep/engine/backend.h"

namespace lockstep {

Ptr<Storage> Storage::allocate(size_t bytes, Device device) {
  Backend& backend = backend_of(device);
  Ptr<Storage> storage(new Storage(backend.allocate(bytes), bytes, device));
  storage->backend_ = &backend;
  return storage;
}

Ptr<Storage> Storage::alias(void* data, size_t bytes, Device device, std::shared_ptr<void> owner) {
  Ptr<Storage> storage(new Storage(data, bytes, device));
  storage->owner_ = std::move(owner);
  return storage;
}

Ptr<Storage> Storage::alias(void* data, size_t bytes, Ptr<Storage> owner) {
  Ptr<Storage> storage(new Storage(data, bytes, owner->device()));
  storage->parent_ = std::move(owner);
  return storage;
}

void Storage::expect(std::shared_ptr<Arrival> arrival) {
  arrival_ = std::move(arrival);
  awaited_.store(true, std::memory_order_release);
}

void Storage::await() const {
  arrival_->wait();
  awaited_.store(false, std::memory_order_release);
}

Storage::~Storage() {
  if (backend_) backend_->deallocate(data_, bytes_);
}

}  // namespace lockstep
