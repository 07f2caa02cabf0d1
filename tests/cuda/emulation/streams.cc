#include <algorithm>
#include <chrono>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "pending.h"
#include "runtime_api.h"
#include "runtime_state.h"
#include "stream.h"

// Streams and events of the emulated runtime. An event is a place in a stream's line of work
// (pending.h), or none where everything had been done. A stream can be made to stand still: then
// it, and those that wait for its events, say that they are not done until the stall is over.
struct CUstream_st {
  int device = 0;
  unsigned flags = 0;
  int priority = 0;
  std::shared_ptr<lockstep::emulation::Line> line = std::make_shared<lockstep::emulation::Line>();
  std::shared_ptr<lockstep::emulation::Stall> stall = {};
  lockstep::emulation::CapturePlace place = {};
};

struct CUevent_st {
  int device = 0;
  bool timed = true, recorded = false;
  std::chrono::steady_clock::time_point time = {};  // when it was issued
  std::shared_ptr<lockstep::emulation::Line> line = nullptr;
  uint64_t position = 0;
  int queries = 0;  // since it was recorded
  std::shared_ptr<lockstep::emulation::Stall> stall = {};
  lockstep::emulation::CapturePlace place = {};  // null unless last recorded in a capture
};

namespace {

using namespace lockstep::emulation;

constexpr int kMostQueries = 100;
constexpr int kLeastPriority = 0, kGreatestPriority = -5;

// Live handles, so that destroyed ones are noticed. Never destroyed itself.
struct Handles {
  std::mutex mutex;
  std::set<cudaStream_t> streams;
  std::set<cudaEvent_t> events;
};
Handles& handles() {
  static auto* const all = new Handles;
  return *all;
}

cudaError_t check() { return device_count() == 0 ? remember(cudaErrorNoDevice) : cudaSuccess; }
cudaError_t check(const void* output) {
  if (device_count() == 0) {
    return remember(cudaErrorNoDevice);
  }
  return output == nullptr ? remember(cudaErrorInvalidValue) : cudaSuccess;
}
cudaError_t check_stream(cudaStream_t stream) {
  if (device_count() == 0) {
    return remember(cudaErrorNoDevice);
  }
  return stream_device(stream) < 0 ? remember(cudaErrorInvalidResourceHandle) : cudaSuccess;
}
cudaError_t check_event(cudaEvent_t event) {
  if (device_count() == 0) {
    return remember(cudaErrorNoDevice);
  }
  const std::lock_guard lock(handles().mutex);
  return handles().events.contains(event) ? cudaSuccess : remember(cudaErrorInvalidResourceHandle);
}

bool stands_still(const std::shared_ptr<Stall>& stall) { return stall && !stall->over; }
cudaError_t wait_out(const std::shared_ptr<Stall>& stall) {
  while (stands_still(stall)) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  return cudaSuccess;
}
// Of a stream or event that has been checked; the default streams never stand still.
template <class Handle>
std::shared_ptr<Stall> stall_of(Handle handle) {
  const std::lock_guard lock(handles().mutex);
  return handle->stall;
}

// Whether the host may ask for an event.
cudaError_t check_for_host(const CUevent_st& event) {
  if (event.place.capture == nullptr) {
    return check_unsafe_call();
  }
  event.place.capture->invalid = true;
  return remember(cudaErrorCapturedEvent);
}

// A stream waits for an event, and at least one of them is in a capture.
cudaError_t wait_in_capture(cudaStream_t stream, const CUevent_st& event) {
  if (is_default(stream)) {
    return remember(cudaErrorStreamCaptureUnsupported);
  }
  CapturePlace& place = place_of(stream);
  const std::shared_ptr<Capture> capture = event.place.capture;
  if (!event.place.active()) {
    if (place.active()) {
      place.capture->invalid = true;
    }
    return remember(capture ? cudaErrorCapturedEvent : cudaErrorStreamCaptureIsolation);
  }
  if (place.active() && place.capture != capture) {
    place.capture->invalid = capture->invalid = true;
    return remember(cudaErrorStreamCaptureMerge);
  }
  if (!place.active()) {
    place = {capture, {}};
    capture->streams.push_back(stream);
  }
  place.behind.insert(place.behind.end(), event.place.behind.begin(), event.place.behind.end());
  return cudaSuccess;
}

}  // namespace

