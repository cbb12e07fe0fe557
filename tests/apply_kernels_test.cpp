// The vector code of apply against the plain formula, one element at a time.
#include "affine/apply_kernels.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "support/compare.h"
#include "support/random.h"

namespace exactnorm::testing {
namespace {

constexpr double guard = -12345.678;

// What surrounds the outputs, on both sides, and the offsets that they may have from a cache line.
constexpr Index margin = 96;

/// Memory whose element 0 is `offset` elements after a multiple of 64 bytes, between guards.
template <typename T>
class Output {
 public:
  Output(Index size, Index offset) : memory_(static_cast<std::size_t>(size + 2 * margin), static_cast<T>(guard)) {
    while (reinterpret_cast<std::uintptr_t>(memory_.data() + first_) % 64 != 0) ++first_;
    first_ += offset;
  }
  [[nodiscard]] T* data() { return memory_.data() + first_; }
  /// Whether the elements are those of `expected`, and all around them is as it was.
  [[nodiscard]] ::testing::AssertionResult holds(const std::vector<T>& expected) const {
    for (Index i = 0; i < static_cast<Index>(memory_.size()); ++i) {
      const Index at = i - first_;
      const bool inside = at >= 0 && at < static_cast<Index>(expected.size());
      const T wanted = inside ? expected[static_cast<std::size_t>(at)] : static_cast<T>(guard);
      const T found = memory_[static_cast<std::size_t>(i)];
      if (std::memcmp(&wanted, &found, sizeof(T)) == 0 || (std::isnan(wanted) && std::isnan(found))) continue;
      return ::testing::AssertionFailure() << "element " << at << " is " << found << ", expected " << wanted;
    }
    return ::testing::AssertionSuccess();
  }

 private:
  std::vector<T> memory_;
  Index first_ = 0;
};

struct Table {
  std::vector<double> columns[5];
  std::vector<float> single_columns[7];  // the last two are windows

  // Numbers of their own in both, so that it shows which were used; a few channels need float64.
  Table(Random& random, Index channels) {
    for (auto& column : columns) {
      for (Index i = 0; i < channels; ++i) column.push_back(random.of_exponent(-3, 3));
    }
    for (auto& column : single_columns) {
      for (Index i = 0; i < channels; ++i) column.push_back(static_cast<float>(random.of_exponent(-3, 3)));
    }
    if (random.chance(0.7)) return;
    for (float& mean : single_columns[0]) {
      if (random.chance(0.1)) mean = std::numeric_limits<float>::quiet_NaN();
    }
  }
  // Exactly as long as the channels are.
  [[nodiscard]] Coefficients view(bool with_dy) const {
    return {columns[0].data(),
            columns[1].data(),
            columns[2].data(),
            with_dy ? columns[3].data() : nullptr,
            with_dy ? columns[4].data() : nullptr,
            {single_columns[0].data(), single_columns[1].data(), single_columns[2].data(), single_columns[3].data(),
             with_dy ? single_columns[4].data() : nullptr},
            {single_columns[5].data(), single_columns[6].data()}};
  }
  [[nodiscard]] double at(std::size_t column, Index channel) const {
    return columns[column][static_cast<std::size_t>(channel)];
  }
  [[nodiscard]] bool is_in_window(float x, Index channel) const {
    return single_at(5, channel) < x && x < single_at(6, channel);
  }
  [[nodiscard]] float single_at(std::size_t column, Index channel) const {
    return single_columns[column][static_cast<std::size_t>(channel)];
  }
};

template <typename T>
T formula(T x, const T* dy, const Table& table, Index channel) {
  if constexpr (std::is_same_v<T, float>) {
    const float mean = table.single_at(0, channel);
    const float scale = table.single_at(1, channel);
    const float scale_rest = table.single_at(2, channel);
    const float shift = table.single_at(3, channel);
    if (!std::isnan(mean)) {
      const float difference = x - mean;
      if (dy == nullptr) return std::fma(difference, scale, std::fma(difference, scale_rest, shift));
      return std::fma(*dy, scale, std::fma(*dy, scale_rest, std::fma(difference, table.single_at(4, channel), shift)));
    }
  }
  const double scaled = (static_cast<double>(x) - table.at(0, channel)) * table.at(1, channel);
  if (dy == nullptr) return static_cast<T>(scaled + table.at(2, channel));
  const double inner = scaled * table.at(3, channel) + table.at(2, channel);
  return static_cast<T>((static_cast<double>(*dy) + inner) * table.at(4, channel));
}

// Mostly common numbers, some that overflow, vanish or are not numbers.
template <typename T>
T element(Random& random) {
  if (random.chance(0.97)) return static_cast<T>(random.of_exponent(-4, 4));
  constexpr T rare[] = {T{0},
                        -T{0},
                        std::numeric_limits<T>::max(),
                        std::numeric_limits<T>::denorm_min(),
                        std::numeric_limits<T>::infinity(),
                        std::numeric_limits<T>::quiet_NaN()};
  return rare[random.between(0, 5)];
}

/// Runs of one channel each, or rows whose columns are channels.
struct Case {
  bool rows = false;
  Index outer = 1;  // runs or rows
  Index inner = 1;
  Index gap = 0;  // of the outputs
  Index offset = 0;
  Formula formula = Formula::forward;
  bool same_channel = false;
  Store store = Store::cached;

