// What the graphs say that describe attention to cuDNN: cuDNN makes plans for wrong ones, too. Here
// it is a small interpreter, which takes the descriptors and computes on the host, one operation
// after the other. Everything above it is the plugin's.
#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/engine/backend.h"
#include "lockstep/engine/cuda/cudnn_library.h"
#include "lockstep/engine/cuda/libraries.h"
#include "lockstep/engine/ops/ops.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"

namespace lockstep::cuda {
namespace {

struct Node;
using Ref = std::shared_ptr<Node>;

// A descriptor: its attributes, by name, as bytes or as other descriptors.
struct Node {
  cudnnBackendDescriptorType_t type{};
  std::map<int, std::vector<char>> bytes;
  std::map<int, std::vector<Ref>> nodes;

  template <typename T>
  std::vector<T> all(cudnnBackendAttributeName_t name) const {
    const auto found = bytes.find(name);
    if (found == bytes.end()) return {};
    std::vector<T> values(found->second.size() / sizeof(T));
    std::memcpy(values.data(), found->second.data(), found->second.size());
    return values;
  }
  template <typename T>
  T get(cudnnBackendAttributeName_t name, T otherwise = {}) const {
    const auto values = all<T>(name);
    return values.empty() ? otherwise : values[0];
  }
  Ref node(cudnnBackendAttributeName_t name) const {
    const auto found = nodes.find(name);
    return found == nodes.end() ? nullptr : found->second.at(0);
  }
};

Ref& ref(void* descriptor) { return *static_cast<Ref*>(descriptor); }

size_t bytes_of(cudnnBackendAttributeType_t type) {
  switch (type) {
    case CUDNN_TYPE_BOOLEAN:
    case CUDNN_TYPE_CHAR:
      return 1;
    case CUDNN_TYPE_INT64:
    case CUDNN_TYPE_DOUBLE:
    case CUDNN_TYPE_HANDLE:
    case CUDNN_TYPE_VOID_PTR:
      return 8;
    default:
      return 4;  // enumerations, float and int32
  }
}

// -- the interpreter

using Numbers = std::vector<double>;

// A tensor's numbers in the order of its sizes, whatever its strides.
class Machine {
 public:
  explicit Machine(const Node& pack) {
    const auto ids = pack.all<int64_t>(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS);
    const auto data = pack.all<char*>(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS);
    for (size_t i = 0; i < ids.size(); ++i) memory_[ids[i]] = data.at(i);
  }

  void run(const Node& op) {
    switch (op.type) {
      case CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR:
        return matmul(op);
      case CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR:
        return reduce(op);
      case CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR:
        return pointwise(op);
      case CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR:
        return reshape(op);
      case CUDNN_BACKEND_OPERATION_RNG_DESCRIPTOR:
        return draw(op);
      default:
        fail<Error>("unknown operation {}", static_cast<int>(op.type));
    }
  }

 private:
  static std::vector<int64_t> sizes(const Node& t) {
    return t.all<int64_t>(CUDNN_ATTR_TENSOR_DIMENSIONS);
  }
  // Calls body(index in order, place in memory) for each element.
  template <typename F>
  static void each(const Node& t, F&& body) {
    const auto n = sizes(t), s = t.all<int64_t>(CUDNN_ATTR_TENSOR_STRIDES);
    size_t i = 0;
    for (int64_t a = 0; a < n[0]; ++a)
      for (int64_t b = 0; b < n[1]; ++b)
        for (int64_t c = 0; c < n[2]; ++c)
          for (int64_t d = 0; d < n[3]; ++d) {
            body(i++, a * s[0] + b * s[1] + c * s[2] + d * s[3]);
          }
  }
  static cudnnDataType_t type_of(const Node& t) {
    return t.get<cudnnDataType_t>(CUDNN_ATTR_TENSOR_DATA_TYPE);
  }
  static bool is_virtual(const Node& t) { return t.get<char>(CUDNN_ATTR_TENSOR_IS_VIRTUAL) != 0; }

