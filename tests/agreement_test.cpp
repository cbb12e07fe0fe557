// Ranks that are at different calls, or have statistics of different batches: the same Error on all, and nothing
// written.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "distributed/digest.h"
#include "exactnorm/distributed.h"
#include "exactnorm/layer.h"
#include "support/compare.h"
#include "support/integer.h"
#include "support/random.h"
#include "support/tensor.h"
#include "support/thread_ranks.h"

namespace exactnorm::testing {
namespace {

using Numbers = std::vector<std::int64_t>;

constexpr Index channels = 3;

// A rank's outputs of a backward pass, which hold 7 until they are written.
struct Outputs {
  Tensor dx, dgamma, dbeta, dgamma_share, dbeta_share;

  explicit Outputs(const IndexList& shape)
      : dx(DType::float32, shape),
        dgamma(parameter()),
        dbeta(parameter()),
        dgamma_share(parameter()),
        dbeta_share(parameter()) {
    for (Tensor* tensor : {&dx, &dgamma, &dbeta, &dgamma_share, &dbeta_share}) {
      tensor->fill(std::vector<double>(static_cast<std::size_t>(tensor->count()), 7));
    }
  }
  [[nodiscard]] SynchronizedGradients gradients() {
    return {dx.view(), dgamma.view(), dbeta.view(), dgamma_share.view(), dbeta_share.view()};
  }
  [[nodiscard]] bool are_untouched() const {
    return std::ranges::all_of(std::vector{&dx, &dgamma, &dbeta, &dgamma_share, &dbeta_share},
                               [](const Tensor* tensor) {
                                 return std::ranges::all_of(tensor->values(), [](double value) { return value == 7; });
                               });
  }

