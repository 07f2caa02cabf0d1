#include "lockstep/engine/cuda/attention_plan.h"

#include <deque>
#include <limits>
#include <utility>
#include <vector>

namespace lockstep::cuda {
namespace {

// The gradient's may hold numbers for all weights, in 16 bits: less than they would need
// themselves.
constexpr size_t kMostWorkspaceBytes = std::numeric_limits<size_t>::max();

using Sizes = std::array<int64_t, 4>;

bool is_acceptable(cudnnBackendNumericalNote_t note) {
  return note == CUDNN_NUMERICAL_NOTE_TENSOR_CORE || note == CUDNN_NUMERICAL_NOTE_STRICT_NAN_PROP;
}

Sizes contiguous(const Sizes& s) { return {s[1] * s[2] * s[3], s[2] * s[3], s[3], 1}; }
// The same memory with the last two dimensions exchanged.
Sizes transposed(const Sizes& s) { return {s[0], s[1], s[3], s[2]}; }

// One end of an operation: a tensor's descriptor and its sizes.
struct Value {
  explicit Value(const Sizes& of) : sizes(of) {}
  Sizes sizes;
  CudnnDescriptor descriptor{CUDNN_BACKEND_TENSOR_DESCRIPTOR};
};

// A graph being written down. What an operation makes is virtual, float32 and contiguous unless it
// is given where to go. What cuDNN refuses on the way is known at the end: there is no plan.
class Graph {
 public:
  explicit Graph(cudnnDataType_t type) : type_(type) {}

  // A tensor in memory, of the activations' type.
  const Value& tensor(int64_t id, const Sizes& sizes, const Sizes& strides) {
    return add(id, sizes, strides, type_, {});
  }
  const Value& tensor(int64_t id, const Sizes& sizes, cudnnDataType_t type) {
    return add(id, sizes, contiguous(sizes), type, {});
  }
  // A number of the host.
  const Value& number(int64_t id) {
    return add(id, kOne, kOne, CUDNN_DATA_FLOAT, CUDNN_ATTR_TENSOR_IS_BY_VALUE);
  }
  const Value& between(const Sizes& sizes, const Sizes& strides, cudnnDataType_t type) {
    return add(next_id_++, sizes, strides, type, CUDNN_ATTR_TENSOR_IS_VIRTUAL);
  }
  const Value& between(const Sizes& sizes, cudnnDataType_t type = CUDNN_DATA_FLOAT) {
    return between(sizes, contiguous(sizes), type);
  }