  // Calls body with a pointer of the tensor's own type.
  template <typename F>
  static void with_type(const Node& t, void* data, F&& body) {
    switch (type_of(t)) {
      case CUDNN_DATA_BFLOAT16:
        return body(static_cast<BFloat16*>(data));
      case CUDNN_DATA_HALF:
        return body(static_cast<Float16*>(data));
      case CUDNN_DATA_INT64:
      case CUDNN_DATA_INT32:
      case CUDNN_DATA_BOOLEAN:
        return body(static_cast<int64_t*>(data));
      default:
        return body(static_cast<float*>(data));
    }
  }
  char* memory(const Node& t) const {
    return memory_.at(t.get<int64_t>(CUDNN_ATTR_TENSOR_UNIQUE_ID));
  }
  Numbers load(const Node& t) {
    if (const auto found = values_.find(&t); found != values_.end()) return found->second;
    check<Error>(!is_virtual(t), "read before it is written");
    Numbers numbers;
    with_type(t, memory(t), [&](const auto* data) {
      each(t, [&](size_t, int64_t place) {
        if constexpr (std::is_same_v<decltype(data), const int64_t*>) {
          numbers.push_back(static_cast<double>(data[place]));
        } else {
          numbers.push_back(static_cast<double>(static_cast<float>(data[place])));
        }
      });
    });
    return numbers;
  }
  void store(const Node& t, Numbers numbers) {
    with_type(t, nullptr, [&](auto* type) {
      using T = std::remove_pointer_t<decltype(type)>;
      if constexpr (sizeof(T) == 2) {
        for (double& x : numbers) x = static_cast<float>(T(static_cast<float>(x)));
      }
    });
    if (!is_virtual(t)) {
      with_type(t, memory(t), [&](auto* data) {
        using T = std::remove_pointer_t<decltype(data)>;
        each(t, [&](size_t i, int64_t place) {
          data[place] = T(static_cast<std::conditional_t<sizeof(T) == 2, float, T>>(numbers[i]));
        });
      });
    }
    values_[&t] = std::move(numbers);
  }

