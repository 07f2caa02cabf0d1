// Memory, copies, streams and random numbers of the CUDA backend.
#include "lockstep/engine/backend.h"

#include <limits>
#include <thread>

#include <gtest/gtest.h>

#include "lockstep/engine/autograd/autocast.h"
#include "lockstep/engine/device_clock.h"
#include "lockstep/engine/ops/ops.h"
#include "lockstep/engine/plugin.h"
#include "lockstep/engine/sync_debug.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/engine/tensor/memory.h"
#include "lockstep/engine/tensor/random.h"
#include "lockstep/engine/transfer.h"
#include "lockstep/optim/adam.h"
#include "lockstep/optim/clip.h"
#include "lockstep/optim/grad_scaler.h"
#include "lockstep/optim/sgd.h"

#include "errors.h"

namespace lockstep {
namespace {

const Device kCuda{DeviceType::kCuda, 0};

TEST(CudaBackend, ThereIsADevice) {
  ASSERT_GT(cuda_status().devices, 0) << cuda_status().why;
  EXPECT_EQ(backend_of(kCuda).device(), kCuda);
}

TEST(CudaBackend, IndexBeyondTheLastDeviceIsAnError) {
  const auto index = static_cast<int16_t>(cuda_status().devices);
  const std::string text = text_of_error([&] {
    zeros({1}, {.device = {DeviceType::kCuda, index}});
  });
  EXPECT_NE(text.find("is unavailable: there "), std::string::npos) << text;
  EXPECT_NE(text.find("cuda:0"), std::string::npos) << text;
}

TEST(CudaBackend, CopiesThereAndBackUnchanged) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kBFloat16, DType::kFloat16,
                            DType::kInt64, DType::kInt32, DType::kUInt8, DType::kBool}) {
    for (const int64_t n : {0, 1, 7, 1000}) {
      const Tensor x = arange(0, static_cast<double>(n), 1).to(dtype);
      const Tensor y = x.to(kCuda);
      EXPECT_EQ(y.device(), kCuda);
      EXPECT_EQ(y.dtype(), dtype);
      EXPECT_EQ(y.to(Device{}).to_vector(), x.to_vector()) << name_of(dtype) << " " << n;
    }
  }
}

TEST(CudaBackend, ConvertsAsTheCpuDoes) {
  const double big = 1e30, inf = std::numeric_limits<double>::infinity();
  const Tensor values = tensor({0.0, -0.0, 1.5, -2.5, 3.0e-8, 65504.0, 65519.0, 65520.0, big, -inf,
                                std::numeric_limits<double>::quiet_NaN()});
  for (const DType from : {DType::kFloat32, DType::kFloat64, DType::kBFloat16, DType::kFloat16}) {
    for (const DType to :
         {DType::kFloat32, DType::kFloat64, DType::kBFloat16, DType::kFloat16, DType::kBool}) {
      const Tensor x = values.to(from);
      const auto expected = x.to(to).to_vector(), got = x.to(kCuda).to(to).to_vector();
      ASSERT_EQ(got.size(), expected.size());
      for (size_t i = 0; i < got.size(); ++i) {
        EXPECT_TRUE(got[i] == expected[i] || (std::isnan(got[i]) && std::isnan(expected[i])))
            << name_of(from) << " to " << name_of(to) << ": " << got[i] << ", not " << expected[i];
      }
    }
  }
}

TEST(CudaBackend, StridedCopiesAndFills) {
  const Tensor x = arange(0, 2 * 3 * 5 * 4, 1).view({2, 3, 5, 4});
  const Tensor y = x.to(kCuda);
  EXPECT_EQ(y.permute({3, 1, 0, 2}).contiguous().to_vector(),
            x.permute({3, 1, 0, 2}).contiguous().to_vector());
  EXPECT_EQ(y.slice(2, 1, 5, 2).contiguous().to_vector(),
            x.slice(2, 1, 5, 2).contiguous().to_vector());
  for (const Tensor& t : {x, y}) t.transpose(0, 3).slice(0, 1, 4, 2).fill_(-1);
  EXPECT_EQ(y.to_vector(), x.to_vector());
}

