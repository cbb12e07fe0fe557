// Quick sums: every element once and in its slot, errors within the bounds that quick_finalize.h derives, and no trace
// of the way that a channel took.
#include "sums/quick_sums.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "batch_norm/reduction.h"
#include "exactnorm/batch_norm.h"
#include "exactnorm/info.h"
#include "sums/grid.h"
#include "sums/quick_finalize.h"
#include "support/compare.h"
#include "support/exact.h"
#include "support/oracle.h"
#include "support/random.h"
#include "support/tensor.h"
#include "traverse/loop_nest.h"
#include "traverse/partition.h"

namespace exactnorm::testing {
namespace {

// One box that holds a whole nest.
Box whole(const LoopNest& nest) {
  Box box;
  for (const Loop& loop : nest.loops) box.push_back({0, loop.size});
  return box;
}

// Small integers, whose sums are exact in any order: a lost, doubled or misplaced element shows.
TEST(QuickSums, TakeEveryElementOnceOfAnyLayout) {
  const TargetRestorer restorer;
  Random random(3001);
  const std::vector<std::string> targets = supported_targets();
  for (int i = 0; i < 600 && !HasFailure(); ++i) {
    SCOPED_TRACE(i);
    set_target(targets[static_cast<std::size_t>(i) % targets.size()]);
    IndexList shape;
    for (auto rank = random.between(1, 4); rank > 0; --rank) {
      shape.push_back(random.chance(0.2) ? random.between(1, 3) : random.between(1, rank == 1 ? 300 : 24));
    }
    IndexList channel_axes;
    for (std::size_t axis = 0; axis < shape.size(); ++axis) {
      if (random.chance(0.4)) channel_axes.push_back(static_cast<Index>(axis));
    }
    const std::array dtypes = {DType::float32, DType::float32, DType::int8, DType::int16};
    const DType dtype = dtypes[static_cast<std::size_t>(random.between(0, 3))];
    Tensor x = Tensor::strided(dtype, shape, random_strides(random, shape));
    Tensor dy =
        Tensor::strided(DType::float32, shape, random.chance(0.5) ? x.view().strides : random_strides(random, shape));
    for (Index j = 0; j < x.count(); ++j) {
      x.set(j, static_cast<double>(random.between(-100, 100)));
      dy.set(j, static_cast<double>(random.between(-100, 100)));
    }
    const ChannelMap numbers = number_channels(channel_axes, shape);
    Index channels = 1;
    for (const Index axis : channel_axes) channels *= shape[static_cast<std::size_t>(axis)];
    const bool gradients = random.chance(0.5);
    std::vector<double> centres(static_cast<std::size_t>(channels + quick_padding));
    for (double& centre : centres) centre = static_cast<double>(random.between(-3, 3));
    const bool centred = gradients || random.chance(0.5);

    // [sum][channel of the whole tensor]
    std::vector<std::vector<double>> expected(4, std::vector<double>(static_cast<std::size_t>(channels)));
    for (Index j = 0; j < x.count(); ++j) {
      const IndexList at = unravel(j, shape);
      Index channel = 0;
      for (std::size_t axis = 0; axis < shape.size(); ++axis) channel += at[axis] * numbers.strides[axis];
      const auto c = static_cast<std::size_t>(channel);
      const double d = x.get(j) - (centred ? centres[c] : 0);
      expected[0][c] += gradients ? dy.get(j) : d;
      expected[1][c] += gradients ? dy.get(j) * d : d * d;
      expected[2][c] += dy.get(j) * dy.get(j);
      expected[3][c] += d * d;
    }
    std::vector<TensorView> operands = {std::as_const(x).view()};
    if (gradients) operands.insert(operands.begin(), std::as_const(dy).view());
    const LoopNest nest = make_loop_nest(operands, channel_axes, numbers);
    const std::vector<Index> order = channels_of(nest, whole(nest));
    std::vector<double> in_order(centres.size());
    for (std::size_t slot = 0; slot < order.size(); ++slot) {
      in_order[slot] = centres[static_cast<std::size_t>(order[slot])];
    }
    QuickSums sums;
    sums.reset(channels, gradients ? gradient_sums_count : moment_sums);
    // In two halves, along any loop that is reduced.
    Box first = whole(nest);
    Box second = first;
    for (std::size_t loop = 0; loop < nest.loops.size(); ++loop) {
      if (nest.loops[loop].is_channel) continue;
      const Index cut = random.between(0, first[loop].size);
      first[loop].size = cut;
      second[loop] = {cut, second[loop].size - cut};
      break;
    }
    const std::span<const double> about = centred ? std::span<const double>(in_order) : std::span<const double>();
    for (const Box& box : {first, second}) {
      bool is_empty = false;
      for (const Range& range : box) is_empty = is_empty || range.size == 0;
      if (!is_empty) sums.add_box(nest, box, {std::vector<Operand>(operands.begin(), operands.end())}, about);
    }
    // Without a loop to cut, both are the whole.
    const bool was_cut =
        std::any_of(nest.loops.begin(), nest.loops.end(), [](const Loop& loop) { return !loop.is_channel; });
    const double times = was_cut ? 1 : 2;
    const QuickColumns columns = sums.columns();
    for (std::size_t s = 0; s < sums.sums(); ++s) {
      for (std::size_t slot = 0; slot < order.size(); ++slot) {
        ASSERT_EQ(columns.high[s][slot] + columns.low[s][slot],
                  times * expected[s][static_cast<std::size_t>(order[slot])])
            << "sum " << s << " of channel " << order[slot];
      }
    }
  }
}

// Content that makes additions round as much as they can, or that cancels.
std::vector<double> content_of(Random& random, Index count, int kind) {
  std::vector<double> values;
  for (Index i = 0; i < count; ++i) {
    const double t = static_cast<double>(i) / static_cast<double>(count);
    double value = 0;
    switch (kind) {
      case 0:
        value = random.normal();
        break;
      case 1:  // a ramp: all of one sign, sums that grow
        value = 1 + t;
        break;
      case 2:  // one outlier
        value = i == count / 3 ? 1e6 : random.normal();
        break;
      case 3:  // pairs that cancel
        value = i % 2 == 0 || values.empty() ? random.normal() : -values.back();
        break;
      case 4:  // a mean far from zero
        value = 1000 + random.normal();
        break;
      case 5:
        value = random.of_exponent(-60, 60);
        break;
      default:  // few bits
        value = static_cast<double>(random.between(0, 3));
        break;
    }
    values.push_back(static_cast<float>(value));
  }
  return values;
}
constexpr int content_kinds = 7;

Rational sum_of(const std::vector<double>& a, const std::vector<double>& b, double centre) {
  Rational sum;
  for (std::size_t i = 0; i < a.size(); ++i) sum += rational(a[i]) * (rational(b[i]) - rational(centre));
  return sum;
}

// As the bounds of quick_finalize.h have it: 48 u of what Cauchy and Schwarz give. Runs and lanes, all targets.
TEST(QuickSums, KeepWithinTheirBounds) {
  const TargetRestorer restorer;
  Random random(3002);
  double worst = 0;
  for (const std::string& target : supported_targets()) {
    set_target(target);
    for (int kind = 0; kind < content_kinds; ++kind) {
      for (const Index count : {37, 1000, 20000}) {
        if (count == 20000 && kind == 5) continue;  // slow rationals
        const bool in_lanes = random.chance(0.5);
        const Index channels = in_lanes ? 3 : 1;
        const std::vector<double> x_values = content_of(random, count, kind);
        const std::vector<double> dy_values =
            content_of(random, count, static_cast<int>(random.between(0, content_kinds - 1)));
        Tensor x(DType::float32, {count, channels});
        Tensor dy(DType::float32, {count, channels});
        for (Index i = 0; i < count; ++i) {
          x.set(i * channels, x_values[static_cast<std::size_t>(i)]);
          dy.set(i * channels, dy_values[static_cast<std::size_t>(i)]);
          for (Index c = 1; c < channels; ++c) {
            x.set(i * channels + c, 1);
            dy.set(i * channels + c, 1);
          }
        }
        const double centre = random.chance(0.3) ? x_values[0] : random.normal();
        const std::vector<double> centres(static_cast<std::size_t>(channels + quick_padding), centre);
        const std::array operands = {std::as_const(dy).view(), std::as_const(x).view()};
        const LoopNest nest = make_loop_nest(operands, {1}, number_channels({1}, x.shape()));
        QuickSums sums;
        sums.reset(channels, gradient_sums_count);
        sums.add_box(nest, whole(nest), {std::array<Operand, 2>{operands[0], operands[1]}}, centres);
        const QuickColumns columns = sums.columns();
        const std::vector<double> ones(x_values.size(), 1.0);
        std::vector<double> differences;
        const Real squares = real(sum_of(dy_values, dy_values, 0));
        Rational squares_of_d;
        for (const double value : x_values) {
          const Rational d = rational(value) - rational(centre);
          squares_of_d += d * d;
        }
        const Real unit = Real(0x1p-53) * 48;
        const auto check = [&](int which, const Rational& exact, const Real& size) {
          const Real error = abs(Real(real(exact) - Real(columns.high[which][0]) - Real(columns.low[which][0])));
          ASSERT_LE(error, size * unit) << target << ", content " << kind << ", " << count << " elements, sum "
                                        << which;
          if (size > 0) worst = std::max(worst, Real(error / (size * unit)).convert_to<double>());
        };
        check(0, sum_of(ones, dy_values, 0), sqrt(Real(squares * Real(count))));
        check(1, sum_of(dy_values, x_values, centre), sqrt(Real(squares * real(squares_of_d))));
        check(2, sum_of(dy_values, dy_values, 0), squares);
        check(3, squares_of_d, real(squares_of_d));
      }
    }
  }
  RecordProperty("worst", std::to_string(worst));
  std::printf("largest error: %.4f of the bound\n", worst);
}

// All results of one batch.
struct Outcome {
  Statistics statistics;
  std::vector<double> y, dx, frozen_dx, dgamma, dbeta, frozen_dgamma, frozen_dbeta;
};

Outcome run(const Tensor& x, const Tensor& dy, const Options& options, Index channels) {
  Outcome outcome;
  Tensor y(DType::float32, x.shape());
  Tensor dx(DType::float32, x.shape());
  std::vector<Tensor> parameters(4, Tensor(DType::float64, {channels}));
  outcome.statistics = training(x.view(), y.view(), {}, options);
  backward(dy.view(), x.view(), outcome.statistics, {}, {dx.view(), parameters[0].view(), parameters[1].view()},
           options);
  outcome.y = y.values();
  outcome.dx = dx.values();
  backward_frozen(dy.view(), x.view(), outcome.statistics, {}, {dx.view(), parameters[2].view(), parameters[3].view()},
                  options);
  outcome.frozen_dx = dx.values();
  outcome.dgamma = parameters[0].values();
  outcome.dbeta = parameters[1].values();
  outcome.frozen_dgamma = parameters[2].values();
  outcome.frozen_dbeta = parameters[3].values();
  return outcome;
}

class ExactSumsOnly {
 public:
  ExactSumsOnly() { use_quick_sums(false); }
  ~ExactSumsOnly() { use_quick_sums(true); }
  ExactSumsOnly(const ExactSumsOnly&) = delete;
  ExactSumsOnly& operator=(const ExactSumsOnly&) = delete;
};

void expect_same(const Outcome& a, const Outcome& b) {
  for (const auto member :
       {&Statistics::mean, &Statistics::mean_residual, &Statistics::variance, &Statistics::inverse_deviation}) {
    EXPECT_TRUE(same_numbers(a.statistics.*member, b.statistics.*member));
  }
  for (const auto member : {&Outcome::y, &Outcome::dx, &Outcome::frozen_dx, &Outcome::dgamma, &Outcome::dbeta,
                            &Outcome::frozen_dgamma, &Outcome::frozen_dbeta}) {
    EXPECT_TRUE(same_numbers(a.*member, b.*member));
  }
}

// Batches in which some channels are decided at once, some about their mean, and some by exact sums alone: ties of few
// bits, constants, sums that are zero, subnormals, NaN.
TEST(QuickSums, LeaveNoTraceInResults) {
  const TargetRestorer restorer;
  Random random(3003);
  const std::vector<std::string> targets = supported_targets();
  const SumCounts before = sum_counts();
  for (int i = 0; i < 250 && !HasFailure(); ++i) {
    SCOPED_TRACE(i);
    set_target(targets[static_cast<std::size_t>(i) % targets.size()]);
    const IndexList shapes[] = {{random.between(1, 9), random.between(1, 40), random.between(1, 60)},
                                {random.between(1, 700), random.between(1, 90)},
                                {random.between(1, 3), random.between(1, 5), random.between(1, 6000)},
                                {random.between(1, 30), random.between(1, 50), random.between(1, 20)}};
    const IndexList shape = shapes[random.between(0, 3)];
    const Index channels = shape[1];
    Tensor x = Tensor::strided(DType::float32, shape, random_strides(random, shape));
    Tensor dy = Tensor::strided(DType::float32, shape, x.view().strides);
    const Index inner = shape.size() == 3 ? shape[2] : 1;
    for (Index c = 0; c < channels; ++c) {
      const Index count = shape[0] * inner;
      const auto kind_of = [&] { return static_cast<int>(random.between(0, content_kinds - 1)); };
      std::vector<double> x_values = content_of(random, count, kind_of());
      std::vector<double> dy_values = content_of(random, count, kind_of());
      if (random.chance(0.1)) x_values.assign(x_values.size(), x_values[0]);
      if (random.chance(0.1)) dy_values.assign(dy_values.size(), 0.25);
      if (random.chance(0.1)) {
        for (double& value : x_values) value = static_cast<float>(value * 0x1p-140);
      }
      if (random.chance(0.05)) x_values.back() = std::numeric_limits<double>::quiet_NaN();
      if (random.chance(0.05)) dy_values.front() = std::numeric_limits<double>::infinity();
      for (Index j = 0; j < count; ++j) {
        const Index at = (j / inner * channels + c) * inner + j % inner;
        x.set(at, x_values[static_cast<std::size_t>(j)]);
        dy.set(at, dy_values[static_cast<std::size_t>(j)]);
      }
    }
    Options options;
    options.threads = static_cast<int>(random.between(1, 3));
    options.epsilon = random.chance(0.3) ? 0 : 1e-5;
    const Outcome quick = run(x, dy, options, channels);
    const Outcome exact = [&] {
      const ExactSumsOnly exact_sums_only;
      return run(x, dy, options, channels);
    }();
    expect_same(quick, exact);
  }
  const SumCounts after = sum_counts();
  EXPECT_GT(after.quick - before.quick, 1000);
  EXPECT_GT(after.centred - before.centred, 100);
  EXPECT_GT(after.exact - before.exact, 100);
}

// What makes quick sums worth having.
TEST(QuickSums, DecideNearlyAllChannelsOfOrdinaryData) {
  Random random(3004);
  const IndexList shape = {16, 500, 49};
  Tensor x(DType::float32, shape);
  Tensor dy(DType::float32, shape);
  const SumCounts before = sum_counts();
  for (const double mean : {0.0, 0.5, 3.0}) {
    for (Index i = 0; i < x.count(); ++i) {
      x.set(i, random.normal() + mean);
      dy.set(i, random.normal() * 1e-3);
    }
    (void)run(x, dy, {}, 500);
  }
  const SumCounts after = sum_counts();
  const auto undecided = static_cast<double>(after.exact - before.exact);
  const auto all = undecided + static_cast<double>(after.quick - before.quick + after.centred - before.centred);
  EXPECT_LT(undecided / all, 0.01);
}

// A mean of a thousand deviations takes sums about it, not exact ones.
TEST(QuickSums, AboutTheMeanDecideDataFarFromZero) {
  Random random(3005);
  const IndexList shape = {16, 100, 49};
  Tensor x(DType::float32, shape);
  for (Index i = 0; i < x.count(); ++i) x.set(i, random.normal() + 3000);
  Tensor y(DType::float32, shape);
  const SumCounts before = sum_counts();
  (void)training(std::as_const(x).view(), y.view());
  const SumCounts after = sum_counts();
  EXPECT_GT(after.centred - before.centred, 95);
  EXPECT_LT(after.exact - before.exact, 3);
}

TEST(Grid, IsMonotone) {
  Random random(3006);
  for (int i = 0; i < 20000 && !HasFailure(); ++i) {
    const double variance = std::fabs(random.of_exponent(-300, 250));
    const double more = random.chance(0.5) ? std::nextafter(variance, 1e300) : variance * (1 + random.unit() * 0x1p-28);
    ASSERT_LE(variance_on_grid(variance), variance_on_grid(more));
    const double unit = std::ldexp(1.0, static_cast<int>(random.between(-60, 10)));
    const double value = random.of_exponent(-30, 30);
    const double above = random.chance(0.5) ? std::nextafter(value, 1e300) : value + unit * random.unit();
    ASSERT_LE(on_grid(value, unit), on_grid(above, unit));
    ASSERT_LE(gradient_unit(49, variance), gradient_unit(49, more));
  }
}

// Against rationals: rounded up from 0.618... of a unit on.
TEST(Grid, IsTheRationalOne) {
  Random random(3007);
  for (int i = 0; i < 2000 && !HasFailure(); ++i) {
    const double variance = std::fabs(random.of_exponent(-300, 250));
    ASSERT_EQ(variance_on_grid(variance), on_grid_of(variance, std::ilogb(variance) - 30));
    const int exponent = static_cast<int>(random.between(-60, 10));
    // Near the fraction that decides, too.
    const double fraction = random.chance(0.5) ? 0.6180339887498949 : random.unit();
    const double value = std::ldexp(static_cast<double>(random.between(-1000, 1000)) + fraction, exponent);
    ASSERT_EQ(on_grid(value, std::ldexp(1.0, exponent)), on_grid_of(value, exponent));
  }
  EXPECT_EQ(on_grid(-0.25, 1), 0);
  EXPECT_FALSE(std::signbit(on_grid(-0.25, 1)));
  EXPECT_EQ(on_grid(-0.7, 1), -1);
}

}  // namespace
}  // namespace exactnorm::testing
