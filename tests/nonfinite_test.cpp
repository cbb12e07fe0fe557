// NaN in all its spellings.
#include <gtest/gtest.h>

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

}  // namespace
}  // namespace exactnorm::testing