TEST(CudaBackend, RandomNumbersAreTheCpus) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
    for (const int64_t n : {1, 5, 4097}) {
      manual_seed(11);
      const auto uniform = rand({n}, {dtype}).to_vector();
      const auto normal = randn({n}, {dtype}).to_vector();
      manual_seed(11);
      const auto cuda_uniform = rand({n}, {dtype, kCuda}).to_vector();
      const auto cuda_normal = randn({n}, {dtype, kCuda}).to_vector();
      EXPECT_EQ(cuda_uniform, uniform);
      const double ulp = dtype == DType::kFloat32 ? 1.2e-7 : 4e-15;
      for (size_t i = 0; i < normal.size(); ++i) {
        EXPECT_NEAR(cuda_normal[i], normal[i], ulp * std::max(1.0, std::fabs(normal[i])));
      }
    }
  }
}

TEST(CudaBackend, TensorsOfTwoDevicesAreAnError) {
  const Tensor here = ones({2, 2}), there = here.to(kCuda), at = tensor({0, 1});
  const std::vector<std::function<void()>> uses = {
      [&] { add(here, there); },
      [&] { there.mul_(here); },
      [&] { matmul(there, here); },
      [&] {
        cat({here, there});
      },
      [&] { index_select(there, 0, at); },
      [&] {
        gather(here, 0, zeros({1, 2}, {DType::kInt64, kCuda}));
      },
      [&] {
        conv2d(there.view({1, 1, 2, 2}), ones({1, 1, 1, 1}));
      },
      [&] { log_softmax(where(gt(there, 0), here, here), 0); },
      [&] { embedding(at.to(kCuda), here); },
  };
  for (size_t i = 0; i < uses.size(); ++i) {
    const std::string text = text_of_error(uses[i]);
    EXPECT_NE(text.find("Expected all tensors to be on the same device, but found at least two "
                        "devices, c"),
              std::string::npos)
        << i << ": " << text;
  }
  // Indices may stay on the CPU; and what they index there needs them there.
  EXPECT_EQ(there.index({at, at}).to_vector(), (std::vector<double>{1, 1}));
  EXPECT_NE(text_of_error([&] {
              here.index({at.to(kCuda)});
            }).find("indices should be either on cpu or on the same device"),
            std::string::npos);
}

TEST(CudaBackend, NumbersOfTheCpuMayTakePart) {
  const Tensor x = tensor({1.0, 2.0}).to(kCuda);
  const Tensor two = tensor(2.0);
  for (const Tensor& y : {x * two, two * x}) {
    EXPECT_EQ(y.device(), kCuda);
    EXPECT_EQ(y.to_vector(), (std::vector<double>{2, 4}));
  }
}

TEST(CudaBackend, GradientsGoWhereTheirTensorsAre) {
  const Tensor number = tensor(2.0);
  number.requires_grad_();
  const Tensor x = ones({3}, {DType::kFloat32, kCuda});
  x.requires_grad_();
  (number * x).sum().backward();
  EXPECT_EQ(number.grad().device(), Device{});
  EXPECT_EQ(number.grad().item(), 3);
  EXPECT_EQ(x.grad().device(), kCuda);
  const Tensor y = x * 2.0;
  EXPECT_NE(text_of_error([&] { y.backward(ones({3})); }).find("same device"), std::string::npos);
  EXPECT_NE(text_of_error([&] { tensor(1.0).add_(tensor(2.0).to(kCuda)); }).find("same device"),
            std::string::npos);
}

TEST(CudaBackend, OptimizersFollowTheirModel) {
  for (const bool clip : {false, true}) {
    std::vector<std::vector<double>> results;
    for (const bool moves : {false, true}) {
      const Tensor w = tensor({1.0, -2.0, 3.0});
      w.requires_grad_();
      optim::Adam adam({w}, {.lr = 0.1});
      for (int step = 0; step < 4; ++step) {
        if (moves && step == 2) w.set_data(w.detach().to(kCuda));
        adam.zero_grad();
        (w * w).sum().backward();
        if (clip) optim::clip_grad_norm_({w}, 1.0);
        adam.step();
      }
      results.push_back(w.to_vector());
    }
    for (size_t i = 0; i < 3; ++i) EXPECT_NEAR(results[1][i], results[0][i], 1e-6);
  }
  const Tensor here = ones({2}), there = ones({2}, {DType::kFloat32, kCuda});
  for (const Tensor& t : {here, there}) {
    t.requires_grad_();
    (t * 3.0).sum().backward();
  }
  EXPECT_NEAR(optim::clip_grad_norm_({here, there}, 100.0), 6.0, 1e-6);
  optim::SGD sgd({here, there}, {.lr = 0.1});
  EXPECT_NE(text_of_error([&] { sgd.step(); }).find("same device"), std::string::npos);
}

