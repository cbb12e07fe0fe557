// The vector code of the reduce room against integers.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "combine/accumulator.h"
#include "exactnorm/info.h"
#include "exactnorm/partial_sums.h"
#include "reduce/tile_adder.h"
#include "support/compare.h"
#include "support/integer.h"
#include "support/random.h"

namespace exactnorm::testing {
namespace {

// Tiles of any content, as sums of one channel and of several, against cpp_int.
template <typename T>
class TileSum : public ::testing::Test {};
using TileTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(TileSum, TileTypes);

Integer sum_of(const PartialSums& sums, Index channel, int which) {
  const std::uint64_t* words = PartialSumsAccess::words(sums, channel, which);
  return number({words, words + format_of(sums.kind(), sums.range()).words[which]});
}

// The sums that come nearest to the limits of the kernels: as many rows as may be, of the largest number of a
// binade, of one sign, at the ends of the range and in its midst.
TYPED_TEST(TileSum, IsExactAtItsLimits) {
  using T = TypeParam;
  const TargetRestorer restorer;
  constexpr bool single = sizeof(T) == 4;
  constexpr int lowest = single ? -149 : -1074;
  const auto range = single ? PartialSums::Range::single : PartialSums::Range::extended;
  const std::vector<int> tops =
      single ? std::vector<int>{127, 1, 0, -107, -108, -126} : std::vector<int>{1023, 1, 0, -991, -992, -1022};
  for (const std::string& target : supported_targets()) {
    set_target(target);
    for (const int top : tops) {
      for (const T sign : {T{1}, T{-1}}) {
        const T value = sign * std::nextafter(std::ldexp(T{1}, top), T{0}) * (top > -100 ? T{2} : T{1});
        ASSERT_TRUE(std::isfinite(value));
        const std::vector<T> values(static_cast<std::size_t>(maximum_tile_rows * tile_lanes), value);
        const Tile<T> tile = {values.data(), maximum_tile_rows, tile_lanes};
        for (const bool gradients : {false, true}) {
          const auto kind = gradients ? PartialSums::Kind::gradients : PartialSums::Kind::moments;
          ChannelSums channel_sums(1, kind, range);
          channel_sums.make_room(maximum_tile_rows * tile_lanes);
          TileAdder<T> adder(channel_sums);
          if (gradients) {
            adder.add_to_channel(tile, tile, 0);
          } else {
            adder.add_to_channel(tile, 0);
          }
          PartialSums sums(1, kind, range);
          channel_sums.add_to(sums, 0, 0);
          const Integer in_linear_units = in_units(static_cast<double>(value), lowest);
          const Integer count = maximum_tile_rows * tile_lanes;
          EXPECT_EQ(sum_of(sums, 0, 0), count * in_linear_units) << target << " 2^" << top;
          EXPECT_EQ(sum_of(sums, 0, 1), count * in_linear_units * in_linear_units) << target << " 2^" << top;
        }
      }
    }
  }
}

TYPED_TEST(TileSum, IsExact) {
  using T = TypeParam;
  const TargetRestorer restorer;
  Random random(87);
  constexpr bool single = sizeof(T) == 4;
  constexpr int lowest = single ? -149 : -1074;
  constexpr int highest = single ? 126 : 1022;
  constexpr int window = window_bits<T>;
  const auto range = single ? PartialSums::Range::single : PartialSums::Range::extended;
  for (const std::string& target : supported_targets()) {
    set_target(target);
    for (int i = 0; i < 40 && !this->HasFailure(); ++i) {
      const auto rows = static_cast<Index>(std::array{1, 2, 128, 512, 77}[static_cast<std::size_t>(i % 5)]);
      const Index stride = tile_lanes + random.between(0, 9);
      std::vector<T> values[2];
      for (auto& operand : values) {
        const int top = static_cast<int>(random.between(lowest + 60, highest));
        const int kind = static_cast<int>(random.between(0, 5));
        for (Index j = 0; j < rows * stride; ++j) {
          T value = 0;
          if (kind == 0) value = static_cast<T>(random.of_exponent(lowest, highest));
          if (kind == 1) value = static_cast<T>(random.of_exponent(std::max(lowest, top - window - 2), top));
          // The largest number of a binade, all of one sign: the sums that come nearest to their limits.
          if (kind == 2) value = std::nextafter(static_cast<T>(std::ldexp(1.0, top)) * T{2}, T{0});
          if (kind == 3)
            value = static_cast<T>(
                std::ldexp(random.chance(0.5) ? 1 : -1, top - window * static_cast<int>(random.between(0, 2))));
          if (kind == 4) value = static_cast<T>(random.chance(0.9) ? 0.0 : random.of_exponent(lowest, highest));
          if (kind == 5)
            value = std::nextafter(static_cast<T>(std::ldexp(1.0, top - window)), random.chance(0.5) ? T{0} : T{1});
          operand.push_back(value);
        }
      }
      const Tile<T> a = {values[0].data(), rows, stride};
      const Tile<T> b = {values[1].data(), rows, stride};
      const int lanes = static_cast<int>(random.between(1, tile_lanes));
      const int period = random.chance(0.5) ? lanes : std::max(1, lanes / 3);
      for (const bool gradients : {false, true}) {
        for (const bool one_channel : {false, true}) {
          const auto kind = gradients ? PartialSums::Kind::gradients : PartialSums::Kind::moments;
          ChannelSums channel_sums(one_channel ? 1 : period, kind, range);
          channel_sums.make_room(rows * tile_lanes);
          TileAdder<T> adder(channel_sums);
          if (one_channel) {
            gradients ? adder.add_to_channel(a, b, 0) : adder.add_to_channel(a, 0);
          } else {
            gradients ? adder.add_to_channels(a, b, 0, 0, lanes, period)
                      : adder.add_to_channels(a, 0, 0, lanes, period);
          }
          PartialSums sums(channel_sums.channels(), kind, range);
          for (Index channel = 0; channel < sums.channels(); ++channel) channel_sums.add_to(sums, channel, channel);
          const SumFormat format = format_of(PartialSums::Kind::moments, range);
          for (Index channel = 0; channel < sums.channels(); ++channel) {
            Integer first = 0;
            Integer second = 0;
            for (Index row = 0; row < rows; ++row) {
              for (Index lane = 0; lane < (one_channel ? tile_lanes : lanes); ++lane) {
                if (!one_channel && lane % period != channel) continue;
                const auto at = static_cast<std::size_t>(row * stride + lane);
                const Integer x = in_units(static_cast<double>(values[0][at]), format.unit_exponents[0]);
                first += x;
                second += x * (gradients ? in_units(static_cast<double>(values[1][at]), format.unit_exponents[0]) : x);
              }
            }
            for (const int which : {0, 1}) {
              ASSERT_EQ(sum_of(sums, channel, which), which == 0 ? first : second)
                  << target << " case " << i << " gradients " << gradients << " one channel " << one_channel;
            }
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace exactnorm::testing