namespace lockstep::emulation {

bool is_default(cudaStream_t stream) {
  return stream == nullptr || stream == cudaStreamLegacy || stream == cudaStreamPerThread;
}

CapturePlace& place_of(cudaStream_t stream) { return stream->place; }

bool is_capturing(cudaStream_t stream) { return !is_default(stream) && stream->place.active(); }

cudaError_t check_capture(cudaStream_t stream) {
  return is_capturing(stream) && stream->place.capture->invalid
             ? remember(cudaErrorStreamCaptureInvalidated)
             : cudaSuccess;
}

cudaError_t check_not_capturing(cudaStream_t stream) {
  if (!is_capturing(stream)) {
    return cudaSuccess;
  }
  stream->place.capture->invalid = true;
  return remember(cudaErrorStreamCaptureUnsupported);
}

void stall(cudaStream_t stream, std::shared_ptr<Stall> stall) {
  const std::lock_guard lock(handles().mutex);
  if (handles().streams.contains(stream)) stream->stall = std::move(stall);
}

int stream_device(cudaStream_t stream) {
  if (is_default(stream)) {
    return current_device();
  }
  const std::lock_guard lock(handles().mutex);
  return handles().streams.contains(stream) ? stream->device : -1;
}

void submit(cudaStream_t stream, std::function<void()> work) {
  if (is_default(stream)) {
    finish_all();
    work();
  } else if (stream->place.active()) {
    CapturePlace& place = stream->place;
    place.behind = {place.capture->add(std::move(work), std::move(place.behind))};
  } else {
    stream->line->add(std::move(work));
  }
}

void finish(cudaStream_t stream) {
  if (is_default(stream)) {
    finish_all();
  } else {
    stream->line->run_until(stream->line->issued());
  }
}

void finish_all() {
  std::vector<std::shared_ptr<Line>> lines;
  {
    const std::lock_guard lock(handles().mutex);
    for (const auto* stream : handles().streams) {
      lines.push_back(stream->line);
    }
  }
  for (const auto& line : lines) {
    line->run_until(line->issued());
  }
}

}  // namespace lockstep::emulation

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  if (check() != cudaSuccess) {
    return cudaErrorNoDevice;
  }
  if (least != nullptr) {
    *least = kLeastPriority;
  }
  if (greatest != nullptr) {
    *greatest = kGreatestPriority;
  }
  return cudaSuccess;
}

// -- streams

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return cudaStreamCreateWithPriority(stream, cudaStreamDefault, kLeastPriority);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned int flags) {
  return cudaStreamCreateWithPriority(stream, flags, kLeastPriority);
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned int flags, int priority) {
  const cudaError_t error = check(stream);
  if (error != cudaSuccess) {
    return error;
  }
  if ((flags & ~static_cast<unsigned>(cudaStreamNonBlocking)) != 0) {
    return remember(cudaErrorInvalidValue);
  }
  *stream = new CUstream_st{.device = current_device(),
                            .flags = flags,
                            .priority = std::clamp(priority, kGreatestPriority, kLeastPriority)};
  const std::lock_guard lock(handles().mutex);
  handles().streams.insert(*stream);
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  if (check() != cudaSuccess) {
    return cudaErrorNoDevice;
  }
  const std::lock_guard running(device_mutex());
  {
    const std::lock_guard lock(handles().mutex);
    if (handles().streams.erase(stream) == 0) {
      return remember(cudaErrorInvalidResourceHandle);
    }
  }
  finish(stream);
  delete stream;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const cudaError_t error = check_stream(stream);
  if (error != cudaSuccess) {
    return error;
  }
  {
    const std::lock_guard lock(device_mutex());
    cudaError_t captured = check_not_capturing(stream);
    if (captured == cudaSuccess) {
      captured = check_unsafe_call();
    }
    if (captured != cudaSuccess) {
      return captured;
    }
    finish(stream);
  }
  return is_default(stream) ? cudaSuccess : wait_out(stall_of(stream));
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  const cudaError_t error = check_stream(stream);
  if (error != cudaSuccess || is_default(stream)) {
    return error;
  }
  if (stands_still(stall_of(stream))) {
    return remember(cudaErrorNotReady);
  }
  const std::lock_guard lock(device_mutex());
  if (const cudaError_t captured = check_not_capturing(stream); captured != cudaSuccess) {
    return captured;
  }
  return stream->line->reached(stream->line->issued()) ? cudaSuccess : remember(cudaErrorNotReady);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int flags) {
  cudaError_t error = check_stream(stream);
  if (error != cudaSuccess) {
    return error;
  }
  if (flags != cudaEventWaitDefault) {
    return remember(cudaErrorNotSupported);
  }
  error = check_event(event);
  if (error != cudaSuccess) {
    return error;
  }
  {
    const std::lock_guard lock(device_mutex());
    if (event->place.capture != nullptr || is_capturing(stream)) {
      return wait_in_capture(stream, *event);
    }
  }
  if (event->line != nullptr) {
    const std::lock_guard lock(device_mutex());
    submit(stream, [line = event->line, at = event->position] { line->run_until(at); });
  }
  if (!is_default(stream)) {
    const std::shared_ptr<Stall> stall = stall_of(event);
    const std::lock_guard lock(handles().mutex);
    if (stands_still(stall) && !stands_still(stream->stall)) {
      stream->stall = stall;
    }
  }
  return cudaSuccess;
}

cudaError_t cudaStreamGetPriority(cudaStream_t stream, int* priority) {
  const cudaError_t error = check_stream(stream);
  if (error != cudaSuccess) {
    return error;
  }
  if (priority == nullptr) {
    return remember(cudaErrorInvalidValue);
  }
  *priority = is_default(stream) ? kLeastPriority : stream->priority;
  return cudaSuccess;
}