TEST(CudaBackend, CountsMemory) {
  const size_t before = memory_allocated(kCuda);
  reset_peak_memory(kCuda);
  {
    const Tensor x = empty({1000}, {DType::kFloat32, kCuda});
    EXPECT_EQ(memory_allocated(kCuda), before + 4000);
    const Tensor y = empty({500}, {DType::kFloat64, kCuda});
    EXPECT_EQ(memory_allocated(kCuda), before + 8000);
  }
  EXPECT_EQ(memory_allocated(kCuda), before);
  EXPECT_EQ(max_memory_allocated(kCuda), before + 8000);
}

TEST(CudaBackend, OutOfMemorySaysWhoHoldsWhatAndLosesNothing) {
  const Tensor kept = ones({1000}, {DType::kFloat32, kCuda});
  const size_t before = memory_allocated(kCuda);
  const std::string text = text_of_error([] { empty({int64_t{1} << 44}, {DType::kUInt8, kCuda}); });
  for (const char* part : {"out of memory on cuda:0", "16384.00 GiB asked for", "free"}) {
    EXPECT_NE(text.find(part), std::string::npos) << text;
  }
  EXPECT_EQ(memory_allocated(kCuda), before);
  EXPECT_EQ(kept.sum().item(), 1000);
}

TEST(CudaBackend, PinnedMemoryMovesWithoutWaiting) {
  Transfers& transfers = *transfers_of(kCuda);
  EXPECT_EQ(transfers_of(Device{}), nullptr);
  const Tensor x = arange(0, 1000, 1, {DType::kFloat32}).to(kCuda), y = zeros_like(x);
  const size_t bytes = 1000 * sizeof(float);
  const PinnedMemory there(transfers, bytes), back(transfers, bytes);
  auto* const values = static_cast<float*>(there.data());
  // From the compute stream to the host beside it, and back.
  x.mul_(2.0);
  transfers.wait_for(transfers.record_event(Lane::kCompute), Lane::kCopies);
  transfers.copy_to_pinned(values, x.data_ptr(), bytes, Lane::kCopies);
  transfers.record_event(Lane::kCopies)->wait_on_host();
  EXPECT_EQ(values[999], 1998.0f);
  for (int i = 0; i < 1000; ++i) values[i] = static_cast<float>(i);
  transfers.copy_from_pinned(y.data_ptr(), values, bytes, Lane::kCopies);
  transfers.wait_for(transfers.record_event(Lane::kCopies), Lane::kCompute);
  y.add_(1.0);
  transfers.copy_to_pinned(back.data(), y.data_ptr(), bytes, Lane::kCompute);
  transfers.record_event(Lane::kCompute)->wait_on_host();
  EXPECT_EQ(static_cast<const float*>(back.data())[999], 1000.0f);
}

TEST(CudaBackend, PinnedMemoryIsReusedOnceItsCopiesAreDone) {
  Transfers& transfers = *transfers_of(kCuda);
  const Tensor x = zeros({1000}, {DType::kFloat32, kCuda});
  const auto use = [&](float value) {
    const PinnedMemory memory(transfers, 4000);
    auto* const values = static_cast<float*>(memory.data());
    std::fill(values, values + 1000, value);
    transfers.copy_from_pinned(x.data_ptr(), values, 4000, Lane::kCopies);
    return memory.data();
  };
  const Tensor sums = zeros({1000}, {DType::kFloat32, kCuda});
  void* last = nullptr;
  for (int i = 1; i <= 4; ++i) {
    transfers.wait_for(transfers.record_event(Lane::kCompute), Lane::kCopies);
    last = use(static_cast<float>(i));
    transfers.wait_for(transfers.record_event(Lane::kCopies), Lane::kCompute);
    sums.add_(x);
  }
  EXPECT_EQ(sums.to_vector(), std::vector<double>(1000, 10.0));
  backend_of(kCuda).synchronize();
  bool reused = false;  // what is given back goes to the end of the queue
  for (int i = 0; i < 8; ++i) {
    reused = reused || use(0) == last;
    backend_of(kCuda).synchronize();
  }
  EXPECT_TRUE(reused);
}

