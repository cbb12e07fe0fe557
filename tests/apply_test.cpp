// Apply, box by box: every element of a box once, with the coefficients of its channel, and nothing else, in any
// layout.
#include "affine/apply.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "exactnorm/info.h"
#include "support/compare.h"
#include "support/random.h"
#include "support/tensor.h"
#include "traverse/loop_nest.h"
#include "traverse/partition.h"

namespace exactnorm::testing {
namespace {

constexpr double untouched = -123456;

// Some of them long enough for rows of whole lines, or with planes of a few elements.
IndexList random_shape(Random& random) {
  if (random.chance(0.2)) return {random.between(8, 60), random.between(1, 40), random.between(2, 17)};
  if (random.chance(0.2)) return {random.between(1, 200), random.between(1, 130)};
  IndexList shape;
  for (auto rank = random.between(1, 4); rank > 0; --rank) {
    shape.push_back(random.chance(0.2) ? random.between(1, 3) : random.between(1, rank == 1 ? 300 : 24));
  }
  return shape;
}

// Two boxes that make up the whole nest.
std::array<Box, 2> halves(Random& random, const LoopNest& nest) {
  Box first;
  for (const Loop& loop : nest.loops) first.push_back({0, loop.size});
  Box second = first;
  const auto at = static_cast<std::size_t>(random.between(0, static_cast<Index>(first.size()) - 1));
  const Index cut = random.between(0, first[at].size);
  first[at].size = cut;
  second[at] = {cut, second[at].size - cut};
  return {first, second};
}

Index elements_of(const Box& box) {
  Index elements = 1;
  for (const Range& range : box) elements *= range.size;
  return elements;
}

class Problem {
 public:
  Problem(Random& random, const IndexList& shape)
      : x_(Tensor::strided(dtype(random), shape, strides(random, shape))),
        dy_(Tensor::strided(dtype(random), shape, strides(random, shape))),
        out_(Tensor::strided(random.chance(0.7) ? DType::float32 : DType::float64, shape, strides(random, shape))),
        with_dy_(random.chance(0.5)) {
    for (Index i = 0; i < x_.count(); ++i) {
      x_.set(i, static_cast<double>(random.between(-100, 100)));
      dy_.set(i, static_cast<double>(random.between(-100, 100)));
      out_.set(i, untouched);
    }
    for (std::size_t axis = 0; axis < shape.size(); ++axis) {
      if (random.chance(0.4)) channel_axes_.push_back(static_cast<Index>(axis));
    }
    numbers_ = number_channels(channel_axes_, shape);
    Index channels = 1;
    for (const Index axis : channel_axes_) channels *= shape[static_cast<std::size_t>(axis)];
    for (Index channel = 0; channel < channels; ++channel) {
      means_.push_back(static_cast<double>(random.between(-100, 100)));
      shifts_.push_back(static_cast<double>(random.between(-100, 100)));
    }
  }

  void check(Random& random) {
    const Store store = random.chance(0.5) ? Store::streamed : Store::cached;
    const TensorView x = std::as_const(x_).view();
    const TensorView dy = std::as_const(dy_).view();
    const OutputOperand out = {out_.view().data, out_.view().dtype};
    const ApplyOperands operands =
        with_dy_ ? ApplyOperands(dy, x, Formula::gradient, out, store) : ApplyOperands(x, out, store);
    std::vector<TensorView> views = {x, std::as_const(out_).view()};
    if (with_dy_) views.insert(views.begin(), dy);
    const LoopNest nest = make_loop_nest(views, channel_axes_, numbers_);
    const CoefficientTable table = coefficients();
    Index done = 0;
    for (const Box& box : halves(random, nest)) {
      if (elements_of(box) == 0) continue;
      apply_box(nest, box, operands, table.view());
      done += elements_of(box);
      ASSERT_EQ(count_touched(), done);
    }
    for (Index i = 0; i < out_.count(); ++i) ASSERT_NEAR(out_.get(i), expected(i), 0.01) << "element " << i;
    ASSERT_TRUE(out_.guards_intact());
  }

 private:
  static DType dtype(Random& random) {
    const std::array dtypes = {DType::float32, DType::float32, DType::float32, DType::float64, DType::int8};
    return dtypes[static_cast<std::size_t>(random.between(0, 4))];
  }
  static IndexList strides(Random& random, const IndexList& shape) {
    return random.chance(0.6) ? Tensor::dense_strides(shape) : random_strides(random, shape);
  }

  // Sums of small integers: the coefficients of another channel give another integer.
  [[nodiscard]] CoefficientTable coefficients() const {
    const auto channels = static_cast<Index>(means_.size());
    CoefficientTable table(channels);
    const auto fill = [&](double* column, double value) { std::fill_n(column, channels, value); };
    if (with_dy_) {
      const BackwardColumns columns = table.backward(0);
      std::copy(means_.begin(), means_.end(), columns.mean);
      std::copy(shifts_.begin(), shifts_.end(), columns.shift);
      for (double* column : {columns.x_scale, columns.normalized_scale, columns.dy_scale}) fill(column, 1);
      table.finish_backward(0, channels);
    } else {
      const ForwardColumns columns = table.forward(0);
      std::copy(means_.begin(), means_.end(), columns.mean);
      std::copy(shifts_.begin(), shifts_.end(), columns.shift);
      for (double* column : {columns.scale, columns.variance}) fill(column, 1);
      table.finish_forward(0, channels);
    }
    return table;
  }
  [[nodiscard]] double expected(Index position) const {
    const IndexList at = unravel(position, x_.shape());
    Index channel = 0;
    for (std::size_t axis = 0; axis < at.size(); ++axis) channel += at[axis] * numbers_.strides[axis];
    const auto c = static_cast<std::size_t>(channel);
    return x_.get(position) - means_[c] + shifts_[c] + (with_dy_ ? dy_.get(position) : 0);
  }
  [[nodiscard]] Index count_touched() const {
    Index count = 0;
    for (Index i = 0; i < out_.count(); ++i) count += out_.get(i) == untouched ? 0 : 1;
    return count;
  }

  Tensor x_;
  Tensor dy_;
  Tensor out_;
  bool with_dy_;
  IndexList channel_axes_;
  ChannelMap numbers_;
  std::vector<double> means_;
  std::vector<double> shifts_;
};

TEST(ApplyBox, WritesEveryElementOnceOfAnyLayout) {
  const TargetRestorer restorer;
  Random random(4001);
  const std::vector<std::string> targets = supported_targets();
  for (int i = 0; i < 600 && !HasFailure(); ++i) {
    SCOPED_TRACE(i);
    set_target(targets[static_cast<std::size_t>(i) % targets.size()]);
    Problem(random, random_shape(random)).check(random);
  }
}

// More than one block of regions in every loop.
TEST(ApplyBox, WritesLargeBoxes) {
  Random random(4002);
  const std::array<IndexList, 6> shapes = {{{300000}, {3, 70000}, {70000, 3}, {400, 300}, {5, 300, 100}, {60, 250, 9}}};
  for (int i = 0; i < 24 && !HasFailure(); ++i) {
    SCOPED_TRACE(i);
    Problem(random, shapes[static_cast<std::size_t>(i) % shapes.size()]).check(random);
  }
}

}  // namespace
}  // namespace exactnorm::testing