 private:
  static Tensor parameter() { return Tensor(DType::float64, {channels}); }
};

// What each of three ranks hears when it calls backward with the statistics that change(rank, ...) leaves. Afterwards,
// all call it with the right ones.
template <typename Change>
std::vector<std::string> errors_of_backward(const std::vector<double>& values, const Change& change) {
  std::vector<std::string> errors(3);
  ThreadRanks::run(3, [&](Communicator& communicator) {
    SumExchange exchange(communicator, channels);
    // The last rank has no sample.
    const IndexList shape = {communicator.rank() == 2 ? 0 : 2, channels};
    const Tensor x(DType::float32, shape, communicator.rank() == 2 ? std::vector<double>{} : values);
    Tensor y(DType::float32, shape);
    const Statistics right = synchronized_training(exchange, x.view(), y.view());
    Statistics changed = right;
    change(communicator.rank(), changed);
    Outputs outputs(shape);
    const auto backward_with = [&](const Statistics& statistics) {
      synchronized_backward(exchange, x.view(), x.view(), statistics, {}, outputs.gradients());
    };
    const std::string error = error_of([&] { backward_with(changed); });
    errors[static_cast<std::size_t>(communicator.rank())] = error;
    EXPECT_EQ(outputs.are_untouched(), error != "no error");
    EXPECT_EQ(error_of([&] { backward_with(right); }), "no error");
    EXPECT_FALSE(outputs.are_untouched());
  });
  return errors;
}

const std::vector<double> some_values = {1, 2, 3, 4, 5, 9};

// Of another count, or different in one bit of one channel, on one rank.
TEST(Agreement, StatisticsOfAnotherBatchOnOneRankAreTheErrorOfAll) {
  const auto next = [](double value) { return std::nextafter(value, INFINITY); };
  for (const int wrong : {0, 1, 2}) {
    for (const int member : {0, 1, 2, 3, 4}) {
      const std::vector<std::string> errors = errors_of_backward(some_values, [&](int rank, Statistics& statistics) {
        if (rank != wrong) return;
        if (member == 0) statistics.count = 2;
        if (member == 1) statistics.mean[2] = next(statistics.mean[2]);
        if (member == 2) statistics.mean_residual[1] = next(statistics.mean_residual[1]);
        if (member == 3) statistics.variance[0] = next(statistics.variance[0]);
        if (member == 4) statistics.inverse_deviation[2] = next(statistics.inverse_deviation[2]);
      });
      EXPECT_EQ(errors[1], errors[0]);
      EXPECT_EQ(errors[2], errors[0]);
      // With two that are alike, the first of which is rank 0, or with rank 0 against both.
      const std::string start = "call on rank " + std::to_string(std::max(wrong, 1)) +
                                ": is number 2, gradients, epsilon 1e-05 beside the variance, statistics ";
      EXPECT_EQ(errors[0].substr(0, start.size()), start);
      if (member == 0) {
        EXPECT_NE(errors[0].find(" of 2 elements per channel"), std::string::npos);
      }
      EXPECT_NE(errors[0].find(" of 4 elements per channel"), std::string::npos);
    }
  }
}

TEST(Agreement, StatisticsOfAnotherCountOnAllRanksAreTheSameError) {
  const std::vector<std::string> errors =
      errors_of_backward(some_values, [](int, Statistics& statistics) { statistics.count = 6; });
  const std::string expected = "statistics: are of 6 elements per channel; expected 4, as in x on all ranks together";
  EXPECT_EQ(errors, std::vector<std::string>(3, expected));
}

TEST(Agreement, VectorsOfAnotherSizeOnOneRankAreTheErrorOfAll) {
  const std::vector<std::string> errors = errors_of_backward(some_values, [](int rank, Statistics& statistics) {
    if (rank == 1) statistics.variance.pop_back();
  });
  const std::string expected =
      "statistics on rank 1: have vectors of 3, 3, 2 and 3 values; expected one for each of the 3 channels";
  EXPECT_EQ(errors, std::vector<std::string>(3, expected));
}

// What a layer of one rank has, and what all ranks hear of it.
struct WrongLayer {
  std::function<void(BatchNorm&)> change;
  std::string forward_error;
};

TEST(Agreement, ALayerThatIsWrongOnOneRankIsTheErrorOfAll) {
  const std::vector<WrongLayer> wrong_layers = {
      {[](BatchNorm& layer) { layer.running.momentum = 2; }, "momentum on rank 1: is 2; expected 0 to 1"},
      {[](BatchNorm& layer) { layer.running.variance.pop_back(); },
       "variance on rank 1: has 2 values; expected 3, as many as mean has"},
      {[](BatchNorm& layer) { layer.running = RunningStatistics(2); }, "x on rank 1: has 3 channels; expected 2"}};
  for (const WrongLayer& wrong : wrong_layers) {
    ThreadRanks::run(3, [&](Communicator& communicator) {
      SumExchange exchange(communicator, channels);
      BatchNorm layer(channels);
      if (communicator.rank() == 1) wrong.change(layer);
      const IndexList shape = {2, channels};
      const Tensor x(DType::float32, shape, some_values);
      Tensor y(DType::float32, shape, std::vector<double>(6, 7));
      EXPECT_EQ(error_of([&] { layer.forward(exchange, x.view(), y.view()); }), wrong.forward_error);
      EXPECT_EQ(y.values(), std::vector<double>(6, 7));
      EXPECT_EQ(layer.running.batches_tracked, 0);
      layer = BatchNorm(channels);
      EXPECT_EQ(error_of([&] { layer.forward(exchange, x.view(), y.view()); }), "no error");
    });
  }
}

TEST(Agreement, ALayerWithoutAForwardOnOneRankIsTheErrorOfAll) {
  ThreadRanks::run(3, [&](Communicator& communicator) {
    SumExchange exchange(communicator, channels);
    BatchNorm layer(channels);
    const IndexList shape = {2, channels};
    const Tensor x(DType::float32, shape, some_values);
    Tensor y(DType::float32, shape);
    layer.forward(exchange, x.view(), y.view());
    if (communicator.rank() == 2) layer = BatchNorm(channels);
    EXPECT_EQ(error_of([&] { layer.backward(exchange, x.view(), x.view(), y.view()); }),
              "backward on rank 2: was called without a forward; expected a forward first");
  });
}

// Whether a single value per channel is refused depends on it.
TEST(Agreement, LayersOfDifferentVarianceKindsAreTheErrorOfAll) {
  ThreadRanks::run(2, [&](Communicator& communicator) {
    SumExchange exchange(communicator, channels);
    BatchNorm layer(channels);
    if (communicator.rank() == 1) layer.running.variance_kind = VarianceKind::biased;
    const Tensor x(DType::float32, {communicator.rank(), channels}, std::vector<double>{1, 2, 3});
    Tensor y(DType::float32, x.shape());
    EXPECT_EQ(error_of([&] { layer.forward(exchange, x.view(), y.view()); }),
              "call on rank 1: is number 1, moments, epsilon 1e-05 beside the variance, biased running variance; "
              "expected number 1, moments, epsilon 1e-05 beside the variance, unbiased running variance, as on rank 0");
  });
}

// The exchange is refused before a rank says anything of its own.
TEST(Agreement, AnExchangeOfSeveralLayersIsTheErrorOfAll) {
  ThreadRanks::run(2, [&](Communicator& communicator) {
    SumExchange exchange(communicator, {{channels}, {channels}});
    BatchNorm layer(communicator.rank() == 0 ? channels : channels + 1);
    const Tensor x(DType::float32, {2, channels}, some_values);
    Tensor y(DType::float32, x.shape());
    EXPECT_EQ(error_of([&] { layer.forward(exchange, x.view(), y.view()); }), "exchange: is of 2 layers; expected 1");
  });
}

// The sign of a NaN is the processor's.
TEST(Agreement, AllNanAreOne) {
  const std::vector<std::string> errors =
      errors_of_backward({1, NAN, 3, 4, 5, 9}, [](int rank, Statistics& statistics) {
        EXPECT_TRUE(std::isnan(statistics.variance[1]));
        statistics.variance[1] = std::copysign(NAN, rank == 1 ? -1 : 1);
      });
  EXPECT_EQ(errors, std::vector<std::string>(3, "no error"));
}

// Two whose hashes of 16 bits are alike.
TEST(Agreement, EpsilonsThatOnceCollidedAreToldApart) {
  ThreadRanks::run(2, [](Communicator& communicator) {
    SumExchange exchange(communicator, 2);
    const Tensor x(DType::float32, {2, 2}, {1, 2, 3, 5});
    Tensor y(DType::float32, {2, 2}, {7, 7, 7, 7});
    Options options;
    options.epsilon = communicator.rank() == 0 ? 1e-5 : 0.002792;
    EXPECT_EQ(error_of([&] { synchronized_training(exchange, x.view(), y.view(), {}, options); }),
              "call on rank 1: is number 1, moments, epsilon 0.002792 beside the variance; expected number 1, moments, "
              "epsilon 1e-05 beside the variance, as on rank 0");
    EXPECT_EQ(y.values(), std::vector<double>(4, 7));
  });
}

// Pretends to be many ranks: its sums are what `total` makes of this rank's numbers.
class PretendedRanks : public Communicator {
 public:
  using Total = std::function<Numbers(const Numbers& own)>;
  PretendedRanks(int size, Total total) : size_(size), total_(std::move(total)) {}
  [[nodiscard]] int rank() const override { return 0; }
  [[nodiscard]] int size() const override { return size_; }
  std::unique_ptr<PendingSum> start_sum(Numbers numbers) override { return std::make_unique<Done>(total_(numbers)); }
  std::vector<std::string> gather(const std::string& text) override { return {text, text}; }

