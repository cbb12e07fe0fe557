// NaN in all its spellings.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "exactnorm/batch_norm.h"
#include "exactnorm/info.h"
#include "support/compare.h"

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

}  // namespace
}  // namespace exactnorm::testing
