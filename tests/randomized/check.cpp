#include "randomized/check.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <sstream>

#include "randomized/reference.h"
#include "support/compare.h"
#include "support/half.h"
#include "support/oracle.h"
#include "tensor/element_type.h"

namespace exactnorm::testing {

namespace {

class Checker {
 public:
  Checker(const Case& test, const Results& results, WorstErrors& worst)
      : test_(test), results_(results), worst_(worst) {}

  std::string run() {
    for (const auto member :
         {&Statistics::mean, &Statistics::mean_residual, &Statistics::variance, &Statistics::inverse_deviation}) {
      if (!same_numbers(results_.of_moments.*member, results_.statistics.*member)) {
        return "statistics of sums of parts are not those of training";
      }
    }
    if (results_.of_moments.count != results_.statistics.count) return "count of parts is not that of training";
    if (!same_numbers(results_.dx_from_sums, results_.dx)) {
      return "dx from sums of parts is not that of the backward pass";
    }
    const std::vector<Index> channel_of = test_.channel_of_elements();
    std::vector<std::vector<std::size_t>> elements_of(test_.gamma.size());
    for (std::size_t i = 0; i < channel_of.size(); ++i) {
      elements_of[static_cast<std::size_t>(channel_of[i])].push_back(i);
    }
    const std::size_t step = std::max<std::size_t>(1, elements_of.size() / most_channels);
    for (std::size_t channel = test_.seed % step; channel < elements_of.size() && problem_.empty(); channel += step) {
      check_channel(channel, elements_of[channel]);
    }
    return problem_;
  }

 private:
  // About so many channels of a case are computed exactly, and so many elements with 300 digits. Other settings must
  // give the same bits for all of them.
  static constexpr std::size_t most_channels = 24;
  static constexpr std::size_t most_elements = 600;

  void check_channel(std::size_t channel, const std::vector<std::size_t>& elements) {
    channel_ = channel;
    std::vector<double> x;
    std::vector<double> dy;
    for (const std::size_t i : elements) {
      x.push_back(test_.x[i]);
      dy.push_back(test_.dy[i]);
    }
    const ChannelSumsReference sums(x, dy);
    expect_equal("count of non-finite x",
                 static_cast<double>(results_.moments.nonfinite_count(static_cast<Index>(channel))),
                 static_cast<double>(sums.nonfinite_x));
    const MomentsReference given({rational(test_.given_mean[channel]), rational(test_.given_variance[channel])},
                                 test_.options);
    std::optional<MomentsReference> own;
    if (sums.nonfinite_x == 0) own.emplace(moments_of(sums, test_.options));
    check_statistics(own);
    const GradientsReference frozen(sums, given, test_.gamma[channel], true);
    check_sums("frozen ", sums, frozen, given, results_.frozen_dgamma, results_.frozen_dbeta, sums.nonfinite_x == 0);
    std::optional<GradientsReference> gradients;
    if (own) gradients.emplace(sums, *own, test_.gamma[channel], false);
    check_sums("", sums, gradients ? *gradients : frozen, own ? *own : given, results_.dgamma, results_.dbeta,
               gradients.has_value());

    const std::size_t step =
        std::max<std::size_t>(1, elements.size() * std::min(test_.gamma.size(), most_channels) / most_elements);
    for (std::size_t at = channel % step; at < elements.size() && problem_.empty(); at += step) {
      element_ = elements[at];
      check_y("y", own, true, results_.y[element_]);
      check_y("y of inference", given, false, results_.inferred[element_]);
      if (gradients && sums.nonfinite_dy == 0) {
        check_dx("dx", *gradients, sums, false, results_.dx[element_]);
      } else {
        expect_nan("dx", results_.dx[element_]);
      }
      check_dx("frozen dx", frozen, sums, true, results_.frozen_dx[element_]);
    }
  }

  void check_statistics(const std::optional<MomentsReference>& right) {
    const Statistics& found = results_.statistics;
    if (!right) {
      expect_nan("mean", found.mean[channel_]);
      expect_nan("variance", found.variance[channel_]);
      return;
    }
    if (dtype_fits_float32(test_.x_dtype)) {
      const GridMoments expected(right->exact);
      expect_equal("mean", found.mean[channel_], expected.mean);
      expect_equal("mean_residual", found.mean_residual[channel_], expected.mean_residual);
      expect_equal("variance", found.variance[channel_], expected.variance);
      const ExactChannel channel({rational(expected.mean), rational(expected.variance)}, test_.options);
      check_inverse_deviation(channel.inverse_deviation);
      return;
    }
    expect_equal("mean", found.mean[channel_], correctly_rounded(right->exact.mean));
    expect_equal("mean_residual", found.mean_residual[channel_],
                 correctly_rounded(Rational(right->exact.mean - rational(found.mean[channel_]))));
    expect_equal("variance", found.variance[channel_], correctly_rounded(right->exact.variance));
    check_inverse_deviation(right->channel.inverse_deviation);
  }