cudaError_t cudaStreamGetFlags(cudaStream_t stream, unsigned int* flags) {
  const cudaError_t error = check_stream(stream);
  if (error != cudaSuccess) {
    return error;
  }
  if (flags == nullptr) {
    return remember(cudaErrorInvalidValue);
  }
  *flags = is_default(stream) ? cudaStreamDefault : stream->flags;
  return cudaSuccess;
}

cudaError_t cudaStreamGetDevice(cudaStream_t stream, int* device) {
  const cudaError_t error = check_stream(stream);
  if (error != cudaSuccess) {
    return error;
  }
  if (device == nullptr) {
    return remember(cudaErrorInvalidValue);
  }
  *device = stream_device(stream);
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  const cudaError_t error = check_stream(stream);
  if (error != cudaSuccess) {
    return error;
  }
  if (status == nullptr) {
    return remember(cudaErrorInvalidValue);
  }
  const std::lock_guard lock(device_mutex());
  *status = !is_capturing(stream)            ? cudaStreamCaptureStatusNone
            : stream->place.capture->invalid ? cudaStreamCaptureStatusInvalidated
                                             : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  const cudaError_t error = check_stream(stream);
  if (error != cudaSuccess) {
    return error;
  }
  if (function == nullptr) {
    return remember(cudaErrorInvalidValue);
  }
  const std::lock_guard lock(device_mutex());
  submit(stream, [function, data] { function(data); });
  return cudaSuccess;
}

// -- events

cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned int flags) {
  const cudaError_t error = check(event);
  if (error != cudaSuccess) {
    return error;
  }
  if ((flags & ~static_cast<unsigned>(cudaEventBlockingSync | cudaEventDisableTiming)) != 0) {
    return remember(cudaErrorInvalidValue);
  }
  *event =
      new CUevent_st{.device = current_device(), .timed = (flags & cudaEventDisableTiming) == 0};
  const std::lock_guard lock(handles().mutex);
  handles().events.insert(*event);
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  if (check() != cudaSuccess) {
    return cudaErrorNoDevice;
  }
  const std::lock_guard lock(handles().mutex);
  if (handles().events.erase(event) == 0) {
    return remember(cudaErrorInvalidResourceHandle);
  }
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  cudaError_t error = check_stream(stream);
  if (error == cudaSuccess) {
    error = check_event(event);
  }
  if (error != cudaSuccess) {
    return error;
  }
  if (event->device != stream_device(stream)) {
    return remember(cudaErrorInvalidResourceHandle);
  }
  std::shared_ptr<Stall> stall = is_default(stream) ? nullptr : stall_of(stream);
  const std::lock_guard lock(device_mutex());
  {
    const std::lock_guard guard(handles().mutex);
    event->stall = std::move(stall);
  }
  if (const cudaError_t invalid = check_capture(stream); invalid != cudaSuccess) {
    return invalid;
  }
  event->place = is_default(stream) ? CapturePlace{} : stream->place;
  if (event->place.active()) {
    return cudaSuccess;
  }
  event->recorded = true;
  event->queries = 0;
  event->time = std::chrono::steady_clock::now();
  if (is_default(stream)) {
    finish_all();
    event->line = nullptr;
  } else {
    event->line = stream->line;
    event->position = stream->line->issued();
  }
  return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  const cudaError_t error = check_event(event);
  if (error != cudaSuccess) {
    return error;
  }
  if (stands_still(stall_of(event))) {
    return remember(cudaErrorNotReady);
  }
  const std::lock_guard lock(device_mutex());
  if (const cudaError_t captured = check_for_host(*event); captured != cudaSuccess) {
    return captured;
  }
  if (event->line == nullptr) {
    return cudaSuccess;
  }
  // Work that is put off until somebody waits comes to its end for those who keep asking, too.
  if (++event->queries > kMostQueries) event->line->run_until(event->position);
  return event->line->reached(event->position) ? cudaSuccess : remember(cudaErrorNotReady);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  const cudaError_t error = check_event(event);
  if (error != cudaSuccess) {
    return error;
  }
  {
    const std::lock_guard lock(device_mutex());
    if (const cudaError_t captured = check_for_host(*event); captured != cudaSuccess) {
      return captured;
    }
    if (event->line != nullptr) {
      event->line->run_until(event->position);
    }
  }
  return wait_out(stall_of(event));
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  cudaError_t error = check(milliseconds);
  for (const cudaEvent_t event : {start, end}) {
    if (error == cudaSuccess) {
      error = check_event(event);
    }
    if (error == cudaSuccess && (!event->timed || !event->recorded)) {
      error = remember(cudaErrorInvalidResourceHandle);
    }
  }
  if (error == cudaSuccess) {
    *milliseconds = std::chrono::duration<float, std::milli>(end->time - start->time).count();
  }
  return error;
}
