#pragma once

#include <optional>
#include <span>
#include <vector>

#include "affine/apply.h"
#include "batch_norm/reduction.h"
#include "exactnorm/options.h"
#include "exactnorm/renormalization.h"
#include "exactnorm/statistics.h"
#include "exactnorm/sums.h"
#include "sums/exact_finalize.h"

namespace exactnorm {

/// One element per channel each.
struct ParameterValues {
  const double* gamma = nullptr;
  const double* beta = nullptr;
};

/// What a batch is renormalized by.
struct Reference {
  StatisticsView statistics;
  RenormalizationLimits limits;
};

/// Finalizes sums of x, of `count` elements per channel, to statistics, and to the coefficients of y. Its arguments
/// outlive it.
class StatisticsFinalizer : public Finalizer {
 public:
  StatisticsFinalizer(const MutableStatisticsView& statistics, Index count, const ParameterValues& parameters,
                      const Options& options, CoefficientTable& table)
      : statistics_(statistics), count_(count), parameters_(parameters), options_(options), table_(table) {}

  /// The coefficients are those of batch renormalization.
  void renormalize_by(const Reference& reference, Index channels);

  void set_centres(std::span<const Index>, std::span<double>) const override {}
  void finalize(QuickSums& sums, std::span<const double> centres, std::span<const Index> channels,
                std::vector<Index>& wanted) override;
  void finalize(const PartialSums& sums, std::span<const Index> channels) override;

 private:
  void finalize_consecutive(QuickSums& sums, const double* centres, std::span<const Index> channels,
                            std::vector<Index>& wanted);
  void set_coefficients(std::span<const Index> channels);
  void set_stretch(Index first, Index count);

  // gamma and beta with r and d in them.
  struct Renormalizer {
    Reference reference;
    std::vector<double> gamma;
    std::vector<double> beta;
  };

  MutableStatisticsView statistics_;
  Index count_;
  ParameterValues parameters_;
  const Options& options_;
  CoefficientTable& table_;
  std::optional<Renormalizer> renormalizer_;
};

/// One element per channel each.
struct GradientTargets {
  double* dgamma = nullptr;
  double* dbeta = nullptr;
};

/// Finalizes sums of dy and x to gradients, and to the coefficients of dx. Its arguments outlive it. `frozen`: mean and
/// variance do not depend on x, and dx = dy * gamma * inverse_deviation: dy takes the place of x, which is not read.
class GradientsFinalizer : public Finalizer {
 public:
  /// Elements of each channel: those that are summed, and those behind the statistics.
  struct Counts {
    Index summed = 0;
    Index of_statistics = 0;
  };
  GradientsFinalizer(const StatisticsView& statistics, Counts counts, const double* gamma,
                     const GradientTargets& gradients, bool frozen, const Options& options, CoefficientTable& table)
      : statistics_(statistics),
        counts_(counts),
        gamma_(gamma),
        gradients_(gradients),
        frozen_(frozen),
        options_(options),
        table_(table) {}

  void set_centres(std::span<const Index> channels, std::span<double> centres) const override;
  void finalize(QuickSums& sums, std::span<const double> centres, std::span<const Index> channels,
                std::vector<Index>& wanted) override;
  void finalize(const PartialSums& sums, std::span<const Index> channels) override;

  /// Sets the coefficients of channels whose gradients are set; frozen ones need none.
  void set_coefficients(std::span<const Index> channels);

 private:
  StatisticsView statistics_;
  Counts counts_;
  const double* gamma_;
  GradientTargets gradients_;
  bool frozen_;
  const Options& options_;
  CoefficientTable& table_;
};

}  // namespace exactnorm
