// Indices and targets that were computed on the device: nobody waits for them, and wrong ones are
// found there. AddressSanitizer, where it is on, sees what a kernel reads or writes beyond them.
#include "lockstep/engine/index_checks.h"

#include <functional>

#include "lockstep/engine/ops/ops.h"
#include "lockstep/engine/sync_debug.h"
#include "lockstep/nn/nn.h"

#include "compare.h"

namespace lockstep::testing {
namespace {

using Values = std::vector<double>;
using CudaIndexChecks = CudaTest;

struct Watched {
  Watched() { cuda::set_sync_debug_mode("error"); }
  ~Watched() { cuda::set_sync_debug_mode("default"); }
  Watched(const Watched&) = delete;
  Watched& operator=(const Watched&) = delete;
};

Tensor indices(const std::vector<int64_t>& values, const Dims& sizes) {
  return from_span<int64_t>(values, sizes);
}
// On the device, where the host does not know them.
Tensor computed(const Tensor& index) { return index.to(kGpu) + 0; }

std::string text_of_error(const std::function<void()>& body) {
  try {
    body();
  } catch (const IndexError& error) {
    return error.what();
  }
  return "";
}

// An op of x and indices, both (4, 3) or flat as it likes, its result and gradient.
struct Case {
  const char* op;
  std::function<Tensor(const Tensor& x, const Tensor& index)> run;
  Dims x, index;
};

std::vector<Case> cases() {
  const auto with = [](Reduction reduction, int64_t ignored) {
    return ClassLossOptions{.ignore_index = ignored, .reduction = reduction};
  };
  return {
      {"embedding", [](auto& x, auto& i) { return embedding(i, x); }, {5, 6}, {2, 2}},
      {"index_select", [](auto& x, auto& i) { return index_select(x, 1, i); }, {3, 5}, {4}},
      {"gather", [](auto& x, auto& i) { return gather(x, 1, i); }, {2, 5}, {2, 3}},
      {"scatter_add",
       [](auto& x, auto& i) {
         return scatter_add(zeros({2, 5}, {x.dtype(), x.device()}), 1, i, x);
       },
       {2, 3},
       {2, 3}},
      {"index_add_",
       [](auto& x, auto& i) {
         return index_add(zeros({5, 3}, {x.dtype(), x.device()}), 0, i, x);
       },
       {4, 3},
       {4}},
      // Long lines, which are sorted.
      {"index_add_",
       [](auto& x, auto& i) {
         return index_add(zeros({5}, {x.dtype(), x.device()}), 0, i.repeat({100}), x);
       },
       {400},
       {4}},
      {"index",
       [](auto& x, auto& i) {
         return index(x, {Tensor(), i});
       },
       {2, 5},
       {3}},
      {"index",
       [](auto& x, auto& i) {
         return index(x, {i.narrow(0, 0, 3) * 0, i});
       },
       {2, 5},
       {3}},
      {"cross_entropy", [](auto& x, auto& i) { return cross_entropy(x, i); }, {4, 5}, {4}},
      {"cross_entropy",
       [=](auto& x, auto& i) { return cross_entropy(x, i, with(Reduction::kNone, 1)); },
       {4, 5},
       {4}},
      {"cross_entropy",
       [](auto& x, auto& i) {
         const Tensor weight = full({5}, 0.5, {x.dtype(), x.device()});
         return cross_entropy(x, i, {.weight = weight, .ignore_index = 1});
       },
       {4, 5},
       {4}},
      {"cross_entropy",
       [](auto& x, auto& i) { return cross_entropy(x, i, {.label_smoothing = 0.25}); },
       {4, 5},
       {4}},
      {"nll_loss",
       [=](auto& x, auto& i) { return nll_loss(x, i, with(Reduction::kMean, 1)); },
       {4, 5},
       {4}},
      {"nll_loss",
       [=](auto& x, auto& i) { return nll_loss(x, i, with(Reduction::kSum, -100)); },
       {4, 5},
       {4}},
  };
}

std::pair<Tensor, Tensor> result_and_gradient(const Case& one, const Tensor& x,
                                              const Tensor& index) {
  const Tensor leaf = x.detach().clone();
  leaf.requires_grad_();
  const Tensor y = one.run(leaf, index);
  (y * 3.0).sum().backward();
  return {y.detach(), leaf.grad()};
}

// Nothing is a row of an empty table.
TEST_F(CudaIndexChecks, EmptyTablesAreNotFollowed) {
  const Tensor table = zeros({0, 3}, {.device = kGpu});
  for (const bool select : {true, false}) {
    const Tensor index = computed(indices({0, 0}, {2}));
    Tensor y;
    const std::string text = text_of_error([&] {
      y = select ? index_select(table, 0, index) : embedding(index, table);
      backend_of(kGpu).synchronize();
    });
    EXPECT_NE(text, "") << select;
    if (!y.defined()) continue;
    for (const double value : y.to_vector()) EXPECT_TRUE(std::isnan(value)) << select;
  }
}

TEST_F(CudaIndexChecks, NobodyWaitsForGoodOnes) {
  for (const Case& one : cases()) {
    for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
      const Tensor x = values_of(one.x, dtype, 3);
      const Tensor index = places_of(one.index, one.x == Dims{2, 3} ? 5 : 4, 8);
      const auto [y, gx] = result_and_gradient(one, x, index);
      std::pair<Tensor, Tensor> got;
      {
        const Watched watched;
        got = result_and_gradient(one, x.to(kGpu), computed(index));
      }
      const auto near = [&](const Tensor& there, const Tensor& here) {
        const Values a = there.to_vector(), b = here.to_vector();
        ASSERT_EQ(a.size(), b.size()) << one.op;
        for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-6) << one.op << " " << i;
      };
      near(got.first, y);
      near(got.second, gx);
    }
  }
}

