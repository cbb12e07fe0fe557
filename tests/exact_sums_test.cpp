// Exact sums against integers: the vector code over tiles, and any layout.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "exactnorm/info.h"
#include "exactnorm/options.h"
#include "exactnorm/statistics.h"
#include "exactnorm/sums.h"
#include "sums/superaccumulator.h"
#include "sums/tile_adder.h"
#include "support/compare.h"
#include "support/integer.h"
#include "support/random.h"
#include "support/tensor.h"
#include "traverse/loop_nest.h"

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
          PartialSums sums(1, kind, range);
          TileAdder<T> adder(sums);
          const Index channel = 0;
          const LaneTarget target_lanes = {&channel, 0, tile_lanes, true};
          gradients ? adder.add(std::array{tile, tile}, target_lanes) : adder.add(std::array{tile}, target_lanes);
          const Integer in_linear_units = in_units(static_cast<double>(value), lowest);
          const Integer count = maximum_tile_rows * tile_lanes;
          EXPECT_EQ(sum_of(sums, 0, 0), count * in_linear_units) << target << " 2^" << top;
          EXPECT_EQ(sum_of(sums, 0, 1), count * in_linear_units * in_linear_units) << target << " 2^" << top;
          if (gradients && single) {
            EXPECT_EQ(sum_of(sums, 0, 2), sum_of(sums, 0, 1)) << target << " 2^" << top;
          }
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
      const int first_lane = random.chance(0.5) ? 0 : static_cast<int>(random.between(0, lanes - 1));
      const int period = random.chance(0.5) ? lanes : std::max(1, lanes / 3);
      for (const bool gradients : {false, true}) {
        for (const bool one_channel : {false, true}) {
          const auto kind = gradients ? PartialSums::Kind::gradients : PartialSums::Kind::moments;
          PartialSums sums(one_channel ? 1 : period, kind, range);
          TileAdder<T> adder(sums);
          std::array<Index, tile_lanes> channels{};
          for (Index lane = 0; lane < tile_lanes; ++lane) channels[static_cast<std::size_t>(lane)] = lane % period;
          const LaneTarget to = one_channel ? LaneTarget{channels.data(), 0, tile_lanes, true}
                                            : LaneTarget{channels.data(), first_lane, lanes, false};
          gradients ? adder.add(std::array{a, b}, to) : adder.add(std::array{a}, to);
          const SumFormat format = format_of(PartialSums::Kind::moments, range);
          for (Index channel = 0; channel < sums.channels(); ++channel) {
            Integer first = 0;
            Integer second = 0;
            Integer third = 0;
            for (Index row = 0; row < rows; ++row) {
              for (Index lane = one_channel ? 0 : first_lane; lane < (one_channel ? tile_lanes : lanes); ++lane) {
                if (!one_channel && lane % period != channel) continue;
                const auto at = static_cast<std::size_t>(row * stride + lane);
                const Integer x = in_units(static_cast<double>(values[0][at]), format.unit_exponents[0]);
                first += x;
                third += x * x;
                second += x * (gradients ? in_units(static_cast<double>(values[1][at]), format.unit_exponents[0]) : x);
              }
            }
            for (const int which : {0, 1}) {
              ASSERT_EQ(sum_of(sums, channel, which), which == 0 ? first : second)
                  << target << " case " << i << " gradients " << gradients << " one channel " << one_channel;
            }
            if (gradients && single) {
              ASSERT_EQ(sum_of(sums, channel, 2), third) << target << " case " << i;
            }
          }
        }
      }
    }
  }
}