  void check_inverse_deviation(const Real& inverse) {
    const Statistics& found = results_.statistics;
    expect_within("inverse_deviation", found.inverse_deviation[channel_], inverse, inverse * 0x1p-51,
                  std::numeric_limits<double>::max());
  }

  // dgamma and dbeta, which float64 arrays take.
  void check_sums(const std::string& kind, const ChannelSumsReference& sums, const GradientsReference& right,
                  const MomentsReference& moments, const std::vector<double>& dgamma, const std::vector<double>& dbeta,
                  bool x_is_finite) {
    if (sums.nonfinite_dy != 0) {
      expect_nan(kind + "dbeta", dbeta[channel_]);
    } else if (is_on_grid()) {
      expect_within(kind + "dbeta", dbeta[channel_], real(right.dbeta), size_of_sum(sums) * 0x1p-35,
                    std::numeric_limits<double>::max());
    } else {
      expect_equal(kind + "dbeta", dbeta[channel_], correctly_rounded(right.dbeta));
    }
    if (sums.nonfinite_dy != 0 || !x_is_finite) {
      expect_nan(kind + "dgamma", dgamma[channel_]);
      return;
    }
    // Two float64 numbers hold the mean to 2^-106 of it, or to the smallest subnormal.
    const Real of_mean = Real(0x1p-1074) * abs(real(right.dbeta)) * moments.channel.inverse_deviation +
                         abs(right.mean * real(right.dbeta) * moments.channel.inverse_deviation) * 0x1p-104;
    // What normalizes float32 data is on a grid, and so are sums of gradients over such data.
    const Real share = moments.channel.variance > 0
                           ? Real(moments.channel.inverse_deviation * sqrt(moments.channel.variance))
                           : Real(0);
    Real of_grid(0);
    if (is_on_grid()) of_grid += size_of_sum(sums) * share * 0x1p-35;
    if (kind.empty() && dtype_fits_float32(test_.x_dtype)) {
      of_grid += abs(real(right.dbeta)) * share * 0x1p-34 + abs(right.dgamma) * 0x1p-31;
    }
    expect_within(kind + "dgamma", dgamma[channel_], right.dgamma,
                  abs(right.dgamma) * 0x1p-50 + of_mean + of_grid + Real(0x1p-1074),
                  std::numeric_limits<double>::max());
  }

  // Whether sums of gradients are rounded to the grid.
  [[nodiscard]] bool is_on_grid() const {
    return dtype_fits_float32(test_.x_dtype) && dtype_fits_float32(test_.dy_dtype);
  }
  // What an error in a sum of dy is measured by.
  [[nodiscard]] static Real size_of_sum(const ChannelSumsReference& sums) {
    return sqrt(Real(real(sums.dy_dy) * Real(sums.count)));
  }

  // `is_own`: x is normalized by its own statistics.
  void check_y(const char* name, const std::optional<MomentsReference>& moments, bool is_own, double computed) {
    const double x = test_.x[element_];
    const double gamma = test_.gamma[channel_];
    const double beta = test_.beta[channel_];
    if (!moments) {
      expect_nan(name, computed);
      return;
    }
    if (!std::isfinite(x)) {
      const double right = gamma * x;
      std::isnan(right) ? expect_nan(name, computed) : expect_equal(name, computed, right);
      return;
    }
    const Real right = moments->channel.y(x, gamma, beta);
    const Real scale = scale_of(right, beta);
    const bool single = test_.out_dtype != DType::float64;
    const bool all_single = single && dtype_fits_float32(test_.x_dtype);
    const Real unit(single ? 0x1p-24 : 0x1p-53);
    const bool is_on_grid = is_own && dtype_fits_float32(test_.x_dtype);
    const Real bound = (all_single ? Real(is_on_grid ? 4.01 : 4 + 0x1p-20) : Real(single ? 1.01 : 8)) * unit * scale +
                       (is_on_grid ? Real(0x1p-31 * scale) : Real(0));
    const double of_mean = is_on_grid ? 0x1p-34 : (all_single ? 0x1p-43 : 0);
    // A subnormal mean is held to the smallest subnormal.
    const Real of_subnormal_mean = abs(Real(gamma)) * moments->channel.inverse_deviation * Real(0x1p-1074);
    expect_within(
        name, computed, right,
        with_output_rounding(right, bound + Real(of_mean * std::fabs(gamma)) + of_subnormal_mean + subnormal_step()),
        largest_output());
  }