// Indices and targets that came from the host are checked there; after they have been written to,
// on the device. Nobody waits.
TEST(CudaBackend, IndicesFromTheHostAreKnownThere) {
  const auto losses = [](Device device) {
    const Tensor table = arange(0, 12, 1, {DType::kFloat32}).view({4, 3}).to(device);
    const Tensor ids = tensor({3, 0, 2, 2, 1, 0}).to(DType::kInt64).view({2, 3}).to(device);
    const Tensor targets = tensor({2, 0, 1}).to(DType::kInt64).to(device);
    table.requires_grad_();
    const bool watched = !device.is_cpu();
    if (watched) cuda::set_sync_debug_mode("error");
    const Tensor loss = cross_entropy(embedding(ids.select(0, 1), table), targets) +
                        sum(gather(table, 1, targets.view({3, 1})));
    loss.backward();
    cuda::set_sync_debug_mode("default");
    auto values = table.grad().to_vector();
    values.push_back(loss.item());
    return values;
  };
  const auto expected = losses({}), got = losses(kCuda);
  for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], expected[i], 1e-5) << i;

  const Tensor x = ones({4}, {DType::kFloat32, kCuda});
  const Tensor host = tensor({3, 1}).to(DType::kInt64), index = host.to(kCuda);
  host.fill_(7);  // the device has its own
  EXPECT_EQ(index_select(x, 0, index).to_vector(), std::vector<double>(2, 1.0));
  index.add_(1);
  cuda::set_sync_debug_mode("error");
  const Tensor selected = index_select(x, 0, index);
  cuda::set_sync_debug_mode("default");
  const std::string text = text_of_error([&] { selected.to_vector(); });
  EXPECT_NE(text.find("index out of range in self: 4 for dimension 0 with size 4"),
            std::string::npos)
      << text;
  // Memory that is used again holds what came last.
  for (int i = 0; i < 200; ++i) {
    const Tensor next = tensor({i % 4}).to(DType::kInt64).to(kCuda);
    EXPECT_EQ(index_select(x.cumsum(0), 0, next).item(), i % 4 + 1);
  }
}

TEST(CudaBackend, ASyncDebugModeFindsWhatWaits) {
  const Tensor x = ones({2}, {DType::kFloat32, kCuda}), one = sum(x);
  x.set_grad(ones({2}, {DType::kFloat32, kCuda}));
  EXPECT_EQ(cuda::get_sync_debug_mode(), cuda::SyncDebugMode::kDefault);
  EXPECT_NE(text_of_error([] { cuda::set_sync_debug_mode("throw"); }).find("got 'throw'"),
            std::string::npos);
  cuda::set_sync_debug_mode("error");
  const std::pair<const char*, std::function<void()>> waiting[] = {
      {"item()", [&] { one.item(); }},
      {"to_vector()", [&] { x.to_vector(); }},
      {"to(cpu)", [&] { x.to(Device{}); }},
      {"synchronize()", [&] { backend_of(kCuda).synchronize(); }},
      {"wait_on_host()", [&] { backend_of(kCuda).record_event()->wait_on_host(); }},
      {"norm of gradients", [&] { optim::clip_grad_norm_({x}, 1.0); }}};
  for (const auto& [name, run] : waiting) {
    const std::string text = text_of_error(run);
    EXPECT_NE(text.find("synchronizing CUDA operation"), std::string::npos) << text;
    EXPECT_NE(text.find(name), std::string::npos) << text;
    const SyncAllowed allowed;
    EXPECT_EQ(text_of_error(run), "no error");
  }
  EXPECT_EQ(x.str(), "tensor([1., 1.], device='cuda:0')");
  EXPECT_EQ(text_of_error([&] { matmul(x, x.to(DType::kFloat64).to(DType::kFloat32)); }),
            "no error");
  cuda::set_sync_debug_mode("warn");
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(one.item(), 2.0);
  const std::string text = ::testing::internal::GetCapturedStderr();
  cuda::set_sync_debug_mode("default");
  EXPECT_NE(text.find("item() waits"), std::string::npos) << text;
}