 private:
  class Done : public PendingSum {
   public:
    explicit Done(Numbers totals) : totals_(std::move(totals)) {}
    bool is_done() override { return true; }
    Numbers wait() override { return std::move(totals_); }

   private:
    Numbers totals_;
  };
  int size_;
  Total total_;
};

// What a rank sends at its first call, for this purpose.
Numbers message_for(const std::string& purpose) {
  Numbers message;
  PretendedRanks ranks(1, [&](const Numbers& own) { return message = own; });
  (void)SumExchange(ranks, 0).sum(PartialSums(0), purpose);
  return message;
}

// 20,000 calls are 2 * 10^8 pairs, of which 3,000 were alike when codes had 16 bits.
TEST(Agreement, MessagesOfDifferentCallsDiffer) {
  Random random(801);
  std::set<std::string> purposes;
  while (purposes.size() < 20000) purposes.insert("epsilon " + std::to_string(random.bits()));
  std::set<Numbers> messages;
  for (const std::string& purpose : purposes) messages.insert(message_for(purpose));
  EXPECT_EQ(messages.size(), purposes.size());
}

// One rank against all others, and any part of the ranks against the rest; up to as many as there may be.
TEST(Agreement, OneOfManyRanksIsFound) {
  Random random(802);
  for (int i = 0; i < 300; ++i) {
    const auto size = static_cast<int>(random.chance(0.2) ? 65536 : random.between(2, 65536));
    const Index others = random.chance(0.3) ? 1 : random.between(1, size - 1);
    const Numbers other = message_for("epsilon " + std::to_string(random.bits()));
    PretendedRanks differing(size, [&](const Numbers& own) {
      Numbers total = own;
      for (std::size_t k = 0; k < total.size(); ++k) total[k] = (size - others) * own[k] + others * other[k];
      return total;
    });
    EXPECT_EQ(error_of([&] { (void)SumExchange(differing, 0).sum(PartialSums(0), "epsilon 1"); }).substr(0, 12),
              "call on rank");
    PretendedRanks alike(size, [&](const Numbers& own) {
      Numbers total = own;
      for (std::int64_t& number : total) number *= size;
      return total;
    });
    EXPECT_EQ(error_of([&] { (void)SumExchange(alike, 0).sum(PartialSums(0), "epsilon 1"); }), "no error");
  }
}

// Against the polynomial in integers that do not overflow.
TEST(Digest, IsAPolynomialAtTwoPoints) {
  Random random(803);
  for (int i = 0; i < 100; ++i) {
    Digest digest;
    std::vector<std::uint32_t> numbers;
    while (random.chance(0.95)) {
      const std::uint64_t number = random.chance(0.2) ? ~std::uint64_t{0} : random.bits();
      const auto low = static_cast<std::uint32_t>(number);
      if (random.chance(0.5)) {
        numbers.push_back(static_cast<std::uint32_t>(number >> 32));
        digest.add(number);
      } else {
        digest.add(low);
      }
      numbers.push_back(low);
    }
    for (std::size_t point = 0; point < 2; ++point) {
      Integer sum = boost::multiprecision::pow(Integer(Digest::points[point]), static_cast<unsigned>(numbers.size()));
      for (std::size_t k = 0; k < numbers.size(); ++k) {
        sum += numbers[k] * boost::multiprecision::pow(Integer(Digest::points[point]),
                                                       static_cast<unsigned>(numbers.size() - 1 - k));
      }
      EXPECT_EQ(Integer(digest.values()[point]), sum % Digest::prime);
    }
  }
}

TEST(Digest, TellsLengthsAndSignsApart) {
  std::set<std::string> texts;
  for (std::size_t length = 0; length < 100; ++length) {
    Digest digest;
    digest.add(std::string(length, '\0'));
    texts.insert(digest.text());
  }
  EXPECT_EQ(texts.size(), 100U);
  const auto text_of = [](double value) {
    Digest digest;
    digest.add(value);
    return digest.text();
  };
  EXPECT_EQ(text_of(0).size(), 32U);
  EXPECT_NE(text_of(0.0), text_of(-0.0));
  EXPECT_NE(text_of(1), text_of(std::nextafter(1, 2)));
  EXPECT_EQ(text_of(NAN), text_of(-NAN));
}

}  // namespace
}  // namespace exactnorm::testing
