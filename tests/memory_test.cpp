// Nothing outside of a view is even read: views end, or begin, where memory that may not be touched begins.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <new>
#include <string>
#include <vector>

#include "exactnorm/batch_norm.h"
#include "exactnorm/info.h"
#include "support/compare.h"
#include "support/random.h"
#include "support/tensor.h"

namespace exactnorm::testing {
namespace {

/// Memory between two pages that fault when touched, for one row-major tensor at its end or its beginning.
class Fenced {
 public:
  Fenced(DType dtype, const IndexList& shape, bool at_end) : dtype_(dtype), shape_(shape) {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t size = static_cast<std::size_t>(product(shape)) * size_of(dtype);
    const std::size_t inside = (size + page - 1) / page * page;
    length_ = inside + 2 * page;
    void* memory = mmap(nullptr, length_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    memory_ = static_cast<std::byte*>(memory);
    if (mprotect(memory_ + page, inside, PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
    data_ = memory_ + page + (at_end ? inside - size : 0);
  }
  Fenced(const Fenced&) = delete;
  Fenced& operator=(const Fenced&) = delete;
  ~Fenced() { munmap(memory_, length_); }

  [[nodiscard]] MutableTensorView view() const { return {data_, dtype_, shape_, Tensor::dense_strides(shape_)}; }
  void fill(const std::vector<double>& values) {
    with_type(dtype_, [&](auto type) {
      using Element = decltype(type);
      std::transform(values.begin(), values.end(), reinterpret_cast<Element*>(data_),
                     [](double value) { return static_cast<Element>(value); });
    });
  }
  [[nodiscard]] std::vector<double> values() const {
    std::vector<double> values(static_cast<std::size_t>(product(shape_)));
    with_type(dtype_, [&](auto type) {
      const auto* from = reinterpret_cast<const decltype(type)*>(data_);
      std::transform(from, from + values.size(), values.begin(),
                     [](const auto& value) { return static_cast<double>(value); });
    });
    return values;
  }

 private:
  DType dtype_;
  IndexList shape_;
  std::byte* memory_ = nullptr;
  std::size_t length_ = 0;
  std::byte* data_ = nullptr;
};

void check(DType dtype, const IndexList& shape, bool at_end) {
  Random random(91);
  std::vector<double> values;
  for (Index i = 0; i < product(shape); ++i) values.push_back(static_cast<double>(random.between(0, 100)));
  const DType floating = is_floating(dtype) ? dtype : DType::float32;
  Fenced x(dtype, shape, at_end);
  Fenced dy(floating, shape, at_end);
  const Fenced y(floating, shape, at_end);
  const Fenced dx(floating, shape, at_end);
  x.fill(values);
  dy.fill(values);
  const Statistics statistics = training(x.view(), y.view());
  inference(x.view(), statistics, y.view());
  backward(dy.view(), x.view(), statistics, {}, {dx.view(), {}, {}});

  // In the middle of other memory, the same.
  const Tensor free_x(dtype, shape, values);
  Tensor free_y(floating, shape);
  EXPECT_TRUE(same_bits(training(free_x.view(), free_y.view()), statistics));
  EXPECT_TRUE(same_bits(free_y.values(), y.values()));
}

TEST(Memory, OutsideOfAViewIsNotTouched) {
  const TargetRestorer restorer;
  for (const std::string& target : supported_targets()) {
    set_target(target);
    for (const DType dtype : {DType::float32, DType::float64, DType::bfloat16, DType::float16, DType::int8}) {
      for (const bool at_end : {false, true}) {
        SCOPED_TRACE(target + " " + std::string(name_of(dtype)) + (at_end ? " at the end" : " at the beginning"));
        // Channels last, with as many rows as make the kernels read in place.
        for (Index channels = 1; channels <= 70; ++channels) {
          for (const Index rows : {1, 31, 127, 128, 129, 160, 161, 200}) check(dtype, {rows, channels}, at_end);
        }
        for (const Index size : {1, 3, 7, 15, 31, 32, 33, 63, 127, 129, 4095, 4096, 4097}) {
          check(dtype, {2, 3, size}, at_end);
        }
      }
    }
  }
}

}  // namespace
}  // namespace exactnorm::testing