  [[nodiscard]] bool with_second() const { return reads_second(formula); }
};

template <typename T>
constexpr std::array formulas = {Formula::forward, Formula::relu,        Formula::relu6,
                                 Formula::sum,     Formula::relu_of_sum, Formula::gradient};
template <>
inline constexpr std::array formulas<float> = {
    Formula::forward,          Formula::relu, Formula::relu6, Formula::sum, Formula::relu_of_sum, Formula::gradient,
    Formula::windowed_gradient};

template <typename T>
Formula any_formula(Random& random) {
  return formulas<T>[static_cast<std::size_t>(random.between(0, static_cast<Index>(formulas<T>.size()) - 1))];
}

std::ostream& operator<<(std::ostream& stream, const Case& c) {
  return stream << (c.rows ? "rows " : "runs ") << c.outer << " of " << c.inner << " gap " << c.gap << " offset "
                << c.offset << " formula " << static_cast<int>(c.formula) << " same channel " << c.same_channel
                << " streamed " << (c.store == Store::streamed);
}

template <typename T>
void call(const Case& c, const ApplyPointers<T>& at, const RowStrides& strides, const Coefficients& coefficients) {
  if (c.rows) {
    apply_rows(c.formula, at, c.outer, c.inner, strides, coefficients, c.store);
  } else {
    apply_runs(c.formula, at, c.outer, strides, c.inner, coefficients, c.same_channel, c.store);
  }
  if (c.store == Store::streamed) flush_streams();
}

/// Checks one case on every target; cached ones in place, too.
template <typename T>
void check(Random& random, const Case& c) {
  const RowStrides strides = {c.inner + random.between(0, 3), c.inner + random.between(0, 3), c.inner + c.gap};
  const auto extent = [&](Index stride) { return static_cast<std::size_t>((c.outer - 1) * stride + c.inner); };
  std::vector<T> x(extent(strides.x));
  std::vector<T> second(extent(strides.second));
  for (T& value : x) value = element<T>(random);
  for (T& value : second) value = element<T>(random);
  const Table table(random, c.rows ? c.inner : (c.same_channel ? 1 : c.outer));
  std::vector<T> expected(extent(strides.out), static_cast<T>(guard));
  for (Index i = 0; i < c.outer; ++i) {
    for (Index j = 0; j < c.inner; ++j) {
      const T of_second = second[static_cast<std::size_t>(i * strides.second + j)];
      const T* gradient = is_gradient(c.formula) ? &of_second : nullptr;
      const T element_of_x = x[static_cast<std::size_t>(i * strides.x + j)];
      const Index channel = c.rows ? j : (c.same_channel ? 0 : i);
      constexpr T outside = 0;
      if (c.formula == Formula::windowed_gradient && !table.is_in_window(static_cast<float>(element_of_x), channel)) {
        gradient = &outside;
      }
      T value = formula(element_of_x, gradient, table, channel);
      if (c.formula == Formula::sum || c.formula == Formula::relu_of_sum) value += of_second;
      const bool is_clipped =
          c.formula == Formula::relu || c.formula == Formula::relu_of_sum || c.formula == Formula::relu6;
      if (is_clipped && value < 0) value = 0;
      if (c.formula == Formula::relu6 && value > 6) value = 6;
      expected[static_cast<std::size_t>(i * strides.out + j)] = value;
    }
  }
  on_every_target([&] {
    const bool with_dy = is_gradient(c.formula);
    const T* seconds = c.with_second() ? second.data() : nullptr;
    Output<T> out(static_cast<Index>(expected.size()), c.offset);
    call<T>(c, {x.data(), seconds, out.data()}, strides, table.view(with_dy));
    ASSERT_TRUE(out.holds(expected)) << c;
    if (c.store == Store::streamed) return;
    const auto copy_runs = [&](const std::vector<T>& from, Index stride, T* to) {
      for (Index i = 0; i < c.outer; ++i) std::copy_n(from.begin() + i * stride, c.inner, to + i * strides.out);
    };
    Output<T> over_x(static_cast<Index>(expected.size()), c.offset);
    copy_runs(x, strides.x, over_x.data());
    call<T>(c, {over_x.data(), seconds, over_x.data()}, {strides.out, strides.second, strides.out},
            table.view(with_dy));
    ASSERT_TRUE(over_x.holds(expected)) << "in place of x: " << c;
    if (!c.with_second()) return;
    Output<T> over_second(static_cast<Index>(expected.size()), c.offset);
    copy_runs(second, strides.second, over_second.data());
    call<T>(c, {x.data(), over_second.data(), over_second.data()}, {strides.x, strides.out, strides.out},
            table.view(with_dy));
    ASSERT_TRUE(over_second.holds(expected)) << "in place of dy or the residual: " << c;
  });
}

template <typename T>
class ApplyKernels : public ::testing::Test {};
using ApplyTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(ApplyKernels, ApplyTypes);

constexpr Store stores[] = {Store::cached, Store::streamed};

// Every length at every place in a cache line, runs that share lines and runs that do not.
TYPED_TEST(ApplyKernels, ApplyRuns) {
  Random random(401);
  for (Index count = 1; count <= 150; ++count) {
    for (Index offset = 0; offset <= 20; ++offset) {
      for (const Store store : stores) {
        for (const bool contiguous : {true, false}) {
          Case c;
          c.outer = random.between(1, 4);
          c.inner = count;
          c.gap = contiguous ? 0 : random.between(1, 20);
          c.offset = offset;
          c.formula = any_formula<TypeParam>(random);
          c.same_channel = random.chance(0.5);
          c.store = store;
          check<TypeParam>(random, c);
          if (this->HasFailure()) return;
        }
      }
    }
  }
}

TYPED_TEST(ApplyKernels, ApplyLongRuns) {
  Random random(402);
  for (const Index count : {1024, 1025, 2047, 3136, 4099}) {
    for (const Store store : stores) {
      for (int i = 0; i < 12 && !this->HasFailure(); ++i) {
        Case c;
        c.outer = random.between(1, 9);
        c.inner = count;
        c.gap = i % 3 == 0 ? random.between(1, 40) : 0;
        c.offset = random.between(0, 20);
        c.formula = any_formula<TypeParam>(random);
        c.same_channel = random.chance(0.5);
        c.store = store;
        check<TypeParam>(random, c);
      }
    }
  }
}

TYPED_TEST(ApplyKernels, ApplyRows) {
  Random random(403);
  constexpr Index line = 64 / static_cast<Index>(sizeof(TypeParam));
  std::vector<Index> widths = {1023, 1024, 1025, 1030, 2049};
  for (Index width = 1; width <= 150; ++width) widths.push_back(width);
  for (const Index width : widths) {
    for (const Store store : stores) {
      for (const Formula formula : formulas<TypeParam>) {
        for (int i = 0; i < 3 && !this->HasFailure(); ++i) {
          Case c;
          c.rows = true;
          c.outer = random.between(1, 9);
          c.inner = width;
          c.formula = formula;
          c.store = store;
          if (store == Store::streamed) {
            // Rows start with a cache line each, with or without others between them.
            c.gap = (line - width % line) % line + line * random.between(0, 1);
            c.offset = line * random.between(0, 1);
          } else {
            c.gap = random.between(0, 20);
            c.offset = random.between(0, 20);
          }
          check<TypeParam>(random, c);
        }
      }
    }
  }
}

TYPED_TEST(ApplyKernels, ApplyNothing) {
  Random random(404);
  const Table table(random, 1);
  on_every_target([&] {
    Output<TypeParam> out(1, 0);
    const TypeParam x = 1;
    const ApplyPointers<TypeParam> at = {&x, nullptr, out.data()};
    apply_runs(Formula::forward, at, 0, {1, 1, 1}, 1, table.view(false), false, Store::cached);
    apply_rows(Formula::relu, at, 0, 1, {1, 1, 1}, table.view(false), Store::cached);
    EXPECT_TRUE(out.holds({static_cast<TypeParam>(guard)}));
  });
}

}  // namespace
}  // namespace exactnorm::testing
