#include "lockstep/engine/cuda/conv_plan.h"

namespace lockstep::cuda {
namespace {

constexpr size_t kMostWorkspaceBytes = size_t{256} << 20;

using Sizes = std::array<int64_t, 4>;

bool is_acceptable(const ConvProblem& p, cudnnBackendNumericalNote_t note) {
  const bool wide = p.dtype == DType::kFloat32;
  switch (note) {
    case CUDNN_NUMERICAL_NOTE_STRICT_NAN_PROP:
      return true;
    // Of float32, the tensor cores read 10 bits. Winograd's transforms cost some accuracy: little
    // in float32, unless tiles are large.
    case CUDNN_NUMERICAL_NOTE_TENSOR_CORE:
      return !wide || p.tf32;
    case CUDNN_NUMERICAL_NOTE_FFT:
    case CUDNN_NUMERICAL_NOTE_WINOGRAD:
    case CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_4x4:
    case CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_6x6:
      return wide;
    default:  // among them those that add up in any order, and those that sum in 16 bits
      return false;
  }
}

enum class Storage { kContiguous, kChannelsLast };

Sizes strides_of(const Sizes& sizes, Storage storage) {
  const auto [n, c, h, w] = sizes;
  return storage == Storage::kChannelsLast ? Sizes{c * h * w, 1, w * c, c}
                                           : Sizes{c * h * w, h * w, w, 1};
}

CudnnDescriptor describe_tensor(int64_t id, const Sizes& sizes, Storage storage,
                                cudnnDataType_t type, int64_t alignment) {
  CudnnDescriptor tensor(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  tensor.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, id)
      .set(CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, type)
      .set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, alignment)
      .set(CUDNN_ATTR_TENSOR_DIMENSIONS, sizes)
      .set(CUDNN_ATTR_TENSOR_STRIDES, strides_of(sizes, storage));
  return tensor;
}

CudnnDescriptor describe_steps(const ConvProblem& p) {
  CudnnDescriptor steps(CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
  steps.set(CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, CUDNN_DATA_FLOAT)
      .set(CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, CUDNN_CROSS_CORRELATION)
      .set(CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, int64_t{2})
      .set(CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, p.stride)
      .set(CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, p.padding)
      .set(CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, p.padding)
      .set(CUDNN_ATTR_CONVOLUTION_DILATIONS, p.dilation);
  return steps;
}

// One of the three operations, by the names of its attributes.
struct Operation {
  cudnnBackendDescriptorType_t type;
  cudnnBackendAttributeName_t steps, x, w, y, alpha, beta;
};

constexpr Operation operation_of(ConvPass pass) {
  switch (pass) {
    case ConvPass::kInputGradient:
      return {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA};
    case ConvPass::kWeightGradient:
      return {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA};
    default:
      return {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA};
  }
}

bool finalize_all(std::initializer_list<CudnnDescriptor*> descriptors) {
  for (CudnnDescriptor* descriptor : descriptors) {
    if (!descriptor->try_finalize()) return false;
  }
  return true;
}

}  // namespace

std::optional<CudnnPlan> plan_convolution(const ConvProblem& p, const CudnnTarget& target) {
  const auto type = type_of(p.dtype);
  if (!type) return std::nullopt;
  const auto acceptable = [&](cudnnBackendNumericalNote_t note) { return is_acceptable(p, note); };
  const Storage storage = p.channels_last ? Storage::kChannelsLast : Storage::kContiguous;
  CudnnDescriptor x = describe_tensor(kConvX, p.x, storage, *type, p.alignment);
  CudnnDescriptor w = describe_tensor(kConvW, p.w, Storage::kContiguous, *type, p.alignment);
  CudnnDescriptor y = describe_tensor(kConvY, p.y, storage, *type, p.alignment);
  CudnnDescriptor steps = describe_steps(p);
  if (!finalize_all({&x, &w, &y, &steps})) return std::nullopt;

  const Operation names = operation_of(p.pass);
  CudnnDescriptor convolution(names.type);
  const float one = 1, zero = 0;
  convolution.set(names.steps, steps)
      .set(names.x, x)
      .set(names.w, w)
      .set(names.alpha, CUDNN_TYPE_FLOAT, one)
      .set(names.beta, CUDNN_TYPE_FLOAT, zero);
  if (!p.bias) {
    convolution.set(names.y, y);
    if (!convolution.try_finalize()) return std::nullopt;
    return choose_plan({&convolution}, target, acceptable, kMostWorkspaceBytes);
  }

  // The convolution's own result stays within the kernel, in float32.
  constexpr int64_t kProduct = 5;
  CudnnDescriptor product = describe_tensor(kProduct, p.y, storage, CUDNN_DATA_FLOAT, 16);
  product.set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, true);
  CudnnDescriptor bias = describe_tensor(kConvBias, {1, p.y[1], 1, 1}, storage, *type, p.alignment);
  CudnnDescriptor sum(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
  sum.set(CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, CUDNN_POINTWISE_ADD)
      .set(CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, CUDNN_DATA_FLOAT);
  if (!finalize_all({&product, &bias, &sum})) return std::nullopt;
  convolution.set(names.y, product);
  CudnnDescriptor addition(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
  addition.set(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, sum)
      .set(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, product)
      .set(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, bias)
      .set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
  if (!finalize_all({&convolution, &addition})) return std::nullopt;
  return choose_plan({&convolution, &addition}, target, acceptable, kMostWorkspaceBytes);
}

}  // namespace lockstep::cuda
