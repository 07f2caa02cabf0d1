// Gradients that live in somebody's flat memory.
#include "lockstep/engine/autograd/gradient_slot.h"

#include <gtest/gtest.h>

#include "lockstep/engine/autograd/backward.h"
#include "lockstep/engine/ops/ops.h"

#include "engine/throws.h"

namespace lockstep::testing {
namespace {

using autograd::GradientSlot;
using State = GradientSlot::State;
using Values = std::vector<double>;

// A leaf with its slot in the middle of a buffer of 99s.
struct Fixture {
  Tensor buffer, leaf;
  std::shared_ptr<GradientSlot> slot = std::make_shared<GradientSlot>();
  int reopened = 0;

  explicit Fixture(const Dims& sizes) {
    const int64_t n = sizes.product();
    buffer = full({n + 4}, 99.0);
    leaf = rand(sizes, {.requires_grad = true});
    slot->view = buffer.narrow(0, 2, n).view(sizes);
    slot->reopen = [this] {
      ++reopened;
      slot->state = State::kEmpty;
    };
    autograd::set_gradient_slot(leaf, slot);
  }
  bool fence_intact() const {
    const auto v = buffer.to_vector();
    return v[0] == 99 && v[1] == 99 && v[v.size() - 1] == 99 && v[v.size() - 2] == 99;
  }
  Values in_buffer() const { return slot->view.to_vector(); }
};

TEST(GradientSlot, StoresThenAdds) {
  Fixture f({3});
  EXPECT_EQ(autograd::gradient_slot(f.leaf), f.slot);
  EXPECT_FALSE(f.leaf.grad().defined()) << "empty, whatever the memory holds";
  (f.leaf * 2).sum().backward();
  EXPECT_EQ(f.slot->state, State::kAccumulating);
  EXPECT_EQ(f.in_buffer(), (Values{2, 2, 2})) << "stored, not added to what was there";
  EXPECT_EQ(f.leaf.grad().data_ptr(), f.slot->view.data_ptr());
  (f.leaf * 3).sum().backward();
  EXPECT_EQ(f.in_buffer(), (Values{5, 5, 5}));
  f.leaf.set_grad(Tensor());
  EXPECT_EQ(f.slot->state, State::kEmpty);
  EXPECT_FALSE(f.leaf.grad().defined());
  (f.leaf * 4).sum().backward();
  EXPECT_EQ(f.in_buffer(), (Values{4, 4, 4}));
  f.leaf.set_grad(tensor({7.0, 8.0, 9.0}));
  EXPECT_EQ(f.in_buffer(), (Values{7, 8, 9}));
  EXPECT_TRUE(f.fence_intact());
}

TEST(GradientSlot, AReducedSlotIsReopenedFirst) {
  Fixture f({2});
  f.leaf.sum().backward();
  f.slot->state = State::kReduced;
  EXPECT_TRUE(f.leaf.grad().defined());
  (f.leaf * 6).sum().backward();
  EXPECT_EQ(f.reopened, 1);
  EXPECT_EQ(f.in_buffer(), (Values{6, 6})) << "reopening left the slot empty";
  EXPECT_EQ(f.slot->state, State::kAccumulating);
  (f.leaf * 1).sum().backward();
  EXPECT_EQ(f.reopened, 1);
  EXPECT_EQ(f.in_buffer(), (Values{7, 7}));
}

TEST(GradientSlot, HooksSeeAndReplace) {
  Fixture f({2});
  Values total;
  const auto hook = f.leaf.register_hook([](const Tensor& g) { return g * 10; });
  const auto post = f.leaf.register_post_accumulate_grad_hook(
      [&](const Tensor& leaf) { total = leaf.grad().to_vector(); });
  f.leaf.sum().backward();
  EXPECT_EQ(total, (Values{10, 10}));
  EXPECT_EQ(f.in_buffer(), (Values{10, 10}));
}

TEST(GradientSlot, CreateGraphIsRefused) {
  Fixture f({2});
  EXPECT_ERROR(square(f.leaf).sum().backward({}, false, true),
               "[backward] create_graph=true cannot accumulate into a bucket of a data-parallel "
               "model; use autograd::grad(), which returns the gradients");
  const auto g = autograd::grad(square(f.leaf).sum(), {f.leaf}, {.create_graph = true});
  EXPECT_TRUE(g[0].requires_grad());
  EXPECT_EQ(f.slot->state, State::kEmpty);
}

TEST(GradientSlot, SettingAndClearing) {
  Fixture f({2});
  autograd::clear_gradient_slot(f.leaf);
  EXPECT_FALSE(autograd::gradient_slot(f.leaf));
  f.leaf.sum().backward();
  EXPECT_EQ(f.in_buffer(), (Values{99, 99}));
  EXPECT_EQ(f.leaf.grad().to_vector(), (Values{1, 1}));
  autograd::set_gradient_slot(f.leaf, f.slot);
  EXPECT_FALSE(f.leaf.grad().defined());
  EXPECT_THROW(autograd::set_gradient_slot(tensor(1.0), f.slot), ValueError);
  EXPECT_THROW(autograd::set_gradient_slot(rand({3}, {.requires_grad = true}), f.slot), ValueError);
  EXPECT_THROW(autograd::set_gradient_slot(f.leaf * 1, f.slot), ValueError);
}

// The layers' backward writes straight into the slots. What it writes must be what it would have
// returned, and each of these graphs must give it the chance exactly when it is safe.
TEST(GradientSlot, LayersWriteInPlace) {
  Fixture weight({4, 3}), bias({4}), kernel({2, 1, 2, 2}), kernel_bias({2});
  const Tensor x = rand({5, 3}), image = rand({2, 1, 4, 4});
  const auto loss = [&](const Tensor& w, const Tensor& b, const Tensor& k, const Tensor& kb) {
    return square(linear(x, w, b)).sum() + square(conv2d(image, k, kb)).sum();
  };
  std::vector<Tensor> plain;
  for (const Fixture* f : {&weight, &bias, &kernel, &kernel_bias}) {
    plain.push_back(f->leaf.detach().clone());
    plain.back().requires_grad_();
  }
  loss(plain[0], plain[1], plain[2], plain[3]).backward();
  const auto run = [&] { loss(weight.leaf, bias.leaf, kernel.leaf, kernel_bias.leaf).backward(); };
  run();
  size_t i = 0;
  for (const Fixture* f : {&weight, &bias, &kernel, &kernel_bias}) {
    EXPECT_EQ(f->in_buffer(), plain[i].grad().to_vector());
    EXPECT_TRUE(f->fence_intact());
    ++i;
  }
  run();  // the second micro-batch is added
  loss(plain[0], plain[1], plain[2], plain[3]).backward();
  i = 0;
  for (const Fixture* f : {&weight, &bias, &kernel, &kernel_bias}) {
    EXPECT_EQ(f->in_buffer(), plain[i].grad().to_vector());
    ++i;
  }
}

TEST(GradientSlot, TwoUsesInOneGraph) {
  Fixture f({3, 3});
  const Tensor x = rand({2, 3});
  const Tensor plain = f.leaf.detach().clone().requires_grad_();
  const auto loss = [&](const Tensor& w) { return square(mm(mm(x, w), w)).sum(); };
  loss(f.leaf).backward();
  loss(plain).backward();
  EXPECT_EQ(f.in_buffer(), plain.grad().to_vector());
}

TEST(GradientSlot, ALeafThatIsAlsoARoot) {
  Fixture f({2, 2});
  const Tensor x = ones({1, 2});
  const Tensor roots[] = {f.leaf, mm(x, f.leaf)};
  const Tensor gradients[] = {full({2, 2}, 10.0), ones({1, 2})};
  autograd::backward(roots, gradients);
  EXPECT_EQ(f.in_buffer(), (Values{11, 11, 11, 11}));
}

// grad() returns gradients that belong to the caller; they must not lie in the bucket.
TEST(GradientSlot, GradDoesNotTouchIt) {
  Fixture f({2, 3}), k({1, 1, 2, 2});
  const Tensor x = ones({1, 2});
  const auto g = autograd::grad(mm(x, f.leaf).sum(), {f.leaf});
  EXPECT_NE(g[0].data_ptr(), f.slot->view.data_ptr());
  EXPECT_EQ(f.in_buffer(), (Values{99, 99, 99, 99, 99, 99}));
  EXPECT_EQ(f.slot->state, State::kEmpty);
  const auto gk = autograd::grad(conv2d(ones({1, 1, 3, 3}), k.leaf).sum(), {k.leaf});
  EXPECT_NE(gk[0].data_ptr(), k.slot->view.data_ptr());
  EXPECT_EQ(k.in_buffer(), (Values{99, 99, 99, 99}));
}

}  // namespace
}  // namespace lockstep::testing