  const Value& matmul(const Value& a, const Value& b, const Value* out = nullptr) {
    CudnnDescriptor& kind = kept_.emplace_back(CUDNN_BACKEND_MATMUL_DESCRIPTOR);
    kind.set(CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, CUDNN_DATA_FLOAT);
    finalize(kind);
    const Value& c = out ? *out : between({a.sizes[0], a.sizes[1], a.sizes[2], b.sizes[3]});
    operation(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR,
              {{CUDNN_ATTR_OPERATION_MATMUL_ADESC, &a.descriptor},
               {CUDNN_ATTR_OPERATION_MATMUL_BDESC, &b.descriptor},
               {CUDNN_ATTR_OPERATION_MATMUL_CDESC, &c.descriptor},
               {CUDNN_ATTR_OPERATION_MATMUL_DESC, &kind}});
    return c;
  }
  // Along the last dimension.
  const Value& reduce(cudnnReduceTensorOp_t op, const Value& x) {
    CudnnDescriptor& kind = kept_.emplace_back(CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
    kind.set(CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, CUDNN_DATA_FLOAT)
        .set(CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, op);
    finalize(kind);
    const Value& y = between({x.sizes[0], x.sizes[1], x.sizes[2], 1});
    operation(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR,
              {{CUDNN_ATTR_OPERATION_REDUCTION_XDESC, &x.descriptor},
               {CUDNN_ATTR_OPERATION_REDUCTION_YDESC, &y.descriptor},
               {CUDNN_ATTR_OPERATION_REDUCTION_DESC, &kind}});
    return y;
  }
  const Value& pointwise(cudnnPointwiseMode_t mode, const Value& x, const Value* b = nullptr,
                         const Value* out = nullptr) {
    const Value& y = out ? *out : between(x.sizes);
    pointwise(kind_of(mode, CUDNN_DATA_FLOAT), x, b, nullptr, y);
    return y;
  }
  const Value& times(const Value& a, const Value& b) {
    return pointwise(CUDNN_POINTWISE_MUL, a, &b);
  }
  // x where no key lies behind its query, else `hidden`.
  const Value& seen(const Value& x, const Value& hidden) {
    const Value& row = place(x, 2);
    const Value& column = place(x, 3);
    const Value& past = between(x.sizes, CUDNN_DATA_BOOLEAN);
    pointwise(kind_of(CUDNN_POINTWISE_CMP_GE, CUDNN_DATA_BOOLEAN), row, &column, nullptr, past);
    const Value& y = between(x.sizes);
    pointwise(kind_of(CUDNN_POINTWISE_BINARY_SELECT, CUDNN_DATA_FLOAT), x, &hidden, &past, y);
    return y;
  }
  // The same numbers in the activations' type, with the last two dimensions exchanged.
  const Value& turned(const Value& x, const Sizes& strides) {
    const Value& y = between(transposed(x.sizes), transposed(strides), type_);
    operation(CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR,
              {{CUDNN_ATTR_OPERATION_RESHAPE_XDESC, &x.descriptor},
               {CUDNN_ATTR_OPERATION_RESHAPE_YDESC, &y.descriptor}});
    return y;
  }
  // 1 with probability `keep`, else 0.
  void draw(double keep, const Value& out) {
    const Value& seed = tensor(kAttentionSeed, kOne, CUDNN_DATA_INT64);
    const Value& offset = tensor(kAttentionOffset, kOne, CUDNN_DATA_INT64);
    CudnnDescriptor& kind = kept_.emplace_back(CUDNN_BACKEND_RNG_DESCRIPTOR);
    kind.set(CUDNN_ATTR_RNG_DISTRIBUTION, CUDNN_TYPE_RNG_DISTRIBUTION,
             CUDNN_RNG_DISTRIBUTION_BERNOULLI)
        .set(CUDNN_ATTR_RNG_BERNOULLI_DIST_PROBABILITY, CUDNN_TYPE_DOUBLE, keep);
    finalize(kind);
    operation(CUDNN_BACKEND_OPERATION_RNG_DESCRIPTOR,
              {{CUDNN_ATTR_OPERATION_RNG_YDESC, &out.descriptor},
               {CUDNN_ATTR_OPERATION_RNG_DESC, &kind},
               {CUDNN_ATTR_OPERATION_RNG_SEED, &seed.descriptor},
               {CUDNN_ATTR_OPERATION_RNG_OFFSET_DESC, &offset.descriptor}});
  }

  std::optional<CudnnPlan> plan(const CudnnTarget& target) const {
    if (!fits_) return std::nullopt;
    return choose_plan(operations_, target, is_acceptable, kMostWorkspaceBytes);
  }

 private:
  static constexpr Sizes kOne = {1, 1, 1, 1};
  using Argument = std::pair<cudnnBackendAttributeName_t, const CudnnDescriptor*>;

  void finalize(CudnnDescriptor& descriptor) {
    if (fits_) fits_ = descriptor.try_finalize();
  }
  const Value& add(int64_t id, const Sizes& sizes, const Sizes& strides, cudnnDataType_t type,
                   std::optional<cudnnBackendAttributeName_t> flag) {
    Value& value = values_.emplace_back(sizes);
    value.descriptor.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, id)
        .set(CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, type)
        .set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, int64_t{16})
        .set(CUDNN_ATTR_TENSOR_DIMENSIONS, sizes)
        .set(CUDNN_ATTR_TENSOR_STRIDES, strides);
    if (flag) value.descriptor.set(*flag, CUDNN_TYPE_BOOLEAN, true);
    finalize(value.descriptor);
    return value;
  }
  // Where each of x's elements lies along a dimension.
  const Value& place(const Value& x, int64_t dim) {
    CudnnDescriptor& kind = kept_.emplace_back(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    kind.set(CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, dim);
    describe(kind, CUDNN_POINTWISE_GEN_INDEX, CUDNN_DATA_FLOAT);
    const Value& y = between(x.sizes, CUDNN_DATA_INT32);
    pointwise(kind, x, nullptr, nullptr, y);
    return y;
  }
  void describe(CudnnDescriptor& kind, cudnnPointwiseMode_t mode, cudnnDataType_t precision) {
    kind.set(CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, mode)
        .set(CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, precision);
    finalize(kind);
  }
  const CudnnDescriptor& kind_of(cudnnPointwiseMode_t mode, cudnnDataType_t precision) {
    CudnnDescriptor& kind = kept_.emplace_back(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    describe(kind, mode, precision);
    return kind;
  }
  void pointwise(const CudnnDescriptor& kind, const Value& x, const Value* b, const Value* t,
                 const Value& y) {
    std::vector<Argument> arguments = {{CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, &kind},
                                       {CUDNN_ATTR_OPERATION_POINTWISE_XDESC, &x.descriptor},
                                       {CUDNN_ATTR_OPERATION_POINTWISE_YDESC, &y.descriptor}};
    if (b) arguments.emplace_back(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, &b->descriptor);
    if (t) arguments.emplace_back(CUDNN_ATTR_OPERATION_POINTWISE_TDESC, &t->descriptor);
    operation(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, arguments);
  }
  void operation(cudnnBackendDescriptorType_t type, const std::vector<Argument>& arguments) {
    if (!fits_) return;
    CudnnDescriptor& operation = kept_.emplace_back(type);
    for (const auto& [name, descriptor] : arguments) operation.set(name, *descriptor);
    finalize(operation);
    operations_.push_back(&operation);
  }

  const cudnnDataType_t type_;
  int64_t next_id_ = 100;
  bool fits_ = true;
  std::deque<Value> values_;  // in these, nothing moves
  std::deque<CudnnDescriptor> kept_;
  std::vector<const CudnnDescriptor*> operations_;
};

struct Shapes {
  Sizes q, k, v, y, weights, rows;

  explicit Shapes(const AttentionProblem& p)
      : q{p.batch, p.heads, p.queries, p.width},
        k{p.batch, p.heads, p.keys, p.width},
        v{p.batch, p.heads, p.keys, p.value_width},
        y{p.batch, p.heads, p.queries, p.value_width},
        weights{p.batch, p.heads, p.queries, p.keys},
        rows{p.batch, p.heads, p.queries, 1} {}
};

// y = dropout(softmax(scale q k^T)) v, and each row's log(sum(exp)).
void describe_forward(Graph& g, const AttentionProblem& p) {
  const Shapes s(p);
  const Value& q = g.tensor(kAttentionQ, s.q, p.q);
  const Value& kt = g.tensor(kAttentionK, transposed(s.k), transposed(p.k));
  const Value& v = g.tensor(kAttentionV, s.v, p.v);
  const Value& y = g.tensor(kAttentionY, s.y, p.y);
  const Value& stats = g.tensor(kAttentionStats, s.rows, CUDNN_DATA_FLOAT);

  const Value* scores = &g.times(g.matmul(q, kt), g.number(kAttentionScale));
  if (p.causal) scores = &g.seen(*scores, g.number(kAttentionHidden));
  const Value& most = g.reduce(CUDNN_REDUCE_TENSOR_MAX, *scores);
  const Value& powers =
      g.pointwise(CUDNN_POINTWISE_EXP, g.pointwise(CUDNN_POINTWISE_SUB, *scores, &most));
  const Value& sums = g.reduce(CUDNN_REDUCE_TENSOR_ADD, powers);
  g.pointwise(CUDNN_POINTWISE_ADD, most, &g.pointwise(CUDNN_POINTWISE_LOG, sums), &stats);

  const cudnnDataType_t type = type_of(p.dtype).value();
  const Value& narrow = g.between(s.weights, type);
  if (p.dropout == 0) {
    g.pointwise(CUDNN_POINTWISE_DIV, powers, &sums, &narrow);
  } else {
    const Value& weights = g.pointwise(CUDNN_POINTWISE_DIV, powers, &sums);
    const Value& kept =
        p.dump_mask ? g.tensor(kAttentionMask, s.weights, CUDNN_DATA_FLOAT) : g.between(s.weights);
    g.draw(1 - p.dropout, kept);
    g.pointwise(CUDNN_POINTWISE_MUL, g.times(weights, kept), &g.number(kAttentionKeepScale),
                &narrow);
  }
  g.matmul(narrow, v, &y);
}

// With P = exp(scale q k^T - stats), M the dropout's mask over 1 - dropout, and D = sum(gy y) of
// each row (Dao, Fu, Ermon, Rudra, Ré: "FlashAttention", NeurIPS 2022, appendix B):
//   gv = (P M)^T gy,  dS = scale P (M (gy v^T) - D),  gq = dS k,  gk = dS^T q.
void describe_gradient(Graph& g, const AttentionProblem& p) {
  const Shapes s(p);
  const Value& q = g.tensor(kAttentionQ, s.q, p.q);
  const Value& kt = g.tensor(kAttentionK, transposed(s.k), transposed(p.k));
  const Value& vt = g.tensor(kAttentionV, transposed(s.v), transposed(p.v));
  const Value& y = g.tensor(kAttentionY, s.y, p.y);
  const Value& gy = g.tensor(kAttentionGy, s.y, p.gy);
  const Value& stats = g.tensor(kAttentionStats, s.rows, CUDNN_DATA_FLOAT);
  const Value& row_sums = g.tensor(kAttentionRowSums, s.rows, CUDNN_DATA_FLOAT);
  const Value& scale = g.number(kAttentionScale);
  const bool drops = p.dropout > 0;
  const Value* const kept = drops ? &g.between(s.weights) : nullptr;
  const Value* const keep_scale = drops ? &g.number(kAttentionKeepScale) : nullptr;
  if (drops) g.draw(1 - p.dropout, *kept);

  // D (1 - dropout): M's denominator comes to dS as a whole.
  g.pointwise(CUDNN_POINTWISE_MUL, g.reduce(CUDNN_REDUCE_TENSOR_ADD, g.times(gy, y)),
              &g.number(kAttentionKeep), &row_sums);

  const Value* scores = &g.pointwise(CUDNN_POINTWISE_SUB, g.times(g.matmul(q, kt), scale), &stats);
  if (p.causal) scores = &g.seen(*scores, g.number(kAttentionHidden));
  const Value& weights = g.pointwise(CUDNN_POINTWISE_EXP, *scores);
  const Value& used = drops ? g.times(g.times(weights, *kept), *keep_scale) : weights;
  g.matmul(g.turned(used, contiguous(s.weights)), gy, &g.tensor(kAttentionGv, s.v, p.gv));

  const Value* slopes = &g.matmul(gy, vt);
  if (drops) slopes = &g.times(*slopes, *kept);
  slopes = &g.times(g.pointwise(CUDNN_POINTWISE_SUB, *slopes, &row_sums), weights);
  if (drops) slopes = &g.times(*slopes, *keep_scale);
  slopes = &g.times(*slopes, scale);
  g.matmul(g.turned(*slopes, contiguous(s.weights)), q, &g.tensor(kAttentionGk, s.k, p.gk));
  g.matmul(*slopes, g.turned(kt, transposed(p.k)), &g.tensor(kAttentionGq, s.q, p.gq));
}

}  // namespace

std::optional<CudnnPlan> plan_attention(const AttentionProblem& p, const CudnnTarget& target) {
  const bool half = p.dtype == DType::kBFloat16 || p.dtype == DType::kFloat16;
  if (!half) return std::nullopt;
  Graph graph(type_of(p.dtype).value());
  if (p.pass == AttentionPass::kForward) {
    describe_forward(graph, p);
  } else {
    describe_gradient(graph, p);
  }
  return graph.plan(target);
}

}  // namespace lockstep::cuda
