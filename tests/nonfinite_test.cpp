// NaN in all its spellings.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "exactnorm/batch_norm.h"
#include "exactnorm/info.h"
#include "exactnorm/layer.h"
#include "support/compare.h"
#include "support/tensor.h"

namespace exactnorm::testing {
namespace {

// NaN comes in many bit patterns; memory filled with ones is one of them. x or dy, alone and beside numbers that
// make several windows, along and across channels, on each target.
template <typename T, typename Bits>
void check_nan_patterns(const std::vector<Bits>& patterns) {
  const TargetRestorer restorer;
  for (const std::string& target : supported_targets()) {
    set_target(target);
    for (const Bits pattern : patterns) {
      for (const double other : {1.0, 1e-30}) {
        SCOPED_TRACE(::testing::Message() << target << " " << std::hex << pattern << " beside " << other);
        const IndexList shape = {2, 2, 70};
        std::vector<T> good(280);
        for (std::size_t i = 0; i < good.size(); ++i)
          good[i] = static_cast<T>(i % 7 == 0 ? other : 1.0 + static_cast<double>(i % 5));
        std::vector<T> bad = good;
        bad[37] = std::bit_cast<T>(pattern);  // channel 0 on axis 1, channel 37 on axis 2
        for (const Index axis : {1, 2}) {
          const auto channels = shape[static_cast<std::size_t>(axis)];
          const Index poisoned = axis == 1 ? 0 : 37;
          const Options options = {.channel_axes = {axis}};
          PartialSums sums(channels, PartialSums::Kind::moments, PartialSums::Range::extended);
          accumulate(sums, view(bad, shape), options);
          const Statistics statistics = statistics_of(sums, options);
          PartialSums gradients(channels, PartialSums::Kind::gradients);
          accumulate(gradients, view(bad, shape), view(good, shape), options);
          PartialSums other_gradients(channels, PartialSums::Kind::gradients);
          accumulate(other_gradients, view(good, shape), view(bad, shape), options);
          for (Index channel = 0; channel < channels; ++channel) {
            const Index expected = channel == poisoned ? 1 : 0;
            EXPECT_EQ(sums.nonfinite_count(channel), expected);
            EXPECT_EQ(gradients.nonfinite_count(channel), expected);
            EXPECT_EQ(other_gradients.nonfinite_count(channel), expected);
            EXPECT_EQ(std::isnan(statistics.mean[static_cast<std::size_t>(channel)]), channel == poisoned);
          }
        }
      }
    }
  }
}

TEST(NonFinite, OfEveryBitPattern) {
  check_nan_patterns<float, std::uint32_t>({0x7fffffff, 0xffffffff, 0x7f800001, 0x7fc00000, 0xff800001, 0x7f800000});
  check_nan_patterns<double, std::uint64_t>(
      {0x7fffffffffffffff, 0xffffffffffffffff, 0x7ff0000000000001, 0x7ff8000000000000, 0xfff0000000000000});
}

// NaN in x keeps the quick sums away while dy outgrows the exponent that its first elements had: dbeta is the sum of
// dy, whatever the layout.
TEST(NonFinite, BesideNumbersThatGrow) {
  const TargetRestorer restorer;
  constexpr Index side = 128;
  constexpr Index count = side * side;
  std::vector<float> x(count, 0);
  std::vector<float> dy(count, 255);
  std::fill_n(dy.begin(), 64, 1.0F);
  for (std::size_t i = 100; i < x.size(); i += 1024) x[i] = std::nanf("");
  for (const std::string& target : supported_targets()) {
    set_target(target);
    for (const IndexList& shape : {IndexList{1, 1, side, side}, IndexList{count, 1}, IndexList{count / 4, 4}}) {
      for (const int threads : {1, 2, 5}) {
        SCOPED_TRACE(::testing::Message() << target << " " << to_string(shape) << " " << threads);
        const Options options = {.threads = threads};
        const Index channels = shape[1];
        std::vector<double> dbeta(static_cast<std::size_t>(channels));
        std::vector<double> right(dbeta.size());
        for (std::size_t i = 0; i < dy.size(); ++i) right[channels == 1 ? 0 : i % right.size()] += double{dy[i]};
        const std::vector<double> means(dbeta.size(), 0);
        const std::vector<double> variances(dbeta.size(), 1);
        backward_frozen(view(dy, shape), view(x, shape),
                        given_statistics(view(means, {channels}), view(variances, {channels})), {},
                        {.dbeta = mutable_view(dbeta, {channels})}, options);
        EXPECT_EQ(dbeta, right);
      }
    }
  }
}

// Ignored, they leave the statistics of the other elements, whatever the parts that sums were taken of.
TEST(NonFinite, IsLeftOutOfStatistics) {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  constexpr double infinity = std::numeric_limits<double>::infinity();
  // Rows of four channels: all finite, some, one, none.
  const std::vector<double> x = {1, nan, -infinity, nan, 2, 5, 7, infinity, 6, -3, nan, nan, 8, infinity, nan, nan};
  for (const DType dtype : {DType::float32, DType::float64, DType::float16}) {
    const Tensor tensor(dtype, {4, 4}, x);
    PartialSums sums(4);
    for (Index row = 0; row < 4; ++row) accumulate(sums, slice(tensor.view(), 0, row, 1));
    for (const bool normalizing : {false, true}) {
      const auto get = normalizing ? normalizing_statistics : statistics_of;
      const Statistics found = get(sums, {}, Nonfinite::ignore);
      EXPECT_EQ(found.count, 4);
      EXPECT_EQ(found.counts, (std::vector<Index>{4, 2, 1, 0}));
      const auto of = [&](const std::vector<double>& values) {
        PartialSums alone(1);
        accumulate(alone, Tensor(dtype, {static_cast<Index>(values.size()), 1}, values).view());
        return get(alone, {}, Nonfinite::propagate);
      };
      const std::array<Statistics, 4> right = {of({1, 2, 6, 8}), of({5, -3}), of({7}), of({})};
      for (std::size_t i = 0; i < right.size(); ++i) {
        EXPECT_TRUE(same_bits(
            {found.mean[i], found.mean_residual[i], found.variance[i], found.inverse_deviation[i]},
            {right[i].mean[0], right[i].mean_residual[0], right[i].variance[0], right[i].inverse_deviation[0]}))
            << i;
      }
      EXPECT_TRUE(std::isnan(get(sums, {}, Nonfinite::propagate).mean[1]));
      EXPECT_TRUE(get(sums, {}, Nonfinite::propagate).counts.empty());
    }
    const Deviations deviations = deviations_of(sums, Nonfinite::ignore);
    EXPECT_EQ(deviations.biased[1], 4);
    EXPECT_EQ(deviations.unbiased[1], std::sqrt(32.0));
    EXPECT_EQ(deviations.biased[2], 0);
    EXPECT_TRUE(std::isnan(deviations.unbiased[2]));
    EXPECT_TRUE(std::isnan(deviations.biased[3]));
  }
}

// Each channel's variance is made unbiased by its own count; what has none is refused.
TEST(NonFinite, LeftOutIsKnownToRunningStatistics) {
  const std::vector<double> x = {1, 5, 7, NAN, 3, NAN, NAN, NAN, 5, -3, NAN, NAN};
  PartialSums sums(4);
  accumulate(sums, view(x, {3, 4}));
  const Statistics statistics = statistics_of(sums, {}, Nonfinite::ignore);
  RunningStatistics running(4);
  running.momentum = 1;
  EXPECT_EQ(running.update(statistics), (std::vector<Index>{2, 3}));
  EXPECT_EQ(running.mean, (std::vector<double>{3, 1, 0, 0}));
  EXPECT_EQ(running.variance, (std::vector<double>{4, 32, 1, 1}));
  running.variance_kind = VarianceKind::biased;
  EXPECT_EQ(running.update(statistics), (std::vector<Index>{3}));
  EXPECT_EQ(running.mean[2], 7);
  EXPECT_EQ(running.variance[2], 0);

  std::vector<double> dx(12);
  EXPECT_EQ(error_of([&] {
              backward(view(x, {3, 4}), view(x, {3, 4}), statistics, {}, {mutable_view(dx, {3, 4})});
            }),
            "statistics: are of another number of elements in each channel; expected those of all elements of x, or "
            "`backward_frozen`");
  Statistics wrong = statistics;
  wrong.counts.pop_back();
  EXPECT_EQ(error_of([&] { static_cast<void>(running.update(wrong)); }),
            "batch: has 3 counts; expected none, or 4, one per channel");
}

}  // namespace
}  // namespace exactnorm::testing
