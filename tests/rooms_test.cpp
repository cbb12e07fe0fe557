// The parts behind the interface, each against a simpler way to the same end.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "exactnorm/info.h"
#include "sums/big_integer.h"
#include "sums/superaccumulator.h"
#include "support/compare.h"
#include "support/integer.h"
#include "support/oracle.h"
#include "support/random.h"
#include "support/tensor.h"
#include "tensor/checks.h"
#include "traverse/loop_nest.h"
#include "traverse/partition.h"

namespace exactnorm::testing {
namespace {

using testing::number;

Integer number(const BigInteger& big) {
  Integer value = 0;
  for (int first = (big.bit_length() + 63) / 64 * 64; first >= 0; first -= 64) {
    value = (value << 64) + big.bits_from(first);
  }
  return big.is_negative() ? Integer(-value) : value;
}

std::vector<std::uint64_t> random_words(Random& random) {
  std::vector<std::uint64_t> words(static_cast<std::size_t>(random.between(0, 40)));
  for (std::uint64_t& word : words) {
    // Long runs of ones and zeros make carries run.
    word = std::array{random.bits(), ~std::uint64_t{0}, std::uint64_t{0}, std::uint64_t{1} << 63,
                      std::uint64_t{1}}[static_cast<std::size_t>(random.between(0, 4))];
  }
  return words;
}

BigInteger big(const std::vector<std::uint64_t>& words) { return {words.data(), static_cast<int>(words.size())}; }

TEST(BigInteger, CalculatesAsCppIntDoes) {
  Random random(81);
  for (int i = 0; i < 3000 && !HasFailure(); ++i) {
    const auto a_words = random_words(random);
    const auto b_words = random.chance(0.1) ? a_words : random_words(random);
    const BigInteger a = big(a_words);
    const BigInteger b = big(b_words);
    const Integer x = number(a_words);
    const Integer y = number(b_words);
    ASSERT_EQ(number(a), x);
    EXPECT_EQ(number(a + b), x + y);
    EXPECT_EQ(number(a - b), x - y);
    EXPECT_EQ(number(a * b), x * y);
    EXPECT_EQ(number(a.negated()), -x);
    EXPECT_EQ((a - a).is_zero(), true);
    EXPECT_EQ((a - a).is_negative(), false);
    const int shift = static_cast<int>(random.between(0, 300));
    EXPECT_EQ(number(a.shifted_left(shift)), x << static_cast<unsigned>(shift));
    EXPECT_EQ(a.bit_length(), x == 0 ? 0 : static_cast<int>(msb(Integer(abs(x)))) + 1);
    const auto end = static_cast<unsigned>(random.between(0, 2700));
    EXPECT_EQ(a.any_bit_below(static_cast<int>(end)), (abs(x) & ((Integer(1) << end) - 1)) != 0);
    const int first = static_cast<int>(random.between(-100, 2700));
    Integer bits = abs(x);
    if (first < 0) bits <<= static_cast<unsigned>(-first);
    if (first > 0) bits >>= static_cast<unsigned>(first);
    EXPECT_EQ(a.bits_from(first), static_cast<std::uint64_t>(bits & ~std::uint64_t{0}));
    const std::uint64_t divisor = std::max<std::uint64_t>(random.bits() >> random.between(0, 63), 1);
    BigInteger quotient = a;
    const bool remainder = quotient.divide_by(divisor);
    EXPECT_EQ(number(quotient), x / divisor);
    EXPECT_EQ(remainder, x % divisor != 0);
  }
}

TEST(BigInteger, OfOneWord) {
  for (const std::int64_t value :
       {std::int64_t{0}, std::int64_t{1}, std::int64_t{-1}, std::numeric_limits<std::int64_t>::max(),
        std::numeric_limits<std::int64_t>::min()}) {
    EXPECT_EQ(number(BigInteger(value)), Integer(value));
  }
  EXPECT_EQ(number(BigInteger(~std::uint64_t{0})), (Integer(1) << 64) - 1);
}

Rational power_of_two(int exponent) {
  const Integer power = Integer(1) << static_cast<unsigned>(std::abs(exponent));
  return exponent >= 0 ? Rational(power) : Rational(Integer(1), power);
}

void check_divide(const std::vector<std::uint64_t>& words, std::uint64_t first, std::uint64_t second, int exponent) {
  const ScaledNumber result = divide(big(words), first, second, exponent);
  const Rational exact = Rational(number(words)) / first / second * power_of_two(exponent);
  // Rounding is decided at an exponent where float64 is ordinary.
  const Rational scaled = exact * power_of_two(-result.exponent);
  ASSERT_EQ(result.high, correctly_rounded(scaled));
  if (exact != 0) {
    EXPECT_GE(std::fabs(result.high), 1);
    EXPECT_LT(std::fabs(result.high), 2);
  }
}

TEST(Divide, RoundsToNearest) {
  Random random(82);
  for (int i = 0; i < 1500 && !HasFailure(); ++i) {
    const auto divisor = [&] { return std::max<std::uint64_t>(random.bits() >> random.between(1, 63), 1); };
    check_divide(random_words(random), divisor(), random.chance(0.5) ? 1 : divisor(),
                 static_cast<int>(random.between(-2000, 500)));
  }
}

// An odd 54-bit number is a tie between two float64 numbers; one more or less, far below, is not.
TEST(Divide, RoundsTiesToEven) {
  Random random(83);
  for (int i = 0; i < 500 && !HasFailure(); ++i) {
    std::uint64_t mantissa = (random.bits() >> 10) | std::uint64_t{1} << 53 | 1;
    if (i % 10 == 0) mantissa = (std::uint64_t{1} << 54) - 1;  // rounds up to a power of two
    if (i % 10 == 1) mantissa = (std::uint64_t{1} << 53) + 1;
    Integer value = Integer(mantissa) << static_cast<unsigned>(random.between(0, 900));
    value += random.between(-1, 1);
    std::vector<std::uint64_t> words;
    Integer rest = value;
    for (int word = 0; word < 16; ++word) {
      words.push_back(static_cast<std::uint64_t>(rest & ~std::uint64_t{0}));
      rest >>= 64;
    }
    if (random.chance(0.5)) {  // its negative
      std::uint64_t carry = 1;
      for (std::uint64_t& word : words) {
        word = ~word + carry;
        carry = carry != 0 && word == 0 ? 1 : 0;
      }
    }
    check_divide(words, 1, 1, -300);
  }
}

TEST(Accumulator, AddScaledAddsAndCarries) {
  Random random(84);
  for (int i = 0; i < 20000 && !HasFailure(); ++i) {
    const auto size = static_cast<std::size_t>(random.between(2, 8));
    std::vector<std::uint64_t> words(size);
    for (std::uint64_t& word : words)
      word = random.chance(0.5) ? random.bits() : 0 - static_cast<std::uint64_t>(random.between(0, 1));
    words.back() = static_cast<std::uint64_t>(static_cast<std::int64_t>(words.back()) >> 2);  // away from overflow
    auto value = static_cast<std::int64_t>(random.bits()) >> random.between(0, 63);
    int shift = static_cast<int>(random.between(-80, static_cast<Index>(64 * size) - 66));
    if (shift < 0) {  // then the value is a multiple of 2^-shift
      value = shift > -63 ? value >> -shift << -shift : 0;
    }
    const Integer before = number(words);
    add_scaled(words.data(), static_cast<int>(size), value, shift);
    const Integer added = shift >= 0 ? Integer(value) << static_cast<unsigned>(shift)
                                     : Integer(value) / (Integer(1) << static_cast<unsigned>(-shift));
    EXPECT_EQ(number(words), before + added) << value << " * 2^" << shift;
  }
}

LoopNest nest_of(const TensorView& x, const IndexList& axes) {
  return make_loop_nest(std::array{x}, axes, number_channels(axes, x.shape));
}

TensorView dense(const IndexList& shape) { return {nullptr, DType::float32, shape, Tensor::dense_strides(shape)}; }

std::string form_of(const LoopNest& nest) {
  std::string form;
  for (const Loop& loop : nest.loops) {
    form += loop.is_channel ? 'c' : 'r';
    form += std::to_string(loop.size);
    form += ' ';
  }
  return form;
}

TEST(LoopNest, OfDenseLayoutsIsOuterChannelInner) {
  EXPECT_EQ(form_of(nest_of(dense({2, 3, 4, 5}), {1})), "r2 c3 r20 ");
  EXPECT_EQ(form_of(nest_of(dense({2, 4, 5, 3}), {3})), "r40 c3 ");
  EXPECT_EQ(form_of(nest_of(dense({4, 5, 3, 2}), {2})), "r20 c3 r2 ");
  EXPECT_EQ(form_of(nest_of(dense({3, 10}), {0})), "c3 r10 ");
  EXPECT_EQ(form_of(nest_of(dense({2, 3, 4}), {})), "r24 ");
  EXPECT_EQ(form_of(nest_of(dense({2, 3, 4}), {0, 1, 2})), "c24 ");
  EXPECT_EQ(form_of(nest_of(dense({2, 3, 4}), {1, 0})), "c2 c3 r4 ");
  EXPECT_EQ(form_of(nest_of(dense({1, 3, 1}), {1})), "c3 ");
  EXPECT_EQ(form_of(nest_of(dense({1, 1, 1}), {1})), "r1 ");
  EXPECT_EQ(form_of(nest_of(dense({}), {})), "r1 ");
  EXPECT_EQ(form_of(nest_of(permute(dense({2, 3, 4, 5}), {3, 1, 0, 2}), {1})), "r2 c3 r20 ");
  EXPECT_EQ(form_of(nest_of({nullptr, DType::float32, {2, 3, 20}, {-60, 20, -1}}, {1})), "r2 c3 r20 ");
}

// The channels of a group share a cache, and pieces are no more than threads can use.
TEST(Partition, BoundsGroupsAndPieces) {
  const TensorView bytes = {nullptr, DType::uint8, {32, 4096, 1, 2}, {8192, 2, 2, 1}};
  const LoopNest short_runs = nest_of(bytes, {1, 0});
  const Partition groups(short_runs, 1, 1, 4);
  for (Index group = 0; group < groups.groups(); ++group) {
    EXPECT_LE(channels_of(short_runs, groups.box(group, 0)).size(), 1024U);
  }
  const LoopNest wide = nest_of(dense({4096, 127 * 512}), {1});
  for (const int threads : {1, 2, 63, 64, 200}) {
    const Partition partition(wide, 8, 1, threads);
    // One channel in pieces of some 65,536 elements, and no piece without an element.
    EXPECT_LE(partition.pieces(), 127 * 512);
    EXPECT_LE(partition.groups() * partition.pieces(),
              std::max<Index>(16 * threads, Index{4096} * 127 * 512 / 65536 + 1));
    EXPECT_GE(partition.groups() * partition.pieces(), threads);
  }
}

// Every element in one box, with its own channel.
TEST(Partition, CoversEveryElementOnce) {
  Random random(85);
  for (int i = 0; i < 150 && !HasFailure(); ++i) {
    IndexList shape;
    IndexList axes;
    const bool large = i % 10 == 0;
    for (Index axis = 0, rank = random.between(0, 5); axis < rank; ++axis) {
      shape.push_back(random.between(1, rank < 4 && large ? 60 : 9));
      if (random.chance(0.4)) axes.push_back(axis);
    }
    const TensorView x = {nullptr, DType::float32, shape, random_strides(random, shape)};
    const auto threads = static_cast<int>(random.between(1, 9));
    const LoopNest nest = nest_of(x, axes);
    const Partition partition(nest, static_cast<std::size_t>(1) << random.between(0, 3), 1 + random.bits() % 2,
                              threads);
    EXPECT_LE(partition.threads(), threads);
    std::map<Index, Index> channel_of;  // by offset
    for (Index position = 0; position < product(shape); ++position) {
      const IndexList at = unravel(position, shape);
      Index offset = 0;
      Index channel = 0;
      for (std::size_t j = 0; j < shape.size(); ++j) offset += at[j] * x.strides[j];
      for (const Index axis : axes) {
        channel = channel * shape[static_cast<std::size_t>(axis)] + at[static_cast<std::size_t>(axis)];
      }
      channel_of[offset] = channel;
    }
    std::set<Index> visited;
    for (Index group = 0; group < partition.groups(); ++group) {
      const std::vector<Index> group_channels = channels_of(nest, partition.box(group, 0));
      for (Index piece = 0; piece < partition.pieces(); ++piece) {
        const Box box = partition.box(group, piece);
        EXPECT_EQ(channels_of(nest, box), group_channels);
        IndexList sizes;
        for (const Range& range : box) sizes.push_back(range.size);
        for (Index number = 0; number < product(sizes); ++number) {
          const IndexList steps = unravel(number, sizes);
          Index offset = offsets_of(nest, box)[0];
          Index channel = nest.channel_offset;
          for (std::size_t loop = 0; loop < box.size(); ++loop) {
            offset += steps[loop] * nest.loops[loop].strides[0];
            channel += (box[loop].begin + steps[loop]) * nest.loops[loop].channel_stride;
          }
          ASSERT_TRUE(visited.insert(offset).second);
          ASSERT_EQ(channel_of.at(offset), channel);
          ASSERT_NE(std::find(group_channels.begin(), group_channels.end(), channel), group_channels.end());
        }
      }
    }
    EXPECT_EQ(visited.size(), channel_of.size()) << to_string(shape) << " threads " << threads;
  }
}

TEST(Partition, KeepsThreadsBusy) {
  for (const IndexList& shape : {IndexList{1000000}, IndexList{100, 10000}, IndexList{3, 400000}}) {
    const LoopNest nest = nest_of(dense(shape), shape.size() == 1 ? IndexList{} : IndexList{0});
    const Partition partition(nest, 4, 1, 8);
    EXPECT_EQ(partition.threads(), 8);
    EXPECT_GE(partition.groups() * partition.pieces(), 8);
  }
}

std::set<std::uintptr_t> bytes_of(const TensorView& x) {
  std::set<std::uintptr_t> bytes;
  for (Index position = 0; position < product(x.shape); ++position) {
    const IndexList at = unravel(position, x.shape);
    Index offset = 0;
    for (std::size_t i = 0; i < x.rank(); ++i) offset += at[i] * x.strides[i];
    const auto first = reinterpret_cast<std::uintptr_t>(x.data) +
                       static_cast<std::uintptr_t>(offset * static_cast<Index>(size_of(x.dtype)));
    for (std::size_t i = 0; i < size_of(x.dtype); ++i) bytes.insert(first + i);
  }
  return bytes;
}

TEST(ViewsOverlap, WhereTheyShareAByte) {
  Random random(86);
  alignas(8) static std::array<std::byte, 8> memory;
  int overlapping = 0;
  constexpr int cases = 20000;
  for (int i = 0; i < cases && !HasFailure(); ++i) {
    const auto random_view = [&] {
      TensorView x;
      x.dtype = std::array{DType::float32, DType::float64, DType::int8,
                           DType::int16}[static_cast<std::size_t>(random.between(0, 3))];
      for (Index axis = 0, rank = random.between(0, 3); axis < rank; ++axis) {
        x.shape.push_back(random.chance(0.03) ? 0 : random.between(1, 5));
        x.strides.push_back(random.between(-9, 9));
      }
      const Index shift = random.between(-12, 12) * static_cast<Index>(size_of(x.dtype));
      // Never followed: addresses alone are compared.
      x.data = reinterpret_cast<const void*>(reinterpret_cast<std::uintptr_t>(memory.data()) +
                                             static_cast<std::uintptr_t>(shift));
      return x;
    };
    const TensorView a = random_view();
    const TensorView b = random_view();
    const std::set<std::uintptr_t> a_bytes = bytes_of(a);
    const std::set<std::uintptr_t> b_bytes = bytes_of(b);
    const bool overlap =
        std::any_of(a_bytes.begin(), a_bytes.end(), [&](auto byte) { return b_bytes.count(byte) != 0; });
    overlapping += overlap ? 1 : 0;
    EXPECT_EQ(views_overlap(a, b), overlap)
        << to_string(a.shape) << to_string(a.strides) << " " << to_string(b.shape) << to_string(b.strides);
  }
  EXPECT_GT(overlapping, cases / 5);
  EXPECT_LT(overlapping, cases * 4 / 5);
}

// Halves of one channels-last buffer, as a network that concatenates channels has them: large, and disjoint.
TEST(ViewsOverlap, IsExactForLargeInterleavedViews) {
  const auto part = [&](const IndexList& shape, Index first) {
    IndexList strides = contiguous_strides(shape);
    for (std::size_t i = 0; i + 1 < shape.size(); ++i) strides[i] *= 2;
    const std::uintptr_t address = 4096 + static_cast<std::uintptr_t>(first) * 4;
    return TensorView{reinterpret_cast<const void*>(address), DType::float32, shape, strides};
  };
  for (const IndexList& shape : {IndexList{401408, 64}, IndexList{32, 112, 112, 64}, IndexList{Index{1} << 40, 64}}) {
    EXPECT_FALSE(views_overlap(part(shape, 0), part(shape, 64)));
    EXPECT_FALSE(views_overlap(part(shape, 64), part(shape, 0)));
    EXPECT_TRUE(views_overlap(part(shape, 0), part(shape, 63)));
    EXPECT_TRUE(views_overlap(part(shape, 65), part(shape, 0)));
  }
}

}  // namespace
}  // namespace exactnorm::testing
