// Ranks that hold parts of a batch, against one process that holds it all.
#include <gtest/gtest.h>

#include <cmath>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "exactnorm/distributed.h"
#include "exactnorm/layer.h"
#include "exactnorm/sums.h"
#include "support/compare.h"
#include "support/random.h"
#include "support/ranked_batch.h"
#include "support/tensor.h"
#include "support/thread_ranks.h"

namespace exactnorm::testing {
namespace {

using Range = PartialSums::Range;

TEST(Synchronized, GivesTheBitsOfOneProcess) {
  Random random(601);
  for (int i = 0; i < 100 && !HasFailure(); ++i) {
    const Case which = random_case(random, random.between(1, 5));
    const Options options = random_options(random);
    const Whole whole = compute(random, which, options);
    const std::uint64_t seed = random.bits();
    ThreadRanks::run(which.ranks(),
                     [&](Communicator& communicator) { check_rank(communicator, which, options, whole, seed); });
  }
}

// Shares against plain sums in long double, and their total against dgamma and dbeta.
TEST(Synchronized, SharesOfParameterGradientsAddUp) {
  Random random(602);
  const Case which = {DType::float64, {7, 3, 5}, {0, 2, 2, 6, 7}};
  const Whole whole = compute(random, {DType::float64, {7, 3, 5}, {0, 7}}, {});
  std::vector<std::vector<double>> dgammas(4);
  std::vector<std::vector<double>> dbetas(4);
  ThreadRanks::run(which.ranks(), [&](Communicator& communicator) {
    const auto rank = static_cast<std::size_t>(communicator.rank());
    SumExchange exchange(communicator, 3, Range::extended);
    const Tensor x = part_of(whole.x, which, communicator.rank(), 1);
    const Tensor dy = part_of(whole.dy, which, communicator.rank(), 2);
    Tensor dgamma(DType::float64, {3});
    Tensor dbeta(DType::float64, {1, 3, 1});
    synchronized_backward(exchange, dy.view(), x.view(), whole.statistics, {},
                          {.dgamma_share = dgamma.view(), .dbeta_share = dbeta.view()});
    dgammas[rank] = dgamma.values();
    dbetas[rank] = dbeta.values();

    for (Index channel = 0; channel < 3; ++channel) {
      const auto at = static_cast<std::size_t>(channel);
      long double sum = 0;
      long double product = 0;
      for (Index i = 0; i < x.count(); ++i) {
        if (i / 5 % 3 != channel) continue;
        sum += static_cast<long double>(dy.get(i));
        product += static_cast<long double>(dy.get(i)) *
                   (static_cast<long double>(x.get(i)) - static_cast<long double>(whole.statistics.mean[at]));
      }
      product *= static_cast<long double>(whole.statistics.inverse_deviation[at]);
      if (std::isnan(whole.statistics.mean[at])) continue;
      EXPECT_NEAR(dbetas[rank][at], static_cast<double>(sum), 1e-14 * (1 + std::abs(static_cast<double>(sum))));
      EXPECT_NEAR(dgammas[rank][at], static_cast<double>(product),
                  1e-13 * (1 + std::abs(static_cast<double>(product))));
    }
  });
  EXPECT_EQ(dgammas[1], std::vector<double>(3, 0.0));
  for (std::size_t channel = 0; channel < 3; ++channel) {
    double dgamma = 0;
    double dbeta = 0;
    for (std::size_t rank = 0; rank < 4; ++rank) {
      dgamma += dgammas[rank][channel];
      dbeta += dbetas[rank][channel];
    }
    EXPECT_NEAR(dgamma, whole.dgamma.get(static_cast<Index>(channel)), 1e-12);
    EXPECT_NEAR(dbeta, whole.dbeta.get(static_cast<Index>(channel)), 1e-12);
  }
}

TEST(Synchronized, ALayerTrainsAsOneProcessDoes) {
  Random random(603);
  const Case which = {DType::float32, {6, 4, 3}, {0, 1, 6, 6}};
  std::vector<Tensor> batches;
  for (int step = 0; step < 3; ++step) {
    batches.emplace_back(DType::float32, which.shape);
    for (Index i = 0; i < batches.back().count(); ++i) batches.back().set(i, 100 + random.normal());
  }
  for (const bool renormalizes : {false, true}) {
    const auto limits = renormalizes ? std::optional(RenormalizationLimits{2, 1}) : std::nullopt;
    BatchNorm alone(4);
    alone.renormalization = limits;
    Tensor y(DType::float32, which.shape);
    Tensor dx(DType::float32, which.shape);
    for (const Tensor& batch : batches) {
      alone.forward(batch.view(), y.view());
      alone.backward(batch.view(), batch.view(), dx.view());
    }
    ThreadRanks::run(which.ranks(), [&](Communicator& communicator) {
      const int rank = communicator.rank();
      SumExchange exchange(communicator, 4);
      BatchNorm layer(4);
      layer.renormalization = limits;
      Tensor own_y = part_of(y, which, rank, 1);
      Tensor own_dx = part_of(y, which, rank, 2);
      for (const Tensor& batch : batches) {
        const Tensor x = part_of(batch, which, rank, 3);
        layer.forward(exchange, x.view(), own_y.view());
        layer.backward(exchange, x.view(), x.view(), own_dx.view());
      }
      EXPECT_TRUE(same_bits(own_y.values(), rows_of(y, which, rank)));
      EXPECT_TRUE(same_bits(own_dx.values(), rows_of(dx, which, rank)));
      EXPECT_TRUE(same_bits(layer.running.mean, alone.running.mean));
      EXPECT_TRUE(same_bits(layer.running.variance, alone.running.variance));
      EXPECT_TRUE(same_bits(layer.gamma_gradient, alone.gamma_gradient));
      EXPECT_TRUE(same_bits(layer.beta_gradient, alone.beta_gradient));
    });
  }
}

// A batch of one value per channel in all has no unbiased variance, on whichever rank it is.
// Each rank has the part of the mask that belongs to its rows; one selects nothing.
TEST(Synchronized, MasksAreThoseOfOneProcess) {
  Random random(604);
  const Case which = {DType::float32, {9, 4, 3}, {0, 2, 5, 9}};
  Tensor x(DType::float32, which.shape);
  Tensor dy(DType::float32, which.shape);
  Tensor mask(DType::boolean, {9, 3});
  for (Index i = 0; i < x.count(); ++i) {
    x.set(i, 100 + random.normal());
    dy.set(i, random.normal());
  }
  for (Index i = 0; i < mask.count(); ++i) mask.set(i, i >= 6 && random.chance(0.5) ? 1 : 0);
  for (const MaskedOutput masked : {MaskedOutput::zero, MaskedOutput::normalized, MaskedOutput::untouched}) {
    SCOPED_TRACE("masked output " + std::to_string(static_cast<int>(masked)));
    const std::vector<double> before(static_cast<std::size_t>(x.count()), 7.0);
    const Mask of_all(std::as_const(mask).view(), masked);
    BatchNorm alone(4);
    Tensor y(DType::float32, which.shape, before);
    Tensor dx(DType::float32, which.shape, before);
    alone.forward(std::as_const(x).view(), y.view(), std::nullopt, of_all);
    alone.backward(std::as_const(dy).view(), std::as_const(x).view(), dx.view(), std::nullopt, std::nullopt, of_all);
    ThreadRanks::run(which.ranks(), [&](Communicator& communicator) {
      const int rank = communicator.rank();
      SumExchange exchange(communicator, 4);
      BatchNorm layer(4);
      const Tensor own_x = part_of(x, which, rank, 1);
      const Tensor own_dy = part_of(dy, which, rank, 2);
      const auto first = which.cuts[static_cast<std::size_t>(rank)];
      const Mask own(slice(std::as_const(mask).view(), 0, first, own_x.shape()[0]), masked);
      Tensor own_y(DType::float32, own_x.shape(), std::vector<double>(static_cast<std::size_t>(own_x.count()), 7.0));
      Tensor own_dx = own_y;
      EXPECT_TRUE(layer.forward(exchange, own_x.view(), own_y.view(), std::nullopt, own).empty());
      layer.backward(exchange, own_dy.view(), own_x.view(), own_dx.view(), std::nullopt, std::nullopt, own);
      EXPECT_TRUE(same_bits(own_y.values(), rows_of(y, which, rank)));
      EXPECT_TRUE(same_bits(own_dx.values(), rows_of(dx, which, rank)));
      EXPECT_EQ(layer.running.mean, alone.running.mean);
      EXPECT_EQ(layer.running.variance, alone.running.variance);
      EXPECT_EQ(layer.gamma_gradient, alone.gamma_gradient);
      EXPECT_EQ(layer.beta_gradient, alone.beta_gradient);
    });
  }
}

TEST(Synchronized, ALayerRefusesASingleValueOnAllRanks) {
  ThreadRanks::run(3, [](Communicator& communicator) {
    SumExchange exchange(communicator, 2);
    BatchNorm layer(2);
    const Tensor x(DType::float32, {communicator.rank() == 1 ? 1 : 0, 2}, {1, 2});
    Tensor y(DType::float32, x.shape());
    y.fill({7, 7});
    EXPECT_EQ(error_of([&] { layer.forward(exchange, x.view(), y.view()); }),
              "batch: has 1 value per channel; expected at least 2, as one value has no unbiased variance");
    if (y.count() > 0) {
      EXPECT_EQ(y.get(0), 7);
    }
    EXPECT_EQ(layer.running.batches_tracked, 0);
  });
}

// What one rank does wrong, and what all of them hear.
TEST(Synchronized, AnErrorOnOneRankIsTheErrorOfAll) {
  struct Mistake {
    DType dtype;
    IndexList shape;
    Index gammas;
    double epsilon;
    std::string expected;
  };
  const std::vector<Mistake> mistakes = {
      {DType::float32, {2, 4}, 4, 1e-5, "x on rank 2: has 4 channels; expected 3, as in the exchange"},
      {DType::float64,
       {2, 3},
       3,
       1e-5,
       "x on rank 2: is float64; expected float32 or an integer of at most 16 bits, as the exchange is of range "
       "single"},
      {DType::float32, {6}, 3, 1e-5, "channel_axes on rank 2: has 1; expected axes of a tensor of shape (6,)"},
      {DType::float32,
       {2, 3},
       3,
       1e-3,
       "call on rank 2: is number 1, moments, epsilon 0.001 beside the variance; expected number 1, moments, epsilon "
       "1e-05 beside the variance, as on rank 0"},
  };
  for (const Mistake& mistake : mistakes) {
    ThreadRanks::run(4, [&](Communicator& communicator) {
      SumExchange exchange(communicator, 3);
      const Tensor good(DType::float32, {2, 3}, {1, 2, 3, 4, 5, 6});
      const Tensor bad(mistake.dtype, mistake.shape);
      const bool is_wrong = communicator.rank() == 2;
      const Tensor& x = is_wrong ? bad : good;
      Tensor y(is_wrong ? mistake.dtype : DType::float32, x.shape());
      y.fill(std::vector<double>(static_cast<std::size_t>(y.count()), 7));
      Options options;
      if (is_wrong) options.epsilon = mistake.epsilon;
      const std::string found = error_of([&] { synchronized_training(exchange, x.view(), y.view(), {}, options); });
      EXPECT_EQ(found, mistake.expected);
      for (Index i = 0; i < y.count(); ++i) EXPECT_EQ(y.get(i), 7);

      // All go on with the next batch.
      Tensor out(DType::float32, {2, 3});
      EXPECT_EQ(synchronized_training(exchange, good.view(), out.view()).count, 8);
    });
  }
}

TEST(Synchronized, SeveralRanksErrorsAreCounted) {
  ThreadRanks::run(4, [](Communicator& communicator) {
    SumExchange exchange(communicator, 1);
    const Tensor x(DType::float32, {2, communicator.rank() == 0 ? 1 : 2});
    Tensor y(DType::float32, x.shape());
    EXPECT_EQ(error_of([&] { synchronized_training(exchange, x.view(), y.view()); }),
              "x on rank 1: has 2 channels; expected 1, as in the exchange; 2 other ranks failed, too");
  });
}

TEST(Synchronized, ErrorsOfBackwardReachAllRanks) {
  ThreadRanks::run(2, [](Communicator& communicator) {
    SumExchange exchange(communicator, 3);
    const Tensor x(DType::float32, {2, 3}, {1, 2, 3, 4, 5, 6});
    Tensor y(DType::float32, {2, 3});
    const Statistics statistics = synchronized_training(exchange, x.view(), y.view());
    Tensor dx(DType::float32, {2, 3}, {7, 7, 7, 7, 7, 7});
    Tensor dgamma(DType::float32, {communicator.rank() == 0 ? 2 : 3});
    const auto error_with = [&](const SynchronizedGradients& gradients) {
      return error_of([&] { synchronized_backward(exchange, x.view(), x.view(), statistics, {}, gradients); });
    };
    EXPECT_EQ(error_with({.dx = dx.view(), .dgamma_share = dgamma.view()}),
              "dgamma_share on rank 0: has shape (2,); expected one element for each of the 3 channels");
    EXPECT_EQ(dx.get(0), 7);
    // One memory for two outputs, on both ranks.
    Tensor dbeta(DType::float32, {3});
    EXPECT_EQ(error_with({.dbeta = dbeta.view(), .dbeta_share = dbeta.view()}),
              "dbeta_share: overlaps dbeta; expected separate memory");
    EXPECT_EQ(error_with({.dgamma_share = dbeta.view(), .dbeta_share = dbeta.view()}),
              "dbeta_share: overlaps dgamma_share; expected separate memory");
  });
}

TEST(SumExchange, RefusesRanksThatDiffer) {
  ThreadRanks::run(3, [](Communicator& communicator) {
    const Index channels = communicator.rank() == 1 ? 5 : 4;
    EXPECT_EQ(error_of([&] { SumExchange(communicator, channels); }),
              "layers on rank 1: are 5 channels of range single; expected 4 channels of range single, as on rank 0");
    EXPECT_EQ(error_of([&] { SumExchange(communicator, communicator.rank() == 2 ? -1 : 4); }),
              "layers on rank 2: have one of -1 channels; expected 0 or more");
  });
}

TEST(SumExchange, RefusesRanksAtDifferentCalls) {
  ThreadRanks::run(2, [](Communicator& communicator) {
    SumExchange exchange(communicator, 2);
    const PartialSums moments(2);
    const PartialSums gradients(2, PartialSums::Kind::gradients);
    const std::string found =
        error_of([&] { (void)exchange.sum(communicator.rank() == 0 ? moments : gradients, "layer 3"); });
    EXPECT_EQ(found,
              "call on rank 1: is number 1, gradients, layer 3; expected number 1, moments, layer 3, as on rank 0");
  });
}

// Two layers in one message, and something else meanwhile.
TEST(SumExchange, CarriesSeveralLayersWhileOthersWork) {
  Random random(604);
  const Tensor a(DType::float32, {4, 3}, std::vector<double>(12, 1.5));
  const Tensor b(DType::float64, {5, 2}, std::vector<double>(10, 0.1));
  PartialSums of_a(3);
  PartialSums of_b(2, PartialSums::Kind::moments, Range::extended);
  accumulate(of_a, a.view());
  accumulate(of_b, b.view());
  PartialSums all_a = of_a;
  PartialSums all_b = of_b;
  for (int rank = 1; rank < 3; ++rank) {
    all_a.merge(of_a);
    all_b.merge(of_b);
  }
  ThreadRanks::run(3, [&](Communicator& communicator) {
    SumExchange exchange(communicator, {{3, Range::single}, {2, Range::extended}});
    EXPECT_FALSE(exchange.is_done());
    EXPECT_EQ(error_of([&] { (void)exchange.finish(); }).substr(0, 6), "finish");
    exchange.start(std::vector<PartialSums>{of_a, of_b});
    EXPECT_EQ(error_of([&] { exchange.start(std::vector<PartialSums>{of_a, of_b}); }).substr(0, 5), "start");
    while (!exchange.is_done()) std::this_thread::yield();
    const std::vector<PartialSums> sums = exchange.finish();
    ASSERT_EQ(sums.size(), 2U);
    EXPECT_EQ(sums[0], all_a);
    EXPECT_EQ(sums[1], all_b);

    // One layer too few, on one rank.
    std::vector<PartialSums> parts = {of_a, of_b};
    if (communicator.rank() == 1) parts.pop_back();
    exchange.start(parts);
    EXPECT_EQ(error_of([&] { (void)exchange.finish(); }), "sums on rank 1: are of 1 layers; expected 2");
  });
}

// Beyond 2^24 and 2^31 elements, where counts in float32 and in 32 bits end.
TEST(SumExchange, CountsBeyondTwoBillion) {
  const std::vector<float> values = {1, 3};
  PartialSums pair(1);
  accumulate(pair, view(values, {2, 1}));
  std::vector<std::int64_t> addends = to_addends(pair, Range::single);
  for (std::int64_t& addend : addends) addend *= (std::int64_t{1} << 30) + 1;
  const PartialSums many = from_addends(addends, 1, PartialSums::Kind::moments, Range::single);
  ThreadRanks::run(3, [&](Communicator& communicator) {
    SumExchange exchange(communicator, 1);
    const Statistics statistics = statistics_of(exchange.sum(many));
    EXPECT_EQ(statistics.count, 6 * ((Index{1} << 30) + 1));
    EXPECT_EQ(statistics.mean[0], 2);
    EXPECT_EQ(statistics.variance[0], 1);
  });
}

TEST(Communicator, OfOneProcessChangesNothing) {
  const Tensor x(DType::float32, {2, 3}, {1, 2, 3, 4, 5, 7});
  Tensor y(DType::float32, {2, 3});
  Tensor expected(DType::float32, {2, 3});
  SumExchange exchange(single_process(), 3);
  EXPECT_TRUE(same_bits(synchronized_training(exchange, x.view(), y.view()), training(x.view(), expected.view())));
  EXPECT_TRUE(same_bits(y.values(), expected.values()));
  const Tensor wide(DType::float32, {2, 4});
  Tensor out(DType::float32, {2, 4});
  EXPECT_EQ(error_of([&] { synchronized_training(exchange, wide.view(), out.view()); }),
            "x: has 4 channels; expected 3, as in the exchange");
}

TEST(Communicator, AgreesOnErrorsOfAnyKind) {
  ThreadRanks::run(3, [](Communicator& communicator) {
    EXPECT_EQ(error_of([&] { agree(communicator, [] {}); }), "no error");
    EXPECT_EQ(error_of([&] {
                agree(communicator, [&] {
                  if (communicator.rank() == 1) throw std::bad_alloc();
                });
              }),
              "failure on rank 1: std::bad_alloc");
  });
}

}  // namespace
}  // namespace exactnorm::testing
