// The same bits from any number of threads, any instruction set and any split of the data.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>
#include <ostream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "exactnorm/batch_norm.h"
#include "exactnorm/info.h"
#include "support/compare.h"
#include "support/random.h"
#include "support/tensor.h"

namespace exactnorm::testing {
namespace {

enum class Content { ordinary, hostile, not_finite, overflowing };

struct Problem {
  std::string name;
  IndexList shape;
  IndexList channel_axes;
  DType x_dtype = DType::float32;
  DType dy_dtype = DType::float32;
  Content content = Content::ordinary;
};

void PrintTo(const Problem& problem, std::ostream* out) { *out << problem.name; }

double next_value(Random& random, DType dtype, Content content) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  if (!is_floating(dtype)) return static_cast<double>(random.between(-128, 127));
  if (content == Content::not_finite && random.chance(0.0001)) {
    return std::array{infinity, -infinity, std::nan("")}[static_cast<std::size_t>(random.between(0, 2))];
  }
  if (content != Content::hostile) return random.normal() + 100;
  if (random.chance(0.1)) return 0;
  return dtype == DType::float32 ? random.of_exponent(-149, 126) : random.of_exponent(-400, 400);
}

struct Results {
  Statistics statistics;
  std::vector<double> y, inferred, dx, dgamma, dbeta, frozen_dx, frozen_dgamma;
};

Results run(const Problem& problem, const Tensor& x, const Tensor& dy, const Statistics& given, double gamma,
            int threads) {
  Options options;
  options.channel_axes = problem.channel_axes;
  options.threads = threads;
  const Index channels = given.channels();
  const Tensor gammas(DType::float64, {channels}, std::vector<double>(static_cast<std::size_t>(channels), gamma));
  Tensor y(problem.dy_dtype, problem.shape);
  Tensor inferred(problem.dy_dtype, problem.shape);
  Tensor dx(problem.dy_dtype, problem.shape);
  Tensor frozen_dx(problem.dy_dtype, problem.shape);
  Tensor dgamma(DType::float64, {channels});
  Tensor dbeta(DType::float64, {channels});
  Tensor frozen_dgamma(DType::float64, {channels});
  Results results;
  results.statistics = training(x.view(), y.view(), {gammas.view(), {}}, options);
  inference(x.view(), given, inferred.view(), {gammas.view(), {}}, options);
  backward(dy.view(), x.view(), results.statistics, {gammas.view()}, {dx.view(), dgamma.view(), dbeta.view()}, options);
  backward_frozen(dy.view(), x.view(), given, {gammas.view()}, {frozen_dx.view(), frozen_dgamma.view(), {}}, options);
  results.y = y.values();
  results.inferred = inferred.values();
  results.dx = dx.values();
  results.dgamma = dgamma.values();
  results.dbeta = dbeta.values();
  results.frozen_dx = frozen_dx.values();
  results.frozen_dgamma = frozen_dgamma.values();
  return results;
}

// NaN is NaN: which one a processor makes is its own affair.
std::vector<double> plain_nans(std::vector<double> values) {
  for (double& value : values) {
    if (std::isnan(value)) value = std::numeric_limits<double>::quiet_NaN();
  }
  return values;
}

void expect_same(const Results& a, const Results& b) {
  const auto same = [](const std::vector<double>& p, const std::vector<double>& q) {
    return same_bits(plain_nans(p), plain_nans(q));
  };
  EXPECT_TRUE(same_bits(a.statistics, b.statistics));
  EXPECT_TRUE(same(a.y, b.y));
  EXPECT_TRUE(same(a.inferred, b.inferred));
  EXPECT_TRUE(same(a.dx, b.dx));
  EXPECT_TRUE(same(a.dgamma, b.dgamma));
  EXPECT_TRUE(same(a.dbeta, b.dbeta));
  EXPECT_TRUE(same(a.frozen_dx, b.frozen_dx));
  EXPECT_TRUE(same(a.frozen_dgamma, b.frozen_dgamma));
}

class SameBits : public ::testing::TestWithParam<Problem> {};

TEST_P(SameBits, FromAnyThreadsAndTarget) {
  const TargetRestorer restorer;
  Random random(31);
  const Problem& problem = GetParam();
  Tensor x(problem.x_dtype, problem.shape);
  Tensor dy(problem.dy_dtype, problem.shape);
  for (Index i = 0; i < x.count(); ++i) {
    x.set(i, next_value(random, problem.x_dtype, problem.content));
    dy.set(i, next_value(random, problem.dy_dtype, problem.content));
  }
  Index channels = 1;
  for (const Index axis : problem.channel_axes) channels *= problem.shape[static_cast<std::size_t>(axis)];
  const std::vector<double> means(static_cast<std::size_t>(channels), 99.5);
  const std::vector<double> variances(static_cast<std::size_t>(channels), 0.7);
  const Statistics given = given_statistics(view(means, {channels}), view(variances, {channels}));
  const double gamma = problem.content == Content::overflowing ? 1.5e38 : 1.25;

  set_target("");
  const Results expected = run(problem, x, dy, given, gamma, 1);
  for (const int threads : {2, 3, 7}) {
    SCOPED_TRACE(std::to_string(threads) + " threads");
    expect_same(run(problem, x, dy, given, gamma, threads), expected);
  }
  for (const std::string& target : supported_targets()) {
    SCOPED_TRACE(target);
    set_target(target);
    ASSERT_EQ(active_target(), target);
    expect_same(run(problem, x, dy, given, gamma, 2), expected);
  }
}
INSTANTIATE_TEST_SUITE_P(
    Problems, SameBits,
    ::testing::Values(
        Problem{"channels_first", {9, 5, 60, 61}, {1}}, Problem{"channels_last", {2500, 66}, {1}},
        Problem{"one_channel", {165000}, {}}, Problem{"three_channels_last", {55000, 3}, {1}},
        Problem{"three_channels_first", {55, 3, 1001}, {1}},
        Problem{"float64", {3, 3, 140, 131}, {1}, DType::float64, DType::float64},
        Problem{"float64_last", {5000, 33}, {1}, DType::float64, DType::float64},
        Problem{"mixed", {5000, 33}, {1}, DType::int16, DType::float64},
        Problem{"int8", {5, 33001}, {0}, DType::int8, DType::float32},
        Problem{"hostile", {7, 3, 7919}, {1}, DType::float32, DType::float32, Content::hostile},
        Problem{"hostile_last", {5003, 34}, {1}, DType::float32, DType::float32, Content::hostile},
        Problem{"hostile_float64", {4001, 5}, {1}, DType::float64, DType::float64, Content::hostile},
        Problem{"hostile_float64_first", {5, 4001}, {0}, DType::float64, DType::float64, Content::hostile},
        Problem{"not_finite", {8000, 20}, {1}, DType::float32, DType::float32, Content::not_finite},
        Problem{"overflowing", {8, 2001}, {0}, DType::float32, DType::float32, Content::overflowing},
        Problem{"overflowing_last", {2001, 8}, {1}, DType::float32, DType::float32, Content::overflowing}),
    [](const auto& problem) { return problem.param.name; });

// Several callers at once, each with threads of its own.
TEST(Callers, GetTheSameBitsAtTheSameTime) {
  Random random(35);
  const Problem problem = {"", {40, 5, 200}, {1}};
  Tensor x(DType::float32, problem.shape);
  Tensor dy(DType::float32, problem.shape);
  for (Index i = 0; i < x.count(); ++i) {
    x.set(i, random.normal());
    dy.set(i, random.normal());
  }
  const std::vector<double> ones(5, 1.0);
  const Statistics given = given_statistics(view(ones, {5}), view(ones, {5}));
  const Results expected = run(problem, x, dy, given, 2, 1);
  std::array<Results, 4> results;
  std::vector<std::thread> callers;
  for (std::size_t i = 0; i < results.size(); ++i) {
    callers.emplace_back([&, i] { results[i] = run(problem, x, dy, given, 2, static_cast<int>(i % 2) + 1); });
  }
  for (std::thread& caller : callers) caller.join();
  for (const Results& result : results) expect_same(result, expected);
}

TEST(Targets, AreCompiledSupportedAndChosen) {
  const TargetRestorer restorer;
  const std::vector<std::string> compiled = compiled_targets();
  const std::vector<std::string> supported = supported_targets();
  ASSERT_FALSE(supported.empty());
  for (const std::string& target : supported) {
    EXPECT_NE(std::find(compiled.begin(), compiled.end(), target), compiled.end()) << target;
  }
  set_target(supported.back());
  EXPECT_EQ(active_target(), supported.back());
  EXPECT_NE(error_of([] { set_target("Z80"); }), "no error");
  EXPECT_EQ(active_target(), supported.back());
  set_target("");
  EXPECT_EQ(active_target(), supported.front());
}

// Cuts a view at random places along random axes.
void split(Random& random, const TensorView& x, const TensorView& dy, const IndexList& reduced_axes, int depth,
           std::vector<std::pair<TensorView, TensorView>>& parts) {
  const auto axis = static_cast<std::size_t>(
      reduced_axes[static_cast<std::size_t>(random.between(0, static_cast<Index>(reduced_axes.size()) - 1))]);
  const Index size = x.shape[axis];
  if (depth == 0 || size < 2) {
    parts.emplace_back(x, dy);
    return;
  }
  const Index at = random.between(0, size);  // a part may be empty
  split(random, slice(x, axis, 0, at), slice(dy, axis, 0, at), reduced_axes, depth - 1, parts);
  split(random, slice(x, axis, at, size - at), slice(dy, axis, at, size - at), reduced_axes, depth - 1, parts);
}

// Merges in an order and a tree of random shape.
PartialSums merged(Random& random, std::vector<PartialSums> parts) {
  while (parts.size() > 1) {
    const auto a = static_cast<std::size_t>(random.between(0, static_cast<Index>(parts.size()) - 1));
    std::swap(parts[a], parts.back());
    const PartialSums last = parts.back();
    parts.pop_back();
    const auto b = static_cast<std::size_t>(random.between(0, static_cast<Index>(parts.size()) - 1));
    if (random.chance(0.5)) {
      parts[b].merge(last);
    } else {
      PartialSums sum = PartialSums::deserialize(last.serialize());
      sum.merge(parts[b]);
      parts[b] = sum;
    }
  }
  return parts.front();
}

TEST(Splits, MergeToTheBitsOfTheWhole) {
  Random random(32);
  for (int i = 0; i < 60 && !HasFailure(); ++i) {
    SCOPED_TRACE(i);
    const IndexList shape = {random.between(1, 9), random.between(1, 7), random.between(2, 40), random.between(1, 9)};
    const auto channel_axis = random.between(0, 3);
    Options options;
    options.channel_axes = {channel_axis};
    IndexList reduced_axes;
    for (Index axis = 0; axis < 4; ++axis) {
      if (axis != channel_axis) reduced_axes.push_back(axis);
    }
    const DType dtype = random.chance(0.5) ? DType::float32 : DType::float64;
    const Content content = random.chance(0.5) ? Content::hostile : Content::ordinary;
    Tensor x(dtype, shape);
    Tensor dy(dtype, shape);
    for (Index j = 0; j < x.count(); ++j) {
      x.set(j, next_value(random, dtype, content));
      dy.set(j, next_value(random, dtype, content));
    }
    const TensorView x_view = std::as_const(x).view();
    const TensorView dy_view = std::as_const(dy).view();
    std::vector<std::pair<TensorView, TensorView>> pieces;
    split(random, x_view, dy_view, reduced_axes, 4, pieces);

    const Index channels = shape[static_cast<std::size_t>(channel_axis)];
    std::vector<PartialSums> moments;
    std::vector<PartialSums> gradients;
    for (const auto& [x_piece, dy_piece] : pieces) {
      if (moments.empty() || random.chance(0.6)) {
        moments.emplace_back(channels);
        gradients.emplace_back(
            channels, PartialSums::Kind::gradients,
            dtype == DType::float64 && random.chance(0.3) ? PartialSums::Range::extended : PartialSums::Range::single);
      }
      accumulate(moments.back(), x_piece, options);
      accumulate(gradients.back(), dy_piece, x_piece, options);
    }
    const PartialSums all_moments = merged(random, moments);
    const PartialSums all_gradients = merged(random, gradients);
    PartialSums at_once(channels);
    accumulate(at_once, x_view, options);
    EXPECT_TRUE(all_moments == at_once);
    EXPECT_EQ(all_moments.count(), x.count() / channels);

    Tensor y(dtype, shape);
    Tensor dx(dtype, shape);
    Tensor dgamma(DType::float64, {channels});
    Tensor dbeta(DType::float64, {channels});
    const Statistics statistics = training(x_view, y.view(), {}, options);
    EXPECT_TRUE(same_bits(normalizing_statistics(all_moments, options), statistics));
    backward(dy_view, x_view, statistics, {}, {dx.view(), dgamma.view(), dbeta.view()}, options);

    Tensor part_y(dtype, shape);
    Tensor part_dx(dtype, shape);
    Tensor part_dgamma(DType::float64, {channels});
    Tensor part_dbeta(DType::float64, {channels});
    inference(x_view, normalizing_statistics(all_moments, options), part_y.view(), {}, options);
    EXPECT_TRUE(same_bits(part_y.values(), y.values()));
    // dx, piece by piece: each writes its own part.
    std::vector<std::pair<TensorView, TensorView>> again;
    for (const auto& [x_piece, dy_piece] : pieces) {
      const auto offset = static_cast<const std::byte*>(x_piece.data) - static_cast<const std::byte*>(x_view.data);
      MutableTensorView dx_piece = part_dx.view();
      dx_piece.data = static_cast<std::byte*>(dx_piece.data) + offset;
      dx_piece.shape = x_piece.shape;
      backward_from_sums(dy_piece, x_piece, statistics, all_gradients, {},
                         {dx_piece, part_dgamma.view(), part_dbeta.view()}, options);
      EXPECT_TRUE(same_bits(plain_nans(part_dgamma.values()), plain_nans(dgamma.values())));
      EXPECT_TRUE(same_bits(part_dbeta.values(), dbeta.values()));
    }
    EXPECT_TRUE(same_bits(plain_nans(part_dx.values()), plain_nans(dx.values())));
  }
}

TEST(PartialSums, OfSingleAndExtendedRangeMerge) {
  Random random(33);
  std::vector<float> single(999);
  std::vector<double> wide(single.size());
  for (std::size_t i = 0; i < single.size(); ++i) {
    single[i] = static_cast<float>(random.of_exponent(-140, 100));
    wide[i] = single[i];
  }
  const Options options{.channel_axes = {1}};
  const TensorView first_half = slice(view(single, {333, 3}), 0, 0, 100);
  const TensorView second_half = slice(view(wide, {333, 3}), 0, 100, 233);
  PartialSums expected(3);
  accumulate(expected, view(single, {333, 3}), options);
  for (const bool wide_first : {false, true}) {
    PartialSums a(3);
    PartialSums b(3);
    accumulate(a, first_half, options);
    accumulate(b, second_half, options);
    EXPECT_EQ(a.range(), PartialSums::Range::single);
    EXPECT_EQ(b.range(), PartialSums::Range::extended);
    EXPECT_FALSE(a == b);
    if (wide_first) std::swap(a, b);
    a.merge(b);
    EXPECT_EQ(a.range(), PartialSums::Range::extended);
    EXPECT_TRUE(a == expected);
    EXPECT_TRUE(expected == a);
    EXPECT_TRUE(same_bits(statistics_of(a), statistics_of(expected)));
    PartialSums more = expected;
    accumulate(more, second_half, options);
    EXPECT_FALSE(more == expected);
  }
  PartialSums both(3);
  accumulate(both, first_half, options);
  accumulate(both, second_half, options);
  EXPECT_TRUE(both == expected);
}

TEST(PartialSums, SerializeToTheSameBytesWhateverTheOrder) {
  Random random(34);
  for (const DType dtype : {DType::float32, DType::float64, DType::int64}) {
    Tensor x(dtype, {50, 4});
    for (Index i = 0; i < x.count(); ++i) x.set(i, next_value(random, dtype, Content::hostile));
    PartialSums forwards(4);
    PartialSums backwards(4);
    for (Index i = 0; i < 50; ++i) {
      accumulate(forwards, slice(std::as_const(x).view(), 0, i, 1));
      accumulate(backwards, slice(std::as_const(x).view(), 0, 49 - i, 1));
    }
    EXPECT_EQ(forwards.serialize(), backwards.serialize());
    const PartialSums back = PartialSums::deserialize(forwards.serialize());
    EXPECT_TRUE(back == forwards);
    EXPECT_EQ(back.count(), 50);
    EXPECT_EQ(back.channels(), 4);
    EXPECT_EQ(back.range(), forwards.range());
    EXPECT_EQ(back.kind(), forwards.kind());
    EXPECT_TRUE(same_bits(statistics_of(back), statistics_of(forwards)));
  }
}

TEST(PartialSums, KeepCountsOfNonFiniteValues) {
  const float infinity = std::numeric_limits<float>::infinity();
  const std::array<float, 6> x = {1, infinity, std::nanf(""), 2, 3, -infinity};
  const std::array<float, 6> dy = {infinity, 1, infinity, 1, 1, 1};
  PartialSums moments(2);
  accumulate(moments, view(x, {3, 2}));
  EXPECT_EQ(moments.nonfinite_count(0), 1);
  EXPECT_EQ(moments.nonfinite_count(1), 2);
  PartialSums gradients(2, PartialSums::Kind::gradients);
  accumulate(gradients, view(dy, {3, 2}), view(x, {3, 2}));
  EXPECT_EQ(gradients.nonfinite_count(0), 3);
  EXPECT_EQ(gradients.nonfinite_count(1), 2);
  PartialSums twice = PartialSums::deserialize(gradients.serialize());
  twice.merge(gradients);
  EXPECT_EQ(twice.nonfinite_count(0), 6);
}

}  // namespace
}  // namespace exactnorm::testing
