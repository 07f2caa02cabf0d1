#include "models.h"

#include "lockstep/engine/ops/ops.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/engine/tensor/random.h"

#include "examples/char_gpt/model.h"

namespace bench {

using namespace lockstep;

namespace {

struct Mlp : nn::Layer {
  nn::Sequential layers;

  explicit Mlp(const std::vector<int64_t>& widths) {
    for (size_t i = 0; i + 1 < widths.size(); ++i) {
      layers.append(std::make_unique<nn::Linear>(widths[i], widths[i + 1]));
      if (i + 2 < widths.size()) layers.append(std::make_unique<nn::ReLU>());
    }
    register_modules({{"layers", layers}});
  }
  Tensor forward(const Tensor& x) override { return layers(x); }
};

struct Cnn : nn::Layer {
  nn::Conv2d conv1{1, 32, 3}, conv2{32, 64, 3};
  nn::Linear fc1{9216, 128}, fc2{128, 10};

  Cnn() { register_modules({{"conv1", conv1}, {"conv2", conv2}, {"fc1", fc1}, {"fc2", fc2}}); }
  Tensor forward(const Tensor& x) override {
    const auto h = max_pool2d(relu(conv2(relu(conv1(x)))), 2);
    return fc2(relu(fc1(flatten(h, 1))));
  }
};

// Two 3x3 convolutions around a shortcut (He et al., "Deep residual learning for image
// recognition", 2015).
struct Residual : nn::Layer {
  nn::Conv2d conv1, conv2;
  nn::BatchNorm2d norm1, norm2;
  nn::Sequential shortcut;  // empty: the identity

  Residual(int64_t in, int64_t out, int64_t stride)
      : conv1(in, out, 3, {.stride = stride, .padding = 1, .bias = false}),
        conv2(out, out, 3, {.padding = 1, .bias = false}),
        norm1(out),
        norm2(out) {
    if (stride != 1 || in != out) {
      shortcut.append(std::make_unique<nn::Conv2d>(
          in, out, 1, nn::Conv2d::Options{.stride = stride, .bias = false}));
      shortcut.append(std::make_unique<nn::BatchNorm2d>(out));
    }
    register_modules({{"conv1", conv1},
                      {"norm1", norm1},
                      {"conv2", conv2},
                      {"norm2", norm2},
                      {"shortcut", shortcut}});
  }
  Tensor forward(const Tensor& x) override {
    const auto h = norm2(conv2(relu(norm1(conv1(x)))));
    return relu(add(h, shortcut(x)));
  }
};

struct ResNet18 : nn::Layer {
  nn::Conv2d conv{3, 64, 3, {.padding = 1, .bias = false}};
  nn::BatchNorm2d norm{64};
  nn::Sequential blocks;
  nn::Linear head{512, 10};

  ResNet18() {
    int64_t in = 64;
    for (const auto& [out, stride] :
         std::vector<std::pair<int64_t, int64_t>>{{64, 1}, {128, 2}, {256, 2}, {512, 2}}) {
      blocks.append(std::make_unique<Residual>(in, out, stride));
      blocks.append(std::make_unique<Residual>(out, out, 1));
      in = out;
    }
    register_modules({{"conv", conv}, {"norm", norm}, {"blocks", blocks}, {"head", head}});
  }
  Tensor forward(const Tensor& x) override {
    const auto h = blocks(relu(norm(conv(x))));
    return head(flatten(avg_pool2d(h, 4), 1));
  }
};

}  // namespace

void Workload::to(Device device) {
  net->to(device);
  x = x.to(device);
  y = y.to(device);
}

Tensor Workload::loss(const Tensor& input, const Tensor& target) const {
  const auto logits = net->forward(input);
  return nn::cross_entropy(logits.view({-1, logits.size(-1)}), target.view({-1}));
}

const std::vector<std::string>& workload_names() {
  static const std::vector<std::string> names = {"mlp", "widemlp", "cnn", "resnet18", "gpt"};
  return names;
}

Workload make_workload(const std::string& name, int64_t batch) {
  Workload w;
  if (name == "gpt") {
    constexpr int64_t kContext = 128;
    w.net = std::make_unique<char_gpt::Gpt>(char_gpt::Size{.context = kContext});
    const auto bytes = [&] { return (256.0 * rand({batch, kContext})).to(DType::kInt64); };
    w.x = bytes();
    w.y = bytes();
    return w;
  }
  w.y = (10.0 * rand({batch})).to(DType::kInt64);
  if (name == "cnn") {
    w.net = std::make_unique<Cnn>();
    w.x = randn({batch, 1, 28, 28});
  } else if (name == "resnet18") {
    w.net = std::make_unique<ResNet18>();
    w.x = randn({batch, 3, 32, 32});
    w.sgd = true;
  } else {
    const int64_t wide = name == "widemlp" ? 4096 : 512;
    std::vector<int64_t> widths = {784, wide, wide, 10};
    if (name == "widemlp") widths.insert(widths.begin() + 1, wide);
    w.net = std::make_unique<Mlp>(widths);
    w.x = randn({batch, 784});
  }
  return w;
}

}  // namespace bench
