// Views of DLPack tensors.
#include "exactnorm/dlpack.h"

#include <gtest/gtest.h>

#include <array>
#include <utility>
#include <vector>

#include "exactnorm/batch_norm.h"
#include "support/compare.h"

namespace exactnorm::testing {
namespace {

DLTensor tensor_of(void* data, std::vector<std::int64_t>& shape, std::int64_t* strides, DLDataType type) {
  DLTensor tensor{};
  tensor.data = data;
  tensor.device = {kDLCPU, 0};
  tensor.ndim = static_cast<int>(shape.size());
  tensor.dtype = type;
  tensor.shape = shape.data();
  tensor.strides = strides;
  return tensor;
}

constexpr DLDataType type_of(DLDataTypeCode code, int bits, int lanes = 1) {
  return {static_cast<std::uint8_t>(code), static_cast<std::uint8_t>(bits), static_cast<std::uint16_t>(lanes)};
}

TEST(DLPack, HasItsDtype) {
  std::array<double, 1> data{};
  std::vector<std::int64_t> shape = {1};
  const std::pair<DLDataType, DType> types[] = {
      {type_of(kDLFloat, 32), DType::float32},   {type_of(kDLFloat, 64), DType::float64},
      {type_of(kDLUInt, 8), DType::uint8},       {type_of(kDLInt, 8), DType::int8},
      {type_of(kDLInt, 16), DType::int16},       {type_of(kDLInt, 32), DType::int32},
      {type_of(kDLInt, 64), DType::int64},       {type_of(kDLFloat, 16), DType::float16},
      {type_of(kDLBfloat, 16), DType::bfloat16}, {type_of(kDLUInt, 16), DType::uint16},
      {type_of(kDLUInt, 32), DType::uint32},     {{6, 8, 1}, DType::boolean}};  // kDLBool of DLPack 0.7
  for (const auto& [type, dtype] : types) EXPECT_EQ(view(tensor_of(data.data(), shape, nullptr, type)).dtype, dtype);
}

TEST(DLPack, MissingStridesMeanRowMajor) {
  std::array<float, 24> data{};
  std::vector<std::int64_t> shape = {2, 3, 4};
  const MutableTensorView x = mutable_view(tensor_of(data.data(), shape, nullptr, type_of(kDLFloat, 32)));
  EXPECT_EQ(x.data, data.data());
  EXPECT_EQ(x.shape, (IndexList{2, 3, 4}));
  EXPECT_EQ(x.strides, (IndexList{12, 4, 1}));
}

TEST(DLPack, KeepsStridesAndByteOffset) {
  std::array<std::int16_t, 24> data{};
  std::vector<std::int64_t> shape = {3, 4};
  std::array<std::int64_t, 2> strides = {-4, 1};
  DLTensor tensor = tensor_of(data.data(), shape, strides.data(), type_of(kDLInt, 16));
  tensor.byte_offset = 16;
  const TensorView x = view(tensor);
  EXPECT_EQ(x.data, data.data() + 8);
  EXPECT_EQ(x.strides, (IndexList{-4, 1}));
}

TEST(DLPack, OfNoDimensionsOrNoElements) {
  float value = 3;
  std::vector<std::int64_t> none;
  EXPECT_EQ(view(tensor_of(&value, none, nullptr, type_of(kDLFloat, 32))).rank(), 0U);
  std::vector<std::int64_t> empty = {0, 4};
  DLTensor tensor = tensor_of(nullptr, empty, nullptr, type_of(kDLFloat, 32));
  tensor.byte_offset = 64;
  EXPECT_EQ(view(tensor).data, nullptr);
}

TEST(DLPack, NormalizesInPlace) {
  std::array<float, 6> data = {1, 5, 3, 5, 8, 5};
  std::vector<std::int64_t> shape = {3, 2};
  const DLTensor tensor = tensor_of(data.data(), shape, nullptr, type_of(kDLFloat, 32));
  const Statistics statistics = training(view(tensor), mutable_view(tensor));
  EXPECT_EQ(statistics.mean, (std::vector<double>{4, 5}));
  EXPECT_EQ(data[1], 0);
  EXPECT_LT(data[0], -1);
}

TEST(DLPack, Errors) {
  std::array<double, 8> data{};
  std::vector<std::int64_t> shape(9, 1);
  const auto message = [](const DLTensor& tensor) { return error_of([&] { (void)view(tensor); }); };
  EXPECT_EQ(message(tensor_of(data.data(), shape, nullptr, type_of(kDLFloat, 32))),
            "tensor: has 9 dimensions; expected 0 to 8");
  shape = {2};
  DLTensor negative = tensor_of(data.data(), shape, nullptr, type_of(kDLFloat, 32));
  negative.ndim = -1;
  EXPECT_EQ(message(negative), "tensor: has -1 dimensions; expected 0 to 8");
  for (const DLDataType type : {type_of(kDLFloat, 8), type_of(kDLBfloat, 32), type_of(kDLUInt, 64),
                                type_of(kDLFloat, 32, 4), type_of(kDLComplex, 64)}) {
    EXPECT_EQ(message(tensor_of(data.data(), shape, nullptr, type)),
              "tensor: DLPack type code " + std::to_string(type.code) + " with " + std::to_string(type.bits) +
                  " bits and " + std::to_string(type.lanes) + " lanes; expected " + std::string(dtype_names));
  }
  DLTensor device = tensor_of(data.data(), shape, nullptr, type_of(kDLFloat, 32));
  device.device.device_type = kDLCUDA;
  EXPECT_EQ(message(device), "tensor: DLPack device type 2; expected CPU memory (1) or CUDA host memory (3)");
}

}  // namespace
}  // namespace exactnorm::testing