TEST_F(CudaIndexChecks, WrongOnesAreFoundByWhoeverWaits) {
  for (const Case& one : cases()) {
    const bool flat = std::string(one.op) == "index_add_" && one.x.size() == 1;
    for (const int64_t wrong : {int64_t{5}, int64_t{-7}, int64_t{1} << 40, INT64_MIN}) {
      const std::string what = std::string(one.op) + " of " + std::to_string(wrong);
      const Tensor x = values_of(one.x, DType::kFloat32, 3).to(kGpu);
      std::vector<int64_t> places(static_cast<size_t>(one.index.product()), 2);
      places.back() = wrong;
      std::pair<Tensor, Tensor> got;
      {
        const Watched watched;
        got = result_and_gradient(one, x, computed(indices(places, one.index)));
      }
      const std::string text = text_of_error([&] { backend_of(kGpu).synchronize(); });
      const std::string number = std::to_string(places.size() - 1);
      EXPECT_EQ(text.find("[" + std::string(one.op) + "] "), 0u) << what << ": " << text;
      EXPECT_NE(text.find(std::to_string(wrong)), std::string::npos) << what << ": " << text;
      EXPECT_NE(text.find(flat ? "number " : "number " + number), std::string::npos) << text;
      // Once, and the device goes on. What came of it is NaN; what did not is not.
      double y = 0, gx = 0;
      EXPECT_EQ(text_of_error([&] { y = got.first.sum().item(); }), "") << what;
      EXPECT_TRUE(std::isnan(y)) << what << ": " << y;
      EXPECT_EQ(text_of_error([&] { gx = got.second.sum().item(); }), "");
      const bool reads =
          std::string(one.op) == "cross_entropy" || std::string(one.op) == "nll_loss";
      EXPECT_TRUE(std::isnan(gx) || !reads) << what << ": " << gx;
    }
  }
}

TEST_F(CudaIndexChecks, TheFirstIsNamedAndACopyThrowsIt) {
  const Tensor x = values_of({4, 5}, DType::kFloat32, 3).to(kGpu);
  const Tensor loss = cross_entropy(x, computed(indices({1, 2, 3, 17}, {4})));
  const Tensor row = embedding(computed(indices({8}, {1})), x);
  const std::string text = text_of_error([&] { loss.item(); });
  EXPECT_EQ(text.find("[cross_entropy] Target 17 is out of bounds. (number 3 of"), 0u) << text;
  EXPECT_TRUE(std::isnan(loss.item()));
  EXPECT_EQ(text_of_error([&] { embedding(computed(indices({4}, {1})), x).sum().item(); }),
            "[embedding] index out of range in self: 4 for dimension 0 with size 4 (number 0 of "
            "the indices, which were computed on the GPU and checked there, after the call; its "
            "results are NaN)");
  // Rows that are right are what they were.
  const Tensor some = index_select(x, 0, computed(indices({3, 9, 0}, {3})));
  EXPECT_NE(text_of_error([&] { some.to(Device{}); }), "");
  EXPECT_EQ(some.select(0, 0).to_vector(), x.select(0, 3).to_vector());
  EXPECT_EQ(some.select(0, 2).to_vector(), x.select(0, 0).to_vector());
  for (const double value : some.select(0, 1).to_vector()) EXPECT_TRUE(std::isnan(value));
  // Of integers -1 comes.
  const Tensor whole = gather(arange(5).to(kGpu), 0, computed(indices({3, 5}, {2})));
  EXPECT_NE(text_of_error([&] { whole.to_vector(); }), "");
  EXPECT_EQ(whole.to_vector(), (Values{3, -1}));
}

// What the host knows it checks at once, with PyTorch's text, on every device.
TEST_F(CudaIndexChecks, TheHostChecksWhatItKnows) {
  for (const Device device : {Device{}, kGpu}) {
    const Tensor x = values_of({4, 5}, DType::kFloat32, 3).to(device);
    EXPECT_EQ(text_of_error([&] {
                cross_entropy(x, indices({0, 1, 2, 5}, {4}).to(device));
              }),
              "Target 5 is out of bounds.");
    EXPECT_EQ(text_of_error([&] {
                gather(x, 1, indices({-1}, {1, 1}).to(device));
              }),
              "index -1 is out of bounds for dimension 1 with size 5");
  }
}

}  // namespace
}  // namespace lockstep::testing
