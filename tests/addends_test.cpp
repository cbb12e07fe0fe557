// Sums that an engine adds up as int64 numbers, against merge().
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "exactnorm/sums.h"
#include "support/random.h"
#include "support/tensor.h"

namespace exactnorm::testing {
namespace {

using Kind = PartialSums::Kind;
using Range = PartialSums::Range;

std::vector<std::int64_t> added(const std::vector<std::int64_t>& a, const std::vector<std::int64_t>& b) {
  std::vector<std::int64_t> sum = a;
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += b[i];
  return sum;
}

PartialSums random_sums(Random& random, Index channels, Kind kind, DType dtype) {
  PartialSums sums(channels, kind);
  const Index rows = random.between(0, 5);
  Tensor x(dtype, {rows, channels});
  Tensor dy(dtype, {rows, channels});
  for (Index i = 0; i < rows * channels; ++i) {
    const int largest = dtype == DType::float32 ? 120 : 1000;
    x.set(i, random.chance(0.05) ? NAN : random.of_exponent(-largest, largest));
    dy.set(i, random.of_exponent(-20, 20));
  }
  if (kind == Kind::moments) {
    accumulate(sums, x.view());
  } else {
    accumulate(sums, dy.view(), x.view());
  }
  return sums;
}

TEST(Addends, AddUpToWhatMergesGive) {
  Random random(501);
  for (int i = 0; i < 200 && !HasFailure(); ++i) {
    const Kind kind = random.chance(0.5) ? Kind::moments : Kind::gradients;
    const bool wide = random.chance(0.5);
    const Index channels = random.between(0, 4);
    PartialSums merged(channels, kind);
    std::vector<std::int64_t> totals = to_addends(merged, wide ? Range::extended : Range::single);
    for (Index part = random.between(1, 9); part > 0; --part) {
      const DType dtype = wide && random.chance(0.5) ? DType::float64 : DType::float32;
      const PartialSums sums = random_sums(random, channels, kind, dtype);
      merged.merge(sums);
      totals = added(totals, to_addends(sums, wide ? Range::extended : Range::single));
    }
    const PartialSums from = from_addends(totals, channels, kind, wide ? Range::extended : Range::single);
    EXPECT_EQ(from, merged);
    EXPECT_EQ(from.count(), merged.count());
    for (Index channel = 0; channel < channels; ++channel) {
      EXPECT_EQ(from.nonfinite_count(channel), merged.nonfinite_count(channel));
    }
  }
}

// As many parts as there may be, each with the largest numbers of one sign.
TEST(Addends, OfAsManyPartsAsThereMayBe) {
  constexpr std::int64_t parts = std::int64_t{1} << 16;
  for (const float number : {std::numeric_limits<float>::max(), -std::numeric_limits<float>::max(), -0x1p-149F}) {
    const std::vector<float> values(3, number);
    PartialSums one(1);
    accumulate(one, view(values, {3, 1}));
    std::vector<std::int64_t> totals = to_addends(one, Range::single);
    for (std::int64_t& total : totals) total *= parts;
    const PartialSums all = from_addends(totals, 1, Kind::moments, Range::single);
    EXPECT_EQ(all.count(), 3 * parts);
    const Statistics statistics = statistics_of(all);
    EXPECT_EQ(statistics.mean[0], number);
    EXPECT_EQ(statistics.variance[0], 0);
  }
}

// 4,096 ranks of 2^31 elements each, of the largest magnitude and either sign: mean and variance are exact.
TEST(Addends, LeaveRoomForFourThousandRanks) {
  constexpr Index ranks = 4096;
  constexpr std::int64_t repeats = std::int64_t{1} << 15;
  const float number = std::numeric_limits<float>::max();
  const std::vector<float> values = {number, number};
  PartialSums pair(1);
  accumulate(pair, view(values, {2, 1}));
  PartialSums rank = pair;
  for (int i = 0; i < 2; ++i) {
    std::vector<std::int64_t> addends = to_addends(rank, Range::single);
    for (std::int64_t& addend : addends) addend *= repeats;
    rank = from_addends(addends, 1, Kind::moments, Range::single);
  }
  ASSERT_EQ(rank.count(), Index{1} << 31);
  std::vector<std::int64_t> totals = to_addends(rank, Range::single);
  PartialSums merged = rank;
  for (Index i = 1; i < ranks; ++i) {
    totals = added(totals, to_addends(rank, Range::single));
    merged.merge(rank);
  }
  const PartialSums all = from_addends(totals, 1, Kind::moments, Range::single);
  EXPECT_EQ(all, merged);
  EXPECT_EQ(all.count(), Index{1} << 43);
  EXPECT_EQ(statistics_of(all).mean[0], number);
  EXPECT_EQ(statistics_of(all).variance[0], 0);
}

TEST(Addends, RefusesWhatTheyAreNot) {
  const PartialSums sums(2);
  std::vector<std::int64_t> totals = to_addends(sums, Range::single);
  EXPECT_EQ(totals.size(), 2 + 27 * 2U);
  EXPECT_EQ(to_addends(sums, Range::extended).size(), 2 + 143 * 2U);
  EXPECT_THROW((void)from_addends(totals, 3, Kind::moments, Range::single), Error);
  EXPECT_THROW((void)from_addends(totals, 2, Kind::moments, Range::extended), Error);
  EXPECT_THROW((void)to_addends(PartialSums(2, Kind::moments, Range::extended), Range::single), Error);
  totals[1] = (std::int64_t{1} << 30) + 1;
  EXPECT_THROW((void)from_addends(totals, 2, Kind::moments, Range::single), Error);
  totals[1] = 0;
  totals[20] = -1;
  EXPECT_THROW((void)from_addends(totals, 2, Kind::moments, Range::single), Error);
}

}  // namespace
}  // namespace exactnorm::testing
