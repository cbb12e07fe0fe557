#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "exactnorm/distributed.h"
#include "support/compare.h"
#include "support/random.h"
#include "support/tensor.h"

// A batch that ranks hold parts of, and what one process computes of it.

namespace exactnorm::testing {

// A batch, and where it is cut.
struct Case {
  DType dtype = DType::float32;
  IndexList shape;
  std::vector<Index> cuts;  // of the first axis: 0, ..., its size

  [[nodiscard]] int ranks() const { return static_cast<int>(cuts.size()) - 1; }
  [[nodiscard]] IndexList shape_of(int rank) const {
    IndexList part = shape;
    part[0] = cuts[static_cast<std::size_t>(rank) + 1] - cuts[static_cast<std::size_t>(rank)];
    return part;
  }
  [[nodiscard]] PartialSums::Range range() const {
    return dtype == DType::float64 ? PartialSums::Range::extended : PartialSums::Range::single;
  }
};

inline Case random_case(Random& random, Index ranks) {
  Case result;
  result.dtype = random.chance(0.3) ? DType::float64 : DType::float32;
  result.shape = {random.between(1, 9), random.between(1, 7), random.between(1, 6)};
  result.cuts = {0, result.shape[0]};
  for (Index i = 1; i < ranks; ++i) result.cuts.push_back(random.between(0, result.shape[0]));
  std::sort(result.cuts.begin(), result.cuts.end());
  return result;
}

// Rows first to last of `whole`, with strides of their own.
inline Tensor part_of(const Tensor& whole, const Case& which, int rank, std::uint64_t seed) {
  Random random(seed + static_cast<std::uint64_t>(rank));
  const IndexList shape = which.shape_of(rank);
  Tensor part = Tensor::strided(which.dtype, shape, random_strides(random, shape));
  const Index row = which.shape[1] * which.shape[2];
  const Index first = which.cuts[static_cast<std::size_t>(rank)] * row;
  for (Index i = 0; i < part.count(); ++i) part.set(i, whole.get(first + i));
  return part;
}

inline std::vector<double> rows_of(const Tensor& whole, const Case& which, int rank) {
  const Index row = which.shape[1] * which.shape[2];
  const std::vector<double> values = whole.values();
  const auto at = [&](std::size_t cut) { return values.begin() + which.cuts[cut] * row; };
  return {at(static_cast<std::size_t>(rank)), at(static_cast<std::size_t>(rank) + 1)};
}

// Everything that one process computes.
struct Whole {
  Tensor x, dy, residual, y, dx, d_residual, gamma, dgamma, dbeta;
  Statistics statistics;

  // gamma is beta, too.
  [[nodiscard]] Affine affine(const Tensor& some_residual) const {
    return {gamma.view(), gamma.view(), some_residual.view()};
  }
};

inline Whole compute(Random& random, const Case& which, const Options& options) {
  const Index channels = which.shape[1];
  const auto tensor = [&] { return Tensor(which.dtype, which.shape); };
  const auto parameter = [&] { return Tensor(which.dtype, {channels}); };
  Whole whole{tensor(), tensor(), tensor(), tensor(), tensor(), tensor(), parameter(), parameter(), parameter(), {}};
  const double mean = random.chance(0.5) ? random.of_exponent(0, 12) : 0;
  for (Index i = 0; i < whole.x.count(); ++i) {
    whole.x.set(i, mean + (random.chance(0.2) ? random.of_exponent(-60, 60) : random.normal()));
    whole.dy.set(i, random.normal());
    whole.residual.set(i, random.normal());
  }
  if (whole.x.count() > 0 && random.chance(0.2)) whole.x.set(random.between(0, whole.x.count() - 1), NAN);
  for (Index i = 0; i < channels; ++i) whole.gamma.set(i, random.normal());
  const Affine affine = whole.affine(whole.residual);
  whole.statistics = training(whole.x.view(), whole.y.view(), affine, options);
  backward(whole.dy.view(), whole.x.view(), whole.statistics, affine,
           {whole.dx.view(), whole.dgamma.view(), whole.dbeta.view(), whole.d_residual.view()}, options);
  return whole;
}

/// All that a rank computes of its part, in memory of its own strides, against the rows of the whole.
inline void check_rank(Communicator& communicator, const Case& which, const Options& options, const Whole& whole,
                       std::uint64_t seed) {
  const int rank = communicator.rank();
  SumExchange exchange(communicator, which.shape[1], which.range());
  const Tensor x = part_of(whole.x, which, rank, seed);
  const Tensor dy = part_of(whole.dy, which, rank, seed + 10);
  const Tensor residual = part_of(whole.residual, which, rank, seed + 40);
  Tensor y = part_of(whole.y, which, rank, seed + 20);
  Tensor dx = part_of(whole.dx, which, rank, seed + 30);
  Tensor d_residual = part_of(whole.d_residual, which, rank, seed + 50);
  Tensor dgamma(which.dtype, {which.shape[1]});
  Tensor dbeta(which.dtype, {which.shape[1]});
  y.fill(std::vector<double>(static_cast<std::size_t>(y.count()), 7));
  dx.fill(std::vector<double>(static_cast<std::size_t>(dx.count()), 7));

  d_residual.fill(std::vector<double>(static_cast<std::size_t>(dx.count()), 7));

  const Affine affine = whole.affine(residual);
  const Statistics statistics = synchronized_training(exchange, x.view(), y.view(), affine, options);
  EXPECT_TRUE(same_bits(statistics, whole.statistics));
  EXPECT_TRUE(same_bits(y.values(), rows_of(whole.y, which, rank)));
  EXPECT_TRUE(y.guards_intact());

  synchronized_backward(
      exchange, dy.view(), x.view(), statistics, affine,
      {.dx = dx.view(), .dgamma = dgamma.view(), .dbeta = dbeta.view(), .d_residual = d_residual.view()}, options);
  EXPECT_TRUE(same_bits(dx.values(), rows_of(whole.dx, which, rank)));
  EXPECT_TRUE(same_bits(dgamma.values(), whole.dgamma.values()));
  EXPECT_TRUE(same_bits(dbeta.values(), whole.dbeta.values()));
  EXPECT_TRUE(same_bits(d_residual.values(), rows_of(whole.d_residual, which, rank)));
  EXPECT_TRUE(dx.guards_intact());
  EXPECT_TRUE(d_residual.guards_intact());
}

/// Options that are worth trying.
inline Options random_options(Random& random) {
  Options options;
  options.threads = 1;
  options.epsilon = random.chance(0.2) ? 0 : 1e-5;
  if (random.chance(0.3)) options.epsilon_placement = EpsilonPlacement::deviation;
  if (random.chance(0.5)) options.activation = static_cast<Activation>(random.between(0, 5));
  return options;
}

}  // namespace exactnorm::testing