// Products, norms and losses under autocast, and a scaled step that overflows, as on the CPU.
TEST(CudaBackend, MixedPrecisionStep) {
  struct Result {
    std::vector<double> loss, weight, gradient;
  };
  for (const DType low : {DType::kBFloat16, DType::kFloat16}) {
    const auto train = [&](Device device) {
      manual_seed(4);
      const Tensor x = randn({8, 6}).to(device), y = argmax(randn({8, 3}), 1).to(device);
      const Tensor w = randn({3, 6}).to(device).detach().requires_grad_();
      optim::SGD sgd(std::vector<Tensor>{w}, {.lr = 0.5});
      optim::GradScaler scaler;
      Result result;
      for (const double factor : {1.0, 1e36, 1.0}) {
        sgd.zero_grad();
        Tensor loss;
        {
          const autograd::Autocast scope(low);
          const Tensor logits = linear(dropout(x, 0.3, true), w);
          EXPECT_EQ(logits.dtype(), low);
          loss = cross_entropy(layer_norm(logits, {3}), y);
          EXPECT_EQ(loss.dtype(), DType::kFloat32);
        }
        scaler.scale(loss * factor).backward();
        EXPECT_EQ(w.grad().dtype(), DType::kFloat32);
        EXPECT_EQ(scaler.step(sgd), factor == 1.0);
        scaler.update();
        result.loss.push_back(loss.item());
      }
      EXPECT_EQ(scaler.get_scale(), 32768.0);
      result.weight = w.detach().to(Device{}).to_vector();
      result.gradient = w.grad().to(Device{}).to_vector();
      return result;
    };
    const Result cpu = train(Device{}), cuda = train(kCuda);
    const double tolerance = low == DType::kBFloat16 ? 2e-2 : 2e-3;
    for (size_t i = 0; i < cpu.loss.size(); ++i) {
      EXPECT_NEAR(cuda.loss[i], cpu.loss[i], tolerance) << i;
    }
    for (size_t i = 0; i < cpu.weight.size(); ++i) {
      EXPECT_NEAR(cuda.weight[i], cpu.weight[i], tolerance) << i;
      EXPECT_NEAR(cuda.gradient[i], cpu.gradient[i], tolerance) << i;
    }
  }
}

TEST(CudaBackend, KnowsWhenWorkWasDone) {
  Transfers& transfers = *transfers_of(kCuda);
  const auto before = transfers.record_timed_event();
  const Tensor x = ones({64}, {DType::kFloat32, kCuda});
  const auto begin = DeviceClock::Clock::now();
  const auto after = transfers.record_timed_event();
  backend_of(kCuda).synchronize();
  const auto first = transfers.time_of(before), last = transfers.time_of(after);
  ASSERT_TRUE(first && last);
  EXPECT_LE(*first, *last);
  constexpr auto kSlack = std::chrono::milliseconds(5);  // of one clock to the other
  EXPECT_GE(*last, begin - kSlack);
  EXPECT_LE(*last, DeviceClock::Clock::now() + kSlack);
}

// A moment, in seconds of a device whose clock began long before the host's.
struct FakeEvent final : CommEvent {
  double at;
  bool done;
  explicit FakeEvent(double at, bool done = true) : at(at), done(done) {}
  void wait_on_host() override {}
  bool is_done() const override { return done; }
  double seconds_since(const CommEvent& earlier) const override {
    // As coarse as CUDA's, which counts milliseconds in float.
    const double milliseconds = 1e3 * (at - dynamic_cast<const FakeEvent&>(earlier).at);
    return 1e-3 * static_cast<double>(static_cast<float>(milliseconds));
  }
};

TEST(DeviceClock, StaysExactForHours) {
  DeviceClock clock;
  EXPECT_FALSE(clock.time_of(std::make_shared<FakeEvent>(5)));
  clock.start(std::make_shared<FakeEvent>(1000));
  const auto start = *clock.time_of(std::make_shared<FakeEvent>(1000));
  EXPECT_FALSE(clock.time_of(std::make_shared<FakeEvent>(1001, false)));
  for (int step = 1; step <= 20'000; ++step) {
    const double seconds = 1.2345678 * step;
    const auto time = *clock.time_of(std::make_shared<FakeEvent>(1000 + seconds));
    EXPECT_NEAR(std::chrono::duration<double>(time - start).count(), seconds, 1e-3) << step;
    if (HasFailure()) return;
  }
}

TEST(CudaBackend, EventsOrderAndThreadsShareTheDevice) {
  Backend& backend = backend_of(kCuda);
  const Tensor x = ones({64}, {DType::kFloat32, kCuda});
  const auto event = backend.record_event();
  backend.wait_for(event);
  backend.wait_for(backend_of(Device{}).record_event());  // the CPU's work is done already
  event->wait_on_host();
  double other = 0;
  std::thread([&] { other = (x + 1.0).sum().item(); }).join();
  EXPECT_EQ(other, 128);
}

}  // namespace
}  // namespace lockstep
