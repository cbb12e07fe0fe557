// Where elements lie, and which axes are channels, changes no bit, and nothing outside of an output is written.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "exactnorm/batch_norm.h"
#include "exactnorm/tensor.h"
#include "support/compare.h"
#include "support/random.h"
#include "support/tensor.h"

namespace exactnorm::testing {
namespace {

// A shape and its channel axes, and where each element stands in the plain form (channel, element of the channel).
struct Problem {
  IndexList shape;
  IndexList channel_axes;  // not negative
  Index channels = 1;
  Index reduced = 1;
  std::vector<Index> plain_position;  // by row-major position

  Problem(const IndexList& its_shape, const IndexList& axes) : shape(its_shape), channel_axes(axes) {
    const auto is_channel = [&](std::size_t axis) {
      return std::find(axes.begin(), axes.end(), static_cast<Index>(axis)) != axes.end();
    };
    for (std::size_t i = 0; i < shape.size(); ++i) (is_channel(i) ? channels : reduced) *= shape[i];
    for (Index position = 0; position < product(shape); ++position) {
      const IndexList indices = unravel(position, shape);
      Index channel = 0;
      Index element = 0;
      for (const Index axis : axes) {
        const auto at = static_cast<std::size_t>(axis);
        channel = channel * shape[at] + indices[at];
      }
      for (std::size_t i = 0; i < shape.size(); ++i) {
        if (!is_channel(i)) element = element * shape[i] + indices[i];
      }
      plain_position.push_back(channel * reduced + element);
    }
  }

