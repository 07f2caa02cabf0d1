#include "module_golden.h"

#include <map>
#include <memory>
#include <set>

#include "lockstep/nn/nn.h"

// Every module without masks or states against PyTorch.
namespace lockstep::nn {
namespace {

// What a case's options say, read as the constructors want it.
struct Given {
  const json& o;

  int64_t arg(size_t i) const { return o.at("args")[i]; }
  double number(size_t i, double otherwise) const {
    return o.contains("args") ? o.at("args")[i].get<double>() : otherwise;
  }
  template <typename T>
  void set(const char* name, T& field) const {
    if (o.contains(name)) field = o.at(name).get<T>();
  }
  void set(const char* name, Pair& field) const {
    if (o.contains(name)) field = pair(name);
  }
  template <typename T>
  void set(const char* name, std::optional<T>& field) const {
    if (!o.contains(name)) return;
    field.reset();
    if (!o.at(name).is_null()) field = o.at(name).get<T>();
  }
  void set(const char* name, std::optional<Pair>& field) const {
    if (o.contains(name)) field = pair(name);
  }
  void set(const char* name, Tensor& field) const {
    if (o.contains(name)) field = golden_modules().tensor(o.at(name));
  }
  void set(const char* name, Reduction& field) const {
    if (o.contains(name)) field = reduction_from_name(o.at(name).get<std::string>());
  }
  Pair pair(const char* name) const { return {o.at(name)[0], o.at(name)[1]}; }
};

using Make = std::function<std::unique_ptr<Module>(const Given&)>;

template <typename T>
std::unique_ptr<Module> affine_norm(const Given& given) {
  typename T::Options o;
  given.set("eps", o.eps);
  given.set("elementwise_affine", o.elementwise_affine);
  return std::make_unique<T>(dims_of(given.o.at("shape")), o);
}

template <typename T>
std::unique_ptr<Module> convolution(const Given& given, Pair kernel) {
  typename T::Options o;
  given.set("stride", o.stride);
  given.set("padding", o.padding);
  given.set("dilation", o.dilation);
  given.set("groups", o.groups);
  given.set("bias", o.bias);
  if constexpr (std::is_same_v<T, ConvTranspose2d>) given.set("output_padding", o.output_padding);
  if constexpr (std::is_same_v<T, Conv1d>) {
    return std::make_unique<T>(given.arg(0), given.arg(1), kernel.width, o);
  } else {
    return std::make_unique<T>(given.arg(0), given.arg(1), kernel, o);
  }
}

template <typename T, typename Kernel>
std::unique_ptr<Module> pool(const Given& given, Kernel kernel) {
  typename T::Options o;
  given.set("stride", o.stride);
  given.set("padding", o.padding);
  if constexpr (requires { o.dilation; }) given.set("dilation", o.dilation);
  if constexpr (requires { o.count_include_pad; }) {
    given.set("count_include_pad", o.count_include_pad);
  }
  return std::make_unique<T>(kernel, o);
}

template <typename T>
std::unique_ptr<Module> pool1d(const Given& given) {
  return pool<T>(given, given.o.at("kernel").get<int64_t>());
}

template <typename T>
std::unique_ptr<Module> pool2d(const Given& given) {
  return pool<T>(given, given.pair("kernel"));
}

template <typename T>
std::unique_ptr<Module> plain(const Given&) {
  return std::make_unique<T>();
}

template <typename T>
std::unique_ptr<Module> reduced(const Given& given) {
  Reduction reduction = Reduction::kMean;
  given.set("reduction", reduction);
  return std::make_unique<T>(reduction);
}

template <typename T>
std::unique_ptr<Module> weighted(const Given& given) {
  typename T::Options o;
  given.set("weight", o.weight);
  given.set("reduction", o.reduction);
  if constexpr (requires { o.pos_weight; }) given.set("pos_weight", o.pos_weight);
  return std::make_unique<T>(o);
}

template <typename T>
std::unique_ptr<Module> of_classes(const Given& given) {
  ClassLossOptions o;
  given.set("weight", o.weight);
  given.set("reduction", o.reduction);
  given.set("ignore_index", o.ignore_index);
  given.set("label_smoothing", o.label_smoothing);
  return std::make_unique<T>(o);
}

const std::map<std::string, Make>& modules() {
  static const std::map<std::string, Make> table = {
      {"Embedding",
       [](const Given& given) {
         Embedding::Options o;
         given.set("padding_idx", o.padding_idx);
         return std::make_unique<Embedding>(given.arg(0), given.arg(1), o);
       }},
      {"LayerNorm", affine_norm<LayerNorm>},
      {"RMSNorm", affine_norm<RMSNorm>},
      {"GroupNorm",
       [](const Given& given) {
         GroupNorm::Options o;
         given.set("eps", o.eps);
         given.set("affine", o.affine);
         return std::make_unique<GroupNorm>(given.arg(0), given.arg(1), o);
       }},
      {"BatchNorm1d",
       [](const Given& given) {
         BatchNorm1d::Options o;
         given.set("momentum", o.momentum);
         given.set("affine", o.affine);
         return std::make_unique<BatchNorm1d>(given.arg(0), o);
       }},
      {"ReLU", plain<ReLU>},
      {"LeakyReLU",
       [](const Given& given) { return std::make_unique<LeakyReLU>(given.number(0, 0.01)); }},
      {"ELU", [](const Given& given) { return std::make_unique<ELU>(given.number(0, 1)); }},
      {"GELU",
       [](const Given& given) {
         return std::make_unique<GELU>(given.o.value("approximate", std::string("none")));
       }},
      {"SiLU", plain<SiLU>},
      {"Sigmoid", plain<Sigmoid>},
      {"Tanh", plain<Tanh>},
      {"Softplus",
       [](const Given& given) {
         return std::make_unique<Softplus>(given.number(0, 1), given.number(1, 20));
       }},
      {"Hardtanh",
       [](const Given& given) {
         return std::make_unique<Hardtanh>(given.number(0, -1), given.number(1, 1));
       }},
      {"ReLU6", plain<ReLU6>},
      {"Softmax", [](const Given& given) { return std::make_unique<Softmax>(given.arg(0)); }},
      {"LogSoftmax", [](const Given& given) { return std::make_unique<LogSoftmax>(given.arg(0)); }},
      {"Identity", plain<Identity>},
      {"Flatten",
       [](const Given& given) {
         return given.o.contains("args") ? std::make_unique<Flatten>(given.arg(0), given.arg(1))
                                         : std::make_unique<Flatten>();
       }},
      {"Linear",
       [](const Given& given) {
         Linear::Options o;
         given.set("bias", o.bias);
         return std::make_unique<Linear>(given.arg(0), given.arg(1), o);
       }},
      {"Conv1d",
       [](const Given& given) {
         return convolution<Conv1d>(given, {1, given.arg(2)});
       }},
      {"Conv2d",
       [](const Given& given) { return convolution<Conv2d>(given, given.pair("kernel")); }},
      {"ConvTranspose2d",
       [](const Given& given) {
         return convolution<ConvTranspose2d>(given, given.pair("kernel"));
       }},
      {"MaxPool1d", pool1d<MaxPool1d>},
      {"AvgPool1d", pool1d<AvgPool1d>},
      {"MaxPool2d", pool2d<MaxPool2d>},
      {"AvgPool2d", pool2d<AvgPool2d>},
      {"AdaptiveAvgPool1d",
       [](const Given& given) { return std::make_unique<AdaptiveAvgPool1d>(given.arg(0)); }},
      {"AdaptiveAvgPool2d",
       [](const Given& given) {
         return std::make_unique<AdaptiveAvgPool2d>(given.pair("kernel"));
       }},
      {"AdaptiveMaxPool2d",
       [](const Given& given) {
         return std::make_unique<AdaptiveMaxPool2d>(given.pair("kernel"));
       }},
      {"MSELoss", reduced<MSELoss>},
      {"L1Loss", reduced<L1Loss>},
      {"SmoothL1Loss",
       [](const Given& given) {
         Reduction reduction = Reduction::kMean;
         given.set("reduction", reduction);
         return std::make_unique<SmoothL1Loss>(reduction, given.o.value("beta", 1.0));
       }},
      {"BCELoss", weighted<BCELoss>},
      {"BCEWithLogitsLoss", weighted<BCEWithLogitsLoss>},
      {"NLLLoss", of_classes<NLLLoss>},
      {"CrossEntropyLoss", of_classes<CrossEntropyLoss>},
      {"KLDivLoss",
       [](const Given& given) {
         Reduction reduction = Reduction::kMean;
         given.set("reduction", reduction);
         return std::make_unique<KLDivLoss>(reduction, given.o.value("log_target", false));
       }},
  };
  return table;
}

Forward forward_of(Module& module) {
  if (auto* layer = dynamic_cast<Layer*>(&module)) {
    return [layer](const std::vector<Tensor>& x) { return std::vector<Tensor>{(*layer)(x.at(0))}; };
  }
  auto& loss = dynamic_cast<Loss&>(module);
  return
      [&loss](const std::vector<Tensor>& x) { return std::vector<Tensor>{loss(x.at(0), x.at(1))}; };
}

class ModuleGolden : public testing::TestWithParam<DType> {};

TEST_P(ModuleGolden, IsPyTorchs) {
  const std::set<std::string> tested_elsewhere = {
      "MultiheadAttention", "TransformerEncoderLayer", "LSTM", "GRU", "LSTMCell", "GRUCell"};
  std::map<std::string, int> cases;
  for (const json& test : golden_modules().cases()) {
    const std::string name = test.at("module");
    if (tested_elsewhere.contains(name)) continue;
    const auto make = modules().find(name);
    ASSERT_NE(make, modules().end()) << name;
    ++cases[make->first];
    const auto module = make->second({test.at("options")});
    check_golden(test, *module, forward_of(*module), GetParam());
  }
  for (const auto& [name, make] : modules()) EXPECT_GE(cases[name], 1) << name << " has no case";
}

INSTANTIATE_TEST_SUITE_P(DTypes, ModuleGolden, testing::Values(DType::kFloat64, DType::kFloat32),
                         [](const auto& info) { return std::string(name_of(info.param)); });

}  // namespace
}  // namespace lockstep::nn