  void matmul(const Node& op) {
    const Ref a = op.node(CUDNN_ATTR_OPERATION_MATMUL_ADESC);
    const Ref b = op.node(CUDNN_ATTR_OPERATION_MATMUL_BDESC);
    const Ref c = op.node(CUDNN_ATTR_OPERATION_MATMUL_CDESC);
    const Numbers x = load(*a), y = load(*b);
    const auto n = sizes(*c);
    const int64_t rows = n[2], columns = n[3], inner = sizes(*a)[3];
    check<Error>(sizes(*a)[2] == rows && sizes(*b)[2] == inner && sizes(*b)[3] == columns, "sizes");
    Numbers z(static_cast<size_t>(n[0] * n[1] * rows * columns));
    for (size_t i = 0; i < z.size(); ++i) {
      const auto column = static_cast<int64_t>(i) % columns;
      const int64_t row = static_cast<int64_t>(i) / columns;  // of all matrices
      for (int64_t k = 0; k < inner; ++k) {
        z[i] += x[static_cast<size_t>(row * inner + k)] *
                y[static_cast<size_t>((row / rows * inner + k) * columns + column)];
      }
    }
    store(*c, z);
  }
  void reduce(const Node& op) {
    const Ref x = op.node(CUDNN_ATTR_OPERATION_REDUCTION_XDESC);
    const bool most =
        op.node(CUDNN_ATTR_OPERATION_REDUCTION_DESC)
            ->get<cudnnReduceTensorOp_t>(CUDNN_ATTR_REDUCTION_OPERATOR) == CUDNN_REDUCE_TENSOR_MAX;
    const Numbers in = load(*x);
    const auto width = static_cast<size_t>(sizes(*x)[3]);
    Numbers out(in.size() / width, most ? -INFINITY : 0);
    for (size_t i = 0; i < in.size(); ++i) {
      double& sum = out[i / width];
      sum = most ? std::fmax(sum, in[i]) : sum + in[i];
    }
    store(*op.node(CUDNN_ATTR_OPERATION_REDUCTION_YDESC), out);
  }
  void pointwise(const Node& op) {
    const Ref kind = op.node(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR);
    const auto mode = kind->get<cudnnPointwiseMode_t>(CUDNN_ATTR_POINTWISE_MODE);
    const Ref to = op.node(CUDNN_ATTR_OPERATION_POINTWISE_YDESC);
    const Ref second = op.node(CUDNN_ATTR_OPERATION_POINTWISE_BDESC);
    const Ref third = op.node(CUDNN_ATTR_OPERATION_POINTWISE_TDESC);
    const Numbers x = load(*op.node(CUDNN_ATTR_OPERATION_POINTWISE_XDESC));
    const Numbers b = second ? load(*second) : Numbers{0}, t = third ? load(*third) : Numbers{0};
    const auto n = sizes(*to);
    Numbers y(x.size());
    for (size_t i = 0; i < y.size(); ++i) {
      // One number, one for each row, or as many as x has.
      const size_t other = b.size() == 1 ? 0 : b.size() == y.size() ? i : i / (y.size() / b.size());
      const auto column = static_cast<int64_t>(i) % n[3];
      const int64_t row = static_cast<int64_t>(i) / n[3] % n[2];
      const bool by_row = kind->get<int64_t>(CUDNN_ATTR_POINTWISE_AXIS) == 2;
      y[i] = value(mode, x[i], b[other], t.size() == 1 ? t[0] : t[i], by_row ? row : column);
    }
    store(*to, y);
  }
  static double value(cudnnPointwiseMode_t mode, double x, double b, double t, int64_t place) {
    switch (mode) {
      case CUDNN_POINTWISE_MUL:
        return x * b;
      case CUDNN_POINTWISE_ADD:
        return x + b;
      case CUDNN_POINTWISE_SUB:
        return x - b;
      case CUDNN_POINTWISE_DIV:
        return x / b;
      case CUDNN_POINTWISE_EXP:
        return std::exp(x);
      case CUDNN_POINTWISE_LOG:
        return std::log(x);
      case CUDNN_POINTWISE_GEN_INDEX:
        return static_cast<double>(place);
      case CUDNN_POINTWISE_CMP_GE:
        return x >= b ? 1 : 0;
      case CUDNN_POINTWISE_BINARY_SELECT:
        return t != 0 ? x : b;
      default:
        fail<Error>("unknown mode {}", static_cast<int>(mode));
    }
  }
  // The same memory with other sizes and strides.
  void reshape(const Node& op) {
    const Ref x = op.node(CUDNN_ATTR_OPERATION_RESHAPE_XDESC);
    const Ref y = op.node(CUDNN_ATTR_OPERATION_RESHAPE_YDESC);
    const Numbers in = load(*x);
    std::map<int64_t, double> places;
    each(*x, [&](size_t i, int64_t place) { places[place] = in[i]; });
    Numbers out(in.size());
    each(*y, [&](size_t i, int64_t place) { out[i] = places.at(place); });
    store(*y, out);
  }
  void draw(const Node& op) {
    const Ref y = op.node(CUDNN_ATTR_OPERATION_RNG_YDESC);
    const double seed = load(*op.node(CUDNN_ATTR_OPERATION_RNG_SEED))[0];
    const double offset = load(*op.node(CUDNN_ATTR_OPERATION_RNG_OFFSET_DESC))[0];
    const double p = op.node(CUDNN_ATTR_OPERATION_RNG_DESC)
                         ->get<double>(CUDNN_ATTR_RNG_BERNOULLI_DIST_PROBABILITY);
    const Philox philox{static_cast<uint32_t>(std::hash<double>()(seed)), 0};
    Numbers out;
    each(*y, [&](size_t i, int64_t) {
      const auto words = philox(static_cast<uint32_t>(i), static_cast<uint32_t>(offset), 0, 0);
      out.push_back(uniform_float(words[0]) < p ? 1 : 0);
    });
    store(*y, out);
  }