  void check_dx(const char* name, const GradientsReference& right, const ChannelSumsReference& sums, bool is_frozen,
                double computed) {
    const double dy = test_.dy[element_];
    if (!std::isfinite(dy)) {
      const double product = test_.gamma[channel_] * dy;
      std::isnan(product) ? expect_nan(name, computed) : expect_equal(name, computed, product);
      return;
    }
    const double x = is_frozen ? 0 : test_.x[element_];
    const Real exact = is_frozen ? right.direct(dy) : right.dx(dy, x);
    const Real rest = is_frozen ? Real(0) : right.rest(x);
    const bool single = test_.out_dtype != DType::float64;
    const bool all_single = single && dtype_fits_float32(test_.x_dtype) && dtype_fits_float32(test_.dy_dtype);
    const Real unit(single ? 0x1.0001p-24 : 4 * 0x1p-53);
    Real bound = abs(exact) * unit + subnormal_step();
    // Subnormal means and sums are held to the smallest subnormal.
    if (!is_frozen) bound += Real(0x1p-1073) * (abs(right.by_variance) + abs(right.factor));
    // What float64 arithmetic rounds in the three terms, which may cancel.
    if (!is_frozen) bound += rest * (all_single ? 5 * unit : Real(0)) + (abs(right.direct(dy)) + rest) * 0x1p-49;
    if (!is_frozen && dtype_fits_float32(test_.x_dtype)) {
      bound += abs(exact) * 0x1p-31 + rest * 0x1p-29;
      bound += abs(right.factor) * size_of_sum(sums) / Real(sums.count) * 0x1p-32;
    }
    expect_within(name, computed, exact, with_output_rounding(exact, bound), largest_output());
  }

  [[nodiscard]] bool is_half_output() const { return size_of(test_.out_dtype) == 2; }
  [[nodiscard]] double largest_output() const {
    if (is_half_output()) return largest_of(format_of(test_.out_dtype));
    return test_.out_dtype == DType::float32 ? double{std::numeric_limits<float>::max()}
                                             : std::numeric_limits<double>::max();
  }
  // A subnormal output has fewer digits than any relative bound asks for.
  [[nodiscard]] Real subnormal_step() const {
    if (is_half_output()) return {smallest_of(format_of(test_.out_dtype))};
    return {test_.out_dtype == DType::float32 ? 0x1p-149 : 0x1p-1074};
  }
  // A bound, and what rounding on to an output of 16 bits changes.
  [[nodiscard]] Real with_output_rounding(const Real& right, const Real& bound) const {
    if (!is_half_output()) return bound;
    return bound + (abs(right) + bound) * Real(std::ldexp(1.0, -format_of(test_.out_dtype).significand_bits - 1));
  }

  void fail(const std::string& name, double computed, const std::string& right) {
    if (!problem_.empty()) return;
    std::ostringstream text;
    text.precision(17);
    text << name << " is " << computed << "; right is " << right << " (channel " << channel_ << ", element " << element_
         << ")";
    problem_ = text.str();
  }
  void expect_nan(const std::string& name, double computed) {
    if (!std::isnan(computed)) fail(name, computed, "NaN");
  }
  void expect_equal(const std::string& name, double computed, double right) {
    if (computed != right) fail(name, computed, Real(right).str(17));
  }
  // A result that the bound takes beyond the range may be infinite.
  void expect_within(const std::string& name, double computed, const Real& right, const Real& bound, double largest) {
    if (std::isinf(computed) && Real(computed > 0 ? Real(right + bound) : Real(bound - right)) >= Real(largest)) return;
    if (!std::isfinite(computed)) return fail(name, computed, right.str(17));
    const Real error = abs(Real(Real(computed) - right));
    if (error > bound) return fail(name, computed, right.str(17));
    if (bound > 0) {
      double& largest_error = worst_[name];
      largest_error = std::max(largest_error, Real(error / bound).convert_to<double>());
    }
  }

  const Case& test_;
  const Results& results_;
  WorstErrors& worst_;
  std::size_t channel_ = 0;
  std::size_t element_ = 0;
  std::string problem_;
};

}  // namespace

std::string check(const Case& test, const Results& results, WorstErrors& worst) {
  return Checker(test, results, worst).run();
}

}  // namespace exactnorm::testing