  [[nodiscard]] std::vector<double> to_plain(const std::vector<double>& values) const {
    std::vector<double> plain(values.size());
    for (std::size_t i = 0; i < values.size(); ++i) plain[static_cast<std::size_t>(plain_position[i])] = values[i];
    return plain;
  }
};

struct Dtypes {
  DType x = DType::float32;
  DType dy = DType::float32;
  DType y = DType::float32;
  DType dx = DType::float32;
  DType parameters = DType::float64;
};

struct Results {
  Statistics statistics;
  std::vector<double> y, inferred, dx, dgamma, dbeta, frozen_dx, frozen_dgamma;
};

struct Data {
  std::vector<double> x, dy, gamma, beta;
  Statistics given;
  Options options;
};

Statistics given_for(Random& random, Index channels) {
  std::vector<double> means;
  std::vector<double> variances;
  for (Index i = 0; i < channels; ++i) {
    means.push_back(random.normal());
    variances.push_back(random.uniform(0.1, 2));
  }
  return given_statistics(view(means, {channels}), view(variances, {channels}));
}

// The outputs' strides, or none for row-major.
struct Strides {
  std::optional<IndexList> x, dy, y, dx;
};

Tensor make(DType dtype, const IndexList& shape, const std::optional<IndexList>& strides) {
  return strides ? Tensor::strided(dtype, shape, *strides) : Tensor(dtype, shape);
}

Results run(const Data& data, const IndexList& shape, const IndexList& axes, Index channels, const Dtypes& dtypes,
            const Strides& strides) {
  Options options = data.options;
  options.channel_axes = axes;
  Tensor x = make(dtypes.x, shape, strides.x);
  x.fill(data.x);
  Tensor dy = make(dtypes.dy, shape, strides.dy);
  dy.fill(data.dy);
  const Tensor gamma(dtypes.parameters, {channels}, data.gamma);
  const Tensor beta(dtypes.parameters, {channels}, data.beta);
  Tensor y = make(dtypes.y, shape, strides.y);
  Tensor inferred = make(dtypes.y, shape, strides.y);
  Tensor dx = make(dtypes.dx, shape, strides.dx);
  Tensor frozen_dx = make(dtypes.dx, shape, strides.dx);
  Tensor dgamma(DType::float64, {channels});
  Tensor dbeta(DType::float64, {channels});
  Tensor frozen_dgamma(DType::float64, {channels});

  Results results;
  const TensorView x_view = std::as_const(x).view();
  const TensorView dy_view = std::as_const(dy).view();
  results.statistics = training(x_view, y.view(), {gamma.view(), beta.view()}, options);
  inference(x_view, data.given, inferred.view(), {gamma.view(), beta.view()}, options);
  backward(dy_view, x_view, results.statistics, {gamma.view()}, {dx.view(), dgamma.view(), dbeta.view()}, options);
  backward_frozen(dy_view, x_view, data.given, {gamma.view()}, {frozen_dx.view(), frozen_dgamma.view(), {}}, options);
  for (const Tensor* tensor : {&x, &dy, &y, &inferred, &dx, &frozen_dx, &dgamma, &dbeta, &frozen_dgamma}) {
    EXPECT_TRUE(tensor->guards_intact());
  }
  EXPECT_TRUE(same_bits(x.values(), data.x));
  results.y = y.values();
  results.inferred = inferred.values();
  results.dx = dx.values();
  results.dgamma = dgamma.values();
  results.dbeta = dbeta.values();
  results.frozen_dx = frozen_dx.values();
  results.frozen_dgamma = frozen_dgamma.values();
  return results;
}

Data random_data(Random& random, const Problem& problem, const Dtypes& dtypes) {
  Data data;
  const Index count = product(problem.shape);
  Tensor x(dtypes.x, {count});
  Tensor dy(dtypes.dy, {count});
  const double mean = random.uniform(0, 60);
  const double deviation = random.uniform(1, 20);
  for (Index i = 0; i < count; ++i) {
    x.set(i, std::clamp(mean + deviation * random.normal(), 0.0, 127.0));
    dy.set(i, random.chance(0.1) ? 0 : random.normal());
  }
  data.x = x.values();
  data.dy = dy.values();
  Tensor gamma(dtypes.parameters, {problem.channels});
  Tensor beta(dtypes.parameters, {problem.channels});
  for (Index i = 0; i < problem.channels; ++i) {
    gamma.set(i, random.uniform(1, 4));
    beta.set(i, random.uniform(1, 4));
  }
  data.gamma = gamma.values();
  data.beta = beta.values();
  data.given = given_for(random, problem.channels);
  data.options.epsilon_placement = random.chance(0.5) ? EpsilonPlacement::variance : EpsilonPlacement::deviation;
  data.options.threads = static_cast<int>(random.between(1, 2));
  return data;
}

void expect_same(const Results& results, const Results& plain, const Problem& problem) {
  EXPECT_TRUE(same_bits(results.statistics, plain.statistics));
  EXPECT_TRUE(same_bits(problem.to_plain(results.y), plain.y));
  EXPECT_TRUE(same_bits(problem.to_plain(results.inferred), plain.inferred));
  EXPECT_TRUE(same_bits(problem.to_plain(results.dx), plain.dx));
  EXPECT_TRUE(same_bits(problem.to_plain(results.frozen_dx), plain.frozen_dx));
  EXPECT_TRUE(same_bits(results.dgamma, plain.dgamma));
  EXPECT_TRUE(same_bits(results.dbeta, plain.dbeta));
  EXPECT_TRUE(same_bits(results.frozen_dgamma, plain.frozen_dgamma));
}

// The same data as (channels, elements) in row-major order, which exact_statistics_test holds against the oracle.
Results run_plain(Data data, const Problem& problem, const Dtypes& dtypes) {
  data.x = problem.to_plain(data.x);
  data.dy = problem.to_plain(data.dy);
  data.options.threads = 1;
  return run(data, {problem.channels, problem.reduced}, {0}, problem.channels, dtypes, {});
}

IndexList random_shape(Random& random) {
  IndexList shape;
  const Index rank = random.between(0, 8);
  Index budget = 6000;
  for (Index i = 0; i < rank; ++i) {
    const Index largest = std::min<Index>(70, budget);
    shape.push_back(random.chance(0.15) ? 1 : random.between(1, rank <= 3 ? largest : std::min<Index>(largest, 7)));
    budget /= shape[shape.size() - 1];
    budget = std::max<Index>(budget, 1);
  }
  return shape;
}

IndexList random_axes(Random& random, std::size_t rank) {
  std::vector<Index> all;
  for (std::size_t i = 0; i < rank; ++i) all.push_back(static_cast<Index>(i));
  random.shuffle(all);
  const Index count = random.chance(0.6) && rank > 0 ? 1 : random.between(0, static_cast<Index>(rank));
  return IndexList(std::span<const Index>(all.data(), static_cast<std::size_t>(count)));
}

class RandomLayout : public ::testing::TestWithParam<std::uint64_t> {};

TEST_P(RandomLayout, GivesTheBitsOfThePlainOne) {
  Random random(GetParam());
  for (int i = 0; i < 40 && !HasFailure(); ++i) {
    const IndexList shape = random_shape(random);
    const Problem problem(shape, random_axes(random, shape.size()));
    const auto any = [&] { return all_dtypes[static_cast<std::size_t>(random.between(0, 11))]; };
    const auto floating = [&] { return random.chance(0.5) ? DType::float32 : all_dtypes[random.bits() % 4]; };
    const Dtypes dtypes = {random.chance(0.5) ? floating() : any(), floating(), floating(), floating(), any()};
    const Data data = random_data(random, problem, dtypes);
    const Strides strides = {random_strides(random, shape), random_strides(random, shape),
                             random_strides(random, shape), random_strides(random, shape)};
    IndexList axes = problem.channel_axes;
    for (Index& axis : axes) {
      if (random.chance(0.3)) axis -= static_cast<Index>(shape.size());
    }
    SCOPED_TRACE(::testing::Message() << "case " << i << ": shape " << to_string(shape) << " channel axes "
                                      << to_string(axes) << " x " << name_of(dtypes.x) << to_string(*strides.x) << " y "
                                      << name_of(dtypes.y) << to_string(*strides.y) << " dy " << name_of(dtypes.dy)
                                      << " dx " << name_of(dtypes.dx));
    expect_same(run(data, shape, axes, problem.channels, dtypes, strides), run_plain(data, problem, dtypes), problem);
  }
}
INSTANTIATE_TEST_SUITE_P(Seeds, RandomLayout, ::testing::Range<std::uint64_t>(100, 110));

struct Named {
  const char* name;
  IndexList shape;
  IndexList channel_axes;
};
void PrintTo(const Named& problem, std::ostream* out) { *out << problem.name; }

class DenseLayout : public ::testing::TestWithParam<Named> {};

// Sizes at which the kernels take other ways: few channels side by side, whole and broken vectors, long rows.
TEST_P(DenseLayout, GivesTheBitsOfThePlainOne) {
  Random random(120);
  const Problem problem(GetParam().shape, GetParam().channel_axes);
  for (const DType dtype : {DType::float32, DType::float64, DType::int16}) {
    const DType floating = dtype == DType::int16 ? DType::float32 : dtype;
    const Dtypes dtypes = {dtype, floating, floating, floating, DType::float32};
    const Data data = random_data(random, problem, dtypes);
    expect_same(run(data, problem.shape, problem.channel_axes, problem.channels, dtypes, {}),
                run_plain(data, problem, dtypes), problem);
  }
}
INSTANTIATE_TEST_SUITE_P(
    Sizes, DenseLayout,
    ::testing::Values(Named{"nchw", {5, 17, 9, 11}, {1}}, Named{"nhwc", {5, 9, 11, 17}, {3}},
                      Named{"nhwc1", {700, 1}, {1}}, Named{"nhwc2", {700, 2}, {1}}, Named{"nhwc3", {1000, 3}, {1}},
                      Named{"nhwc5", {701, 5}, {1}}, Named{"nhwc16", {333, 16}, {1}}, Named{"nhwc17", {333, 17}, {1}},
                      Named{"nhwc31", {300, 31}, {1}}, Named{"nhwc32", {300, 32}, {1}}, Named{"nhwc33", {300, 33}, {1}},
                      Named{"nhwc64", {129, 64}, {1}}, Named{"nhwc70", {129, 70}, {1}},
                      Named{"nhwc127", {65, 127}, {1}}, Named{"wide", {2, 5000}, {1}},
                      Named{"hwcn", {7, 5, 6, 40}, {2}}, Named{"cn", {33, 257}, {0}}, Named{"one", {9000}, {}},
                      Named{"everything", {6, 7, 8}, {0, 1, 2}}, Named{"reversed", {6, 7, 8}, {2, 0}},
                      Named{"blocked", {3, 4, 5, 6, 16}, {1, 4}}, Named{"apart", {3, 4, 5, 6}, {0, 3}}),
    [](const auto& problem) { return problem.param.name; });

TEST(Broadcast, InputsMayHaveStridesOfZero) {
  Random random(130);
  for (int i = 0; i < 60 && !HasFailure(); ++i) {
    const IndexList shape = {random.between(1, 40), random.between(1, 40), random.between(1, 9)};
    IndexList strides = Tensor::dense_strides(shape);
    for (Index& stride : strides) {
      if (random.chance(0.5)) stride = 0;
    }
    const DType dtype = random.chance(0.5) ? DType::float32 : DType::float64;
    Tensor narrow = Tensor::strided(dtype, shape, strides);
    for (Index j = 0; j < narrow.count(); ++j) narrow.set(j, random.normal());
    const Tensor full(dtype, shape, narrow.values());
    Options options;
    options.channel_axes = random_axes(random, 3);
    Tensor y(DType::float32, shape);
    Tensor expected(DType::float32, shape);
    const Statistics statistics = training(std::as_const(narrow).view(), y.view(), {}, options);
    EXPECT_TRUE(same_bits(statistics, training(full.view(), expected.view(), {}, options)));
    EXPECT_TRUE(same_bits(y.values(), expected.values()));
    EXPECT_TRUE(narrow.guards_intact());

    const Index channels = statistics.channels();
    Tensor dx(DType::float32, shape);
    Tensor expected_dx(DType::float32, shape);
    Tensor dgamma(DType::float32, {channels});
    Tensor expected_dgamma(DType::float32, {channels});
    // dy, too, is broadcast, as the gradient of a sum is.
    const Tensor ones = Tensor::strided(DType::float32, {}, {});
    Tensor one = ones;
    one.set(0, 0.5);
    const TensorView dy = {std::as_const(one).view().data, DType::float32, shape, {0, 0, 0}};
    const Tensor full_dy(DType::float32, shape, std::vector<double>(static_cast<std::size_t>(product(shape)), 0.5));
    backward(dy, std::as_const(narrow).view(), statistics, {}, {dx.view(), dgamma.view(), {}}, options);
    backward(full_dy.view(), full.view(), statistics, {}, {expected_dx.view(), expected_dgamma.view(), {}}, options);
    EXPECT_TRUE(same_bits(dx.values(), expected_dx.values()));
    EXPECT_TRUE(same_bits(dgamma.values(), expected_dgamma.values()));
  }
}

TEST(LayoutView, NamesAxesSlowestFirst) {
  std::vector<float> memory(2 * 32 * 3 * 5);
  const LayoutView nchw = layout_view(std::as_const(memory).data(), "nchw", {2, 32, 3, 5});
  EXPECT_EQ(nchw.view.shape, (IndexList{2, 32, 3, 5}));
  EXPECT_EQ(nchw.view.strides, (IndexList{480, 15, 5, 1}));
  EXPECT_EQ(nchw.channel_axes, (IndexList{1}));
  const MutableLayoutView hwcn = layout_view(memory.data(), "hwcn", {3, 5, 32, 2});
  EXPECT_EQ(hwcn.view.strides, (IndexList{320, 64, 2, 1}));
  EXPECT_EQ(hwcn.channel_axes, (IndexList{2}));
  EXPECT_EQ(hwcn.view.data, memory.data());
  const LayoutView blocked = layout_view(std::as_const(memory).data(), "nChw16c", {2, 32, 3, 5});
  EXPECT_EQ(blocked.view.shape, (IndexList{2, 2, 3, 5, 16}));
  EXPECT_EQ(blocked.view.strides, (IndexList{480, 240, 80, 16, 1}));
  EXPECT_EQ(blocked.channel_axes, (IndexList{1, 4}));
}

// Channel c of nChw16c is channel c of nchw.
TEST(LayoutView, BlockedChannelsAreNumberedAsPlainOnes) {
  Random random(140);
  constexpr Index batch = 3, channels = 48, height = 5, width = 7;
  std::vector<float> plain(batch * channels * height * width);
  std::vector<float> blocked(plain.size());
  std::vector<double> gamma;
  for (Index c = 0; c < channels; ++c) gamma.push_back(static_cast<double>(c) + 1);
  const auto plain_at = [](Index n, Index c, Index p) {
    return static_cast<std::size_t>((n * channels + c) * height * width + p);
  };
  const auto blocked_at = [](Index n, Index c, Index p) {
    return static_cast<std::size_t>(((n * (channels / 16) + c / 16) * height * width + p) * 16 + c % 16);
  };
  for (Index n = 0; n < batch; ++n) {
    for (Index c = 0; c < channels; ++c) {
      for (Index p = 0; p < height * width; ++p) {
        plain[plain_at(n, c, p)] = blocked[blocked_at(n, c, p)] = static_cast<float>(random.normal());
      }
    }
  }
  const auto normalize = [&](std::vector<float>& memory, std::string_view layout) {
    const MutableLayoutView in_place = layout_view(memory.data(), layout, {batch, channels, height, width});
    Options options;
    options.channel_axes = in_place.channel_axes;
    return training(in_place.view, in_place.view, {view(gamma, {channels}), {}}, options);
  };
  EXPECT_TRUE(same_bits(normalize(plain, "nchw"), normalize(blocked, "nChw16c")));
  for (Index n = 0; n < batch; ++n) {
    for (Index c = 0; c < channels; ++c) {
      for (Index p = 0; p < height * width; ++p) {
        ASSERT_EQ(plain[plain_at(n, c, p)], blocked[blocked_at(n, c, p)]);
      }
    }
  }
}

TEST(Views, PermuteAndSlice) {
  const std::vector<float> memory(120);
  const TensorView x = view(memory, {2, 3, 4, 5});
  const TensorView permuted = permute(x, {3, 0, 2, 1});
  EXPECT_EQ(permuted.shape, (IndexList{5, 2, 4, 3}));
  EXPECT_EQ(permuted.strides, (IndexList{1, 60, 5, 20}));
  EXPECT_EQ(permuted.data, memory.data());
  const TensorView sliced = slice(permuted, 3, 1, 2);
  EXPECT_EQ(sliced.shape, (IndexList{5, 2, 4, 2}));
  EXPECT_EQ(sliced.strides, permuted.strides);
  EXPECT_EQ(sliced.data, memory.data() + 20);
  EXPECT_EQ(slice(x, 0, 2, 0).shape, (IndexList{0, 3, 4, 5}));
}

// Parameters in each of the shapes that Affine allows, with strides of their own.
TEST(Parameters, OfEachShape) {
  Random random(150);
  const IndexList shape = {3, 4, 5, 2};
  Tensor x(DType::float32, shape);
  for (Index i = 0; i < x.count(); ++i) x.set(i, random.normal());
  Options options;
  options.channel_axes = {2, 0};  // channel = i2 * 3 + i0
  std::vector<double> gamma;
  for (int i = 0; i < 15; ++i) gamma.push_back(i + 1);
  const Tensor flat(DType::float64, {15}, gamma);
  Tensor backwards = Tensor::strided(DType::int16, {15}, {-3});
  backwards.fill(gamma);
  const Tensor sizes(DType::float32, {5, 3}, gamma);
  Tensor kept(DType::float64, {3, 1, 5, 1});
  for (Index i0 = 0; i0 < 3; ++i0) {
    for (Index i2 = 0; i2 < 5; ++i2) kept.set(i0 * 5 + i2, gamma[static_cast<std::size_t>(i2 * 3 + i0)]);
  }
  Tensor expected(DType::float32, shape);
  (void)training(std::as_const(x).view(), expected.view(), {flat.view(), flat.view()}, options);
  for (const Tensor* parameter : std::initializer_list<const Tensor*>{&backwards, &sizes, &kept}) {
    Tensor y(DType::float32, shape);
    (void)training(std::as_const(x).view(), y.view(), {parameter->view(), parameter->view()}, options);
    EXPECT_TRUE(same_bits(y.values(), expected.values())) << to_string(parameter->shape());
  }
  // As outputs: dbeta of ones is the count, dbeta of dy is its sum.
  Tensor dy(DType::float32, shape);
  for (Index i = 0; i < dy.count(); ++i) {
    const IndexList at = unravel(i, shape);
    dy.set(i, static_cast<double>(at[2] * 3 + at[0]));
  }
  const Statistics statistics = training(std::as_const(x).view(), expected.view(), {}, options);
  for (Tensor output : {Tensor(DType::float64, {15}), Tensor(DType::float32, {5, 3}),
                        Tensor(DType::float64, {3, 1, 5, 1}), Tensor::strided(DType::float64, {15}, {-4})}) {
    backward(std::as_const(dy).view(), std::as_const(x).view(), statistics, {}, {{}, {}, output.view()}, options);
    EXPECT_TRUE(output.guards_intact());
    for (Index i = 0; i < 15; ++i) {
      const bool keeps = output.shape().size() == 4;
      const Index channel = keeps ? i % 5 * 3 + i / 5 : i;
      EXPECT_EQ(output.get(i), static_cast<double>(channel * 8));
    }
  }
}

}  // namespace
}  // namespace exactnorm::testing
