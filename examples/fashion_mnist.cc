// Trains a classifier of Fashion-MNIST images, alone or data-parallel:
//
//   fashion_mnist --model cnn --epochs 3
//   mpirun -n 4 fashion_mnist --model mlp --global-batch 256 --report report.json
#include <string>

#include "lockstep/lockstep.h"

using namespace lockstep;

namespace {

struct Classifier : nn::Module {
  virtual Tensor forward(const Tensor& x) = 0;
};

// 784-512-512-10 with ReLU.
struct Mlp : Classifier {
  nn::Linear fc1{784, 512}, fc2{512, 512}, fc3{512, 10};
  Mlp() { register_modules({{"fc1", fc1}, {"fc2", fc2}, {"fc3", fc3}}); }
  Tensor forward(const Tensor& x) override { return fc3(relu(fc2(relu(fc1(flatten(x, 1)))))); }
};

struct Cnn : Classifier {
  nn::Conv2d conv1{1, 32, 3}, conv2{32, 64, 3};
  nn::Linear fc1{9216, 128}, fc2{128, 10};
  Cnn() { register_modules({{"conv1", conv1}, {"conv2", conv2}, {"fc1", fc1}, {"fc2", fc2}}); }
  Tensor forward(const Tensor& x) override {
    const auto h = max_pool2d(relu(conv2(relu(conv1(x)))), 2);
    return fc2(relu(fc1(flatten(h, 1))));
  }
};

// With batch normalisation and dropout.
struct CnnBn : Classifier {
  nn::Conv2d conv1{1, 32, 3, {.bias = false}}, conv2{32, 64, 3, {.bias = false}};
  nn::BatchNorm2d bn1{32}, bn2{64};
  nn::Linear fc1{9216, 128}, fc2{128, 10};
  nn::Dropout dropout1{0.25}, dropout2{0.5};
  CnnBn() {
    register_modules({{"conv1", conv1},
                      {"bn1", bn1},
                      {"conv2", conv2},
                      {"bn2", bn2},
                      {"fc1", fc1},
                      {"fc2", fc2},
                      {"dropout1", dropout1},
                      {"dropout2", dropout2}});
  }
  Tensor forward(const Tensor& x) override {
    auto h = max_pool2d(relu(bn2(conv2(relu(bn1(conv1(x)))))), 2);
    h = relu(fc1(flatten(dropout1(h), 1)));
    return fc2(dropout2(h));
  }
};

std::unique_ptr<Classifier> make_model(const std::string& name) {
  if (name == "mlp") return std::make_unique<Mlp>();
  if (name == "cnn") return std::make_unique<Cnn>();
  return std::make_unique<CnnBn>();
}

}  // namespace

int main(int argc, char** argv) {
  std::string model = "cnn";
  double lr = 1e-3;
  launch::ProgramOptions flags("Trains a classifier of Fashion-MNIST images.");
  flags.choice("--model", model, {"mlp", "cnn", "cnn_bn"}, "the network")
      .number("--lr", lr, "learning rate of Adam");

  const auto train = [&](launch::Job& job) {
    const auto images = data::fashion_mnist(job.data_dir(), data::Split::kTrain);
    const auto test = data::fashion_mnist(job.data_dir(), data::Split::kTest);
    const auto net = make_model(model);
    net->to(job.device());
    distributed::DataParallel replicas(*net, job.group(),
                                       {.reduction = job.reduction(),
                                        .compression = job.compression(),
                                        .precision = job.precision()});
    optim::Adam adam(net->parameters(), {.lr = lr});
    launch::GraphedStep train_step(job, [&](data::Step& step) {
      adam.zero_grad();
      for (auto& micro : replicas.accumulate(step)) {
        const auto loss = nn::cross_entropy(net->forward(micro.x), micro.y);
        replicas.backward(loss, micro.size());
      }
      adam.step();
    });
    for (auto& step : job.steps(images)) train_step(step);
    net->eval();
    job.evaluate(test, [&](const data::Batch& batch) { return net->forward(batch.x); });
  };
  return launch::run(argc, argv, train, flags);
}
