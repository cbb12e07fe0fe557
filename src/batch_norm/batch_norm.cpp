#include "exactnorm/batch_norm.h"

#include <array>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "batch_norm/arguments.h"
#include "batch_norm/finalizers.h"
#include "batch_norm/operation.h"
#include "sums/exact_finalize.h"
#include "sums/exact_sums.h"
#include "sums/superaccumulator.h"
#include "tensor/checks.h"
#include "traverse/floating_point.h"

namespace exactnorm {

Statistics training(const TensorView& x, const MutableTensorView& y, const Affine& affine, const Options& options) {
  const DefaultFloatingPoint default_floating_point;
  const IndexList axes = check_forward(x, y, affine, options);
  const Parameters parameters = read_affine(affine, axes, x);
  const Index channels = channel_count(axes, x);
  const Index elements = element_count(x.shape);
  if (elements == 0) return make_statistics(channels, 0, options);
  const Index count = elements / channels;

  Statistics statistics = make_statistics(channels, count, options);
  const std::array operands = {x};
  const ApplyOperands apply = apply_operands(x, std::nullopt, y);
  CoefficientTable table(channels);
  StatisticsFinalizer finalizer(statistics, parameters, options, table);
  accumulate_finalize_apply(operands, &apply, axes, PartialSums::Kind::moments, options.threads, finalizer,
                            table.view());
  return statistics;
}

void inference(const TensorView& x, const Statistics& statistics, const MutableTensorView& y, const Affine& affine,
               const Options& options) {
  const DefaultFloatingPoint default_floating_point;
  const IndexList axes = check_forward(x, y, affine, options);
  const Parameters parameters = read_affine(affine, axes, x);
  check_statistics(statistics, channel_count(axes, x));
  if (element_count(x.shape) == 0) return;
  const Index channels = channel_count(axes, x);
  CoefficientTable table(channels);
  set_forward(table, all_channels(channels), statistics, parameters.gamma, parameters.beta);
  apply_all(apply_operands(x, std::nullopt, y), axes, number_channels(axes, x.shape), options.threads, table.view());
}

namespace {

// The epsilon of the forward pass, whatever the backward pass is given: all that its solution reads of options.
Options forward_options(const Statistics& statistics) {
  Options options;
  options.epsilon = statistics.epsilon;
  options.epsilon_placement = statistics.epsilon_placement;
  return options;
}

std::optional<ApplyOperands> apply_operands_of(const BackwardArguments& arguments, bool frozen) {
  if (!arguments.gradients.dx) return std::nullopt;
  if (frozen) return apply_operands(arguments.dy, std::nullopt, *arguments.gradients.dx);
  return apply_operands(arguments.x, arguments.dy, *arguments.gradients.dx);
}

// Gradients of all channels, and the coefficients of dx.
class Backward {
 public:
  Backward(const BackwardArguments& arguments, const IndexList& axes, Index count, bool frozen)
      : arguments_(arguments),
        axes_(axes),
        options_(forward_options(arguments.statistics)),
        gamma_(parameter_or("gamma", arguments.gamma, 1.0, axes, arguments.x)),
        dgamma_(gamma_.size()),
        dbeta_(gamma_.size()),
        table_(static_cast<Index>(gamma_.size())),
        finalizer_(arguments.statistics, count, gamma_, {dgamma_, dbeta_}, frozen, options_, table_) {}

  [[nodiscard]] GradientsFinalizer& finalizer() noexcept { return finalizer_; }
  [[nodiscard]] Coefficients coefficients() const { return table_.view(); }

  void write_parameters() const {
    const Gradients& gradients = arguments_.gradients;
    if (gradients.dgamma) write_parameter("dgamma", *gradients.dgamma, axes_, arguments_.x, dgamma_);
    if (gradients.dbeta) write_parameter("dbeta", *gradients.dbeta, axes_, arguments_.x, dbeta_);
  }

 private:
  const BackwardArguments& arguments_;
  IndexList axes_;
  Options options_;
  std::vector<double> gamma_;
  std::vector<double> dgamma_;
  std::vector<double> dbeta_;
  CoefficientTable table_;
  GradientsFinalizer finalizer_;
};

void run_backward(const BackwardArguments& arguments, bool frozen) {
  const DefaultFloatingPoint default_floating_point;
  const IndexList axes = check_backward(arguments, frozen);
  const Index channels = channel_count(axes, arguments.x);
  const Index count = channels == 0 ? 0 : element_count(arguments.x.shape) / channels;
  if (!frozen && count > 0 && arguments.statistics.count != count) {
    throw Error("statistics", "are of " + std::to_string(arguments.statistics.count) +
                                  " elements per channel; expected " + std::to_string(count) + ", as in x");
  }
  const std::array operands = {arguments.dy, arguments.x};
  Backward backward(arguments, axes, count, frozen);
  const std::optional<ApplyOperands> apply = apply_operands_of(arguments, frozen);
  if (count > 0 && frozen && !arguments.gradients.dgamma && !arguments.gradients.dbeta) {
    // dx = gamma * inverse_deviation * dy needs no sums.
    if (apply) {
      backward.finalizer().set_coefficients(all_channels(channels));
      apply_all(*apply, axes, number_channels(axes, arguments.x.shape), arguments.options.threads,
                backward.coefficients());
    }
  } else if (count > 0) {
    accumulate_finalize_apply(operands, apply ? &*apply : nullptr, axes, PartialSums::Kind::gradients,
                              arguments.options.threads, backward.finalizer(), backward.coefficients());
  }
  backward.write_parameters();
}

}  // namespace

void backward(const TensorView& dy, const TensorView& x, const Statistics& statistics,
              const std::optional<TensorView>& gamma, const Gradients& gradients, const Options& options) {
  run_backward({dy, x, statistics, gamma, gradients, options}, false);
}

void backward_frozen(const TensorView& dy, const TensorView& x, const Statistics& statistics,
                     const std::optional<TensorView>& gamma, const Gradients& gradients, const Options& options) {
  run_backward({dy, x, statistics, gamma, gradients, options}, true);
}

void backward_from_sums(const TensorView& dy, const TensorView& x, const Statistics& statistics,
                        const PartialSums& sums, const std::optional<TensorView>& gamma, const Gradients& gradients,
                        const Options& options) {
  const DefaultFloatingPoint default_floating_point;
  const BackwardArguments arguments = {dy, x, statistics, gamma, gradients, options};
  const IndexList axes = check_backward(arguments, false);
  const Index channels = channel_count(axes, x);
  check_kind(sums, PartialSums::Kind::gradients);
  if (sums.channels() != channels) {
    throw Error("sums", "have " + std::to_string(sums.channels()) + " channels; expected " + std::to_string(channels));
  }
  if (sums.count() != statistics.count) {
    throw Error("sums", "are over " + std::to_string(sums.count()) + " elements per channel; expected " +
                            std::to_string(statistics.count) + ", as in statistics");
  }
  Backward backward(arguments, axes, sums.count(), false);
  // Over an empty batch there is nothing to finalize, and gradients are 0.
  if (sums.count() > 0) backward.finalizer().finalize(sums, all_channels(channels));
  if (gradients.dx && element_count(x.shape) > 0) {
    apply_all(*apply_operands_of(arguments, false), axes, number_channels(axes, x.shape), options.threads,
              backward.coefficients());
  }
  backward.write_parameters();
}

}  // namespace exactnorm