// Any layout and dtype, numbers of far apart magnitudes, some of them not finite: every element once, in its channel.
TEST(ExactSums, TakeEveryElementOnceOfAnyLayout) {
  const TargetRestorer restorer;
  Random random(88);
  const std::vector<std::string> targets = supported_targets();
  constexpr std::array dtypes = {DType::float32, DType::float32, DType::float64, DType::int16, DType::int32};
  for (int i = 0; i < 300 && !HasFailure(); ++i) {
    SCOPED_TRACE(i);
    set_target(targets[static_cast<std::size_t>(i) % targets.size()]);
    IndexList shape;
    for (auto rank = random.between(1, 4); rank > 0; --rank) {
      shape.push_back(random.chance(0.2) ? random.between(1, 3) : random.between(1, rank == 1 ? 2500 : 6));
    }
    Options options;
    options.threads = static_cast<int>(random.between(1, 3));
    options.channel_axes = {};
    Index channels = 1;
    for (std::size_t axis = 0; axis < shape.size(); ++axis) {
      if (!random.chance(0.4)) continue;
      options.channel_axes.push_back(static_cast<Index>(axis));
      channels *= shape[axis];
    }
    const ChannelMap numbers = number_channels(options.channel_axes, shape);
    const bool gradients = random.chance(0.5);
    std::vector<Tensor> operands;
    for (int j = 0; j < (gradients ? 2 : 1); ++j) {
      // A gradient is of floating point.
      const DType dtype = dtypes[static_cast<std::size_t>(random.between(0, gradients && j == 0 ? 2 : 4))];
      const bool is_float = dtype == DType::float32 || dtype == DType::float64;
      operands.push_back(Tensor::strided(dtype, shape, random_strides(random, shape)));
      const bool wide = random.chance(0.3);
      for (Index at = 0; at < operands.back().count(); ++at) {
        double value = static_cast<double>(random.between(-30000, 30000));
        if (is_float) value = wide ? random.of_exponent(-100, 100) : random.normal() + 2;
        if (is_float && random.chance(0.0005)) value = std::numeric_limits<double>::infinity();
        operands.back().set(at, value);
      }
    }
    const auto kind = gradients ? PartialSums::Kind::gradients : PartialSums::Kind::moments;
    PartialSums sums(channels, kind);
    if (gradients) {
      accumulate(sums, std::as_const(operands[0]).view(), std::as_const(operands[1]).view(), options);
    } else {
      accumulate(sums, std::as_const(operands[0]).view(), options);
    }
    const SumFormat format = format_of(kind, sums.range());
    const auto size = static_cast<std::size_t>(channels);
    std::array<std::vector<Integer>, 3> expected = {std::vector<Integer>(size), std::vector<Integer>(size),
                                                    std::vector<Integer>(size)};
    std::array<std::vector<Index>, 2> nonfinite = {std::vector<Index>(size), std::vector<Index>(size)};
    for (Index at = 0; at < operands[0].count(); ++at) {
      const IndexList index = unravel(at, shape);
      std::size_t channel = 0;
      for (std::size_t axis = 0; axis < shape.size(); ++axis) {
        channel += static_cast<std::size_t>(index[axis] * numbers.strides[axis]);
      }
      std::array<Integer, 2> values;
      for (std::size_t j = 0; j < operands.size(); ++j) {
        const double value = operands[j].get(at);
        if (std::isfinite(value)) {
          values[j] = in_units(value, format.unit_exponents[0]);
        } else {
          ++nonfinite[j][channel];
        }
      }
      expected[0][channel] += values[0];
      expected[1][channel] += values[0] * values[gradients ? 1 : 0];
      expected[2][channel] += values[0] * values[0];
    }
    for (Index channel = 0; channel < channels; ++channel) {
      const auto at = static_cast<std::size_t>(channel);
      for (int which = 0; which < SumFormat::sums; ++which) {
        if (format.words[which] == 0) continue;
        ASSERT_EQ(sum_of(sums, channel, which), expected[static_cast<std::size_t>(which)][at])
            << "sum " << which << " of channel " << channel;
      }
      ASSERT_EQ(sums.nonfinite_count(channel), nonfinite[0][at] + nonfinite[1][at]);
    }
  }
}

}  // namespace
}  // namespace exactnorm::testing