  std::map<int64_t, char*> memory_;
  std::map<const Node*, Numbers> values_;
};

// -- its face

cudnnStatus_t create_descriptor(cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t* out) {
  *out = new Ref(std::make_shared<Node>(Node{type, {}, {}}));
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t destroy_descriptor(cudnnBackendDescriptor_t descriptor) {
  delete static_cast<Ref*>(descriptor);
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t set_attribute(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                            cudnnBackendAttributeType_t type, int64_t count, const void* values) {
  if (type == CUDNN_TYPE_BACKEND_DESCRIPTOR) {
    auto* const all = static_cast<void* const*>(values);
    for (int64_t i = 0; i < count; ++i) ref(descriptor)->nodes[name].push_back(ref(all[i]));
  } else {
    const auto* const first = static_cast<const char*>(values);
    ref(descriptor)->bytes[name].assign(first, first + static_cast<size_t>(count) * bytes_of(type));
  }
  return CUDNN_STATUS_SUCCESS;
}
// One suggestion, of one engine, which is exact and needs no workspace.
cudnnStatus_t get_attribute(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                            cudnnBackendAttributeType_t, int64_t, int64_t* count, void* values) {
  *count = 1;
  if (name == CUDNN_ATTR_ENGINEHEUR_RESULTS) {
    ref(*static_cast<void**>(values))->nodes = ref(descriptor)->nodes;
  } else if (name == CUDNN_ATTR_ENGINE_NUMERICAL_NOTE) {
    *count = 0;
  } else if (name == CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE) {
    *static_cast<int64_t*>(values) = 0;
  }
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t execute(cudnnHandle_t, cudnnBackendDescriptor_t plan, cudnnBackendDescriptor_t pack) {
  Machine machine(*ref(pack));
  const Ref config = ref(plan)->node(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG);
  const Ref graph = config->node(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH);
  for (const Ref& op : graph->nodes.at(CUDNN_ATTR_OPERATIONGRAPH_OPS)) machine.run(*op);
  return CUDNN_STATUS_SUCCESS;
}

}  // namespace

const CudnnLibrary* find_cudnn() {
  static const CudnnLibrary library = {
      .version = [] { return size_t{CUDNN_VERSION}; },
      .error_string = [](cudnnStatus_t) { return "an error"; },
      .last_error_string = [](char*, size_t) {},
      .create =
          [](cudnnHandle_t* handle) {
            static char anything;
            *handle = reinterpret_cast<cudnnHandle_t>(&anything);
            return CUDNN_STATUS_SUCCESS;
          },
      .destroy = [](cudnnHandle_t) { return CUDNN_STATUS_SUCCESS; },
      .set_stream = [](cudnnHandle_t, cudaStream_t) { return CUDNN_STATUS_SUCCESS; },
      .create_descriptor = create_descriptor,
      .destroy_descriptor = destroy_descriptor,
      .set_attribute = set_attribute,
      .get_attribute = get_attribute,
      .finalize = [](cudnnBackendDescriptor_t) { return CUDNN_STATUS_SUCCESS; },
      .execute = execute};
  return &library;
}
const CudnnLibrary& cudnn() { return *find_cudnn(); }
void check_cudnn(cudnnStatus_t status, const char* call) {
  check<Error>(status == CUDNN_STATUS_SUCCESS, "{}", call);
}

namespace {

// -- the tests, on the host's own memory

// (B, H, length, width), stored as (B, length, H, width).
Tensor numbers(int64_t length, int64_t width, DType dtype) {
  return randn({2, length, 3, width}).to(dtype).transpose(1, 2);
}
Tensor exact(const Tensor& x) { return x.to(DType::kFloat64).detach().requires_grad_(); }

void expect_near(const char* what, const Tensor& got, const Tensor& want, double tolerance) {
  const auto a = got.to_vector(), b = want.detach().to_vector();
  ASSERT_EQ(a.size(), b.size()) << what;
  for (size_t i = 0; i < a.size(); ++i) {
    ASSERT_NEAR(a[i], b[i], tolerance * std::max(1.0, std::fabs(b[i]))) << what << " " << i;
  }
}

void compare(DType dtype, bool causal, double dropout) {
  SCOPED_TRACE(std::string(name_of(dtype)) + (causal ? " causal " : " ") + std::to_string(dropout));
  manual_seed(1);
  constexpr int64_t kQueries = 5, kKeys = 6, kWidth = 8, kValueWidth = 16;
  const Tensor q = numbers(kQueries, kWidth, dtype), k = numbers(kKeys, kWidth, dtype);
  const Tensor v = numbers(kKeys, kValueWidth, dtype), gy = numbers(kQueries, kValueWidth, dtype);
  const Tensor y = numbers(kQueries, kValueWidth, dtype);
  const Tensor stats = empty({2, 3, kQueries, 1}), mask = ones({2, 3, kQueries, kKeys});
  const AttentionCall call{.q = q,
                           .k = k,
                           .v = v,
                           .scale = 0.4,
                           .dropout = dropout,
                           .causal = causal,
                           .key = next_random_key()};
  ASSERT_TRUE(can_attend_by_library(call, false));
  attention_by_library(nullptr, y, stats, call);
  if (dropout > 0) attention_mask_by_library(nullptr, mask, call);

  const Tensor eq = exact(q), ek = exact(k), ev = exact(v);
  Tensor scores = matmul(eq, ek.transpose(-2, -1)) * 0.4;
  if (causal) scores = masked_fill(scores, ne(triu(ones(scores.sizes()), 1), 0), -INFINITY);
  const Tensor kept = mask.to(DType::kFloat64) * (1 / (1 - dropout));
  const Tensor want = matmul(mul(softmax(scores, -1), kept), ev);
  const double tolerance = dtype == DType::kBFloat16 ? 0x1p-6 : 0x1p-9;
  expect_near("output", y, want, tolerance);
  expect_near("statistics", stats, log(sum(exp(scores), {-1}, true)), 1e-5);

  const Tensor gq = numbers(kQueries, kWidth, dtype), gk = numbers(kKeys, kWidth, dtype);
  const Tensor gv = numbers(kKeys, kValueWidth, dtype);
  attention_gradient_by_library(nullptr, gq, gk, gv, gy, y, stats, call);
  sum(mul(want, gy.to(DType::kFloat64))).backward();
  expect_near("gradient of q", gq, eq.grad(), 4 * tolerance);
  expect_near("gradient of k", gk, ek.grad(), 4 * tolerance);
  expect_near("gradient of v", gv, ev.grad(), 4 * tolerance);
}

TEST(AttentionGraph, SaysWhatAttentionIs) {
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16}) {
    for (const bool causal : {false, true}) {
      for (const double dropout : {0.0, 0.3}) compare(dtype, causal, dropout);
    }
  }
}

TEST(AttentionGraph, DrawsByTheKey) {
  const Tensor x = numbers(9, 8, DType::kFloat16);
  AttentionCall call{.q = x, .k = x, .v = x, .dropout = 0.5};
  const auto draw = [&] {
    const Tensor mask = empty({2, 3, 9, 9});
    attention_mask_by_library(nullptr, mask, call);
    return mask.to_vector();
  };
  call.key = make_random_key(1, RandomPurpose::kStep, 3);
  const auto first = draw();
  EXPECT_EQ(draw(), first);
  call.key = make_random_key(1, RandomPurpose::kStep, 4);
  EXPECT_NE(draw(), first);
}

}  // namespace
}  // namespace lockstep::cuda
