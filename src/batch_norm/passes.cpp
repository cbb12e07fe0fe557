#include "batch_norm/passes.h"

#include <algorithm>
#include <array>
#include <limits>
#include <span>
#include <vector>

#include "batch_norm/finalizers.h"
#include "tensor/elements.h"
#include "tensor/scratch.h"

namespace exactnorm {

namespace {

// gamma and beta as float64, one value per channel, for the time of a call.
class AffineValues {
 public:
  AffineValues(const ForwardArguments& arguments, const ForwardPointers& at)
      : gamma_(arguments.channels()), beta_(arguments.channels()) {
    read_parameter(arguments.gamma(), at.gamma, 1, arguments.channels(), gamma_.data());
    read_parameter(arguments.beta(), at.beta, 0, arguments.channels(), beta_.data());
  }
  [[nodiscard]] ParameterValues view() noexcept { return {gamma_.data(), beta_.data()}; }

 private:
  ScratchArray<double> gamma_;
  ScratchArray<double> beta_;
};

// What sums of a backward pass go through: dy and x.
std::array<Operand, 2> gradient_operands(const BackwardArguments& arguments, const BackwardPointers& at) {
  return {{{at.dy, arguments.dy().layout().dtype}, {at.x, arguments.x().layout().dtype}}};
}

}  // namespace

TrainingPass::TrainingPass(const TensorView& x, const MutableTensorView& y, const Affine& affine,
                           const Options& options)
    : arguments_(x, y, affine, options), options_(options) {
  if (arguments_.elements() == 0) return;
  const std::array<TensorView, 2> apply = {arguments_.x().layout(), arguments_.y().layout()};
  schedule_.emplace(std::span(apply).first(1), apply, arguments_.channel_axes(), options.threads);
}

void TrainingPass::run(const ForwardPointers& at, const MutableStatisticsView& statistics) const {
  const Index channels = arguments_.channels();
  if (!schedule_) {  // an empty batch
    for (double* column :
         {statistics.mean, statistics.mean_residual, statistics.variance, statistics.inverse_deviation}) {
      std::fill_n(column, channels, std::numeric_limits<double>::quiet_NaN());
    }
    return;
  }
  AffineValues parameters(arguments_, at);
  CoefficientTable table(channels);
  StatisticsFinalizer finalizer(statistics, arguments_.count(), parameters.view(), options_, table);
  const Operand x(at.x, arguments_.x().layout().dtype);
  const OutputOperand y = {at.y, arguments_.y().layout().dtype};
  const ApplyOperands apply(x, y, store_of({&x, 1}, y, arguments_.elements()));
  accumulate_finalize_apply(*schedule_, {&x, 1}, &apply, PartialSums::Kind::moments, finalizer, table.view());
}

InferencePass::InferencePass(const TensorView& x, const MutableTensorView& y, const Affine& affine,
                             const Options& options)
    : arguments_(x, y, affine, options) {
  if (arguments_.elements() == 0) return;
  const IndexList& axes = arguments_.channel_axes();
  schedule_ = apply_schedule(std::array<TensorView, 2>{arguments_.x().layout(), arguments_.y().layout()}, axes,
                             number_channels(axes, x.shape), options.threads);
}

CoefficientTable InferencePass::coefficients(const StatisticsView& statistics, const ForwardPointers& at) const {
  const Index channels = arguments_.channels();
  AffineValues parameters(arguments_, at);
  CoefficientTable table(channels);
  set_forward(table, 0, channels, statistics, parameters.view());
  return table;
}

void InferencePass::run(const void* x, void* y, const Coefficients& coefficients) const {
  if (!schedule_) return;
  const Operand input(x, arguments_.x().layout().dtype);
  const OutputOperand output = {y, arguments_.y().layout().dtype};
  apply_all(*schedule_, {input, output, store_of({&input, 1}, output, arguments_.elements())}, coefficients);
}

BackwardPass::BackwardPass(const TensorView& dy, const TensorView& x, const std::optional<TensorView>& gamma,
                           const Gradients& gradients, const Options& options, BackwardKind kind, bool sums_are_given)
    : arguments_(dy, x, gamma, gradients, options), options_(options), is_frozen_(kind == BackwardKind::frozen) {
  if (arguments_.elements() == 0) return;
  const IndexList& axes = arguments_.channel_axes();
  std::array<TensorView, 4> views = {arguments_.dy().layout(), arguments_.x().layout(), arguments_.dy().layout(), {}};
  const auto operands = std::span<const TensorView>(views).first(2);
  std::span<const TensorView> apply;  // dy and dx, or x, dy and dx
  if (arguments_.dx()) {
    views[3] = arguments_.dx()->layout();
    apply = std::span<const TensorView>(views).last(is_frozen_ ? 2 : 3);
  }
  // Without gradients of parameters, dx of frozen statistics is gamma * inverse_deviation * dy.
  const bool needs_sums = !is_frozen_ || arguments_.dgamma() || arguments_.dbeta();
  if (needs_sums && !sums_are_given) {
    schedule_.emplace(operands, apply, axes, options.threads);
  } else if (arguments_.dx()) {
    apply_alone_ = apply_schedule(apply, axes, number_channels(axes, x.shape), options.threads);
  }
}

ApplyOperands BackwardPass::apply_operands(const BackwardPointers& at) const {
  const std::array<Operand, 2> inputs = gradient_operands(arguments_, at);
  const OutputOperand dx = {at.dx, arguments_.dx()->layout().dtype};
  if (is_frozen_) return {inputs[0], dx, store_of(std::span(inputs).first(1), dx, arguments_.elements())};
  return {inputs[1], inputs[0], dx, store_of(inputs, dx, arguments_.elements())};
}

void BackwardPass::run(const BackwardPointers& at, const StatisticsView& statistics, const PartialSums* sums) const {
  const Index channels = arguments_.channels();
  const Index count = sums != nullptr ? sums->count() : arguments_.count();
  ScratchArray<double> gamma(channels);
  ScratchArray<double> dgamma(channels);
  ScratchArray<double> dbeta(channels);
  read_parameter(arguments_.gamma(), at.gamma, 1, channels, gamma.data());
  CoefficientTable table(channels);
  GradientsFinalizer finalizer(statistics, count, gamma.data(), {dgamma.data(), dbeta.data()}, is_frozen_, options_,
                               table);
  std::optional<ApplyOperands> apply;
  if (arguments_.dx() && arguments_.elements() > 0) apply = apply_operands(at);
  if (count == 0) {  // over an empty batch gradients are 0
    std::fill_n(dgamma.data(), channels, 0.0);
    std::fill_n(dbeta.data(), channels, 0.0);
  } else if (!schedule_) {
    const std::vector<Index> all = all_channels(channels);
    sums != nullptr ? finalizer.finalize(*sums, all) : finalizer.set_coefficients(all);
    if (apply) apply_all(*apply_alone_, *apply, table.view());
  } else {
    accumulate_finalize_apply(*schedule_, gradient_operands(arguments_, at), apply ? &*apply : nullptr,
                              PartialSums::Kind::gradients, finalizer, table.view());
  }
  if (arguments_.dgamma()) write_values(arguments_.dgamma()->at(at.dgamma), dgamma.data());
  if (arguments_.dbeta()) write_values(arguments_.dbeta()->at(at.dbeta), dbeta.data());
}

}  // namespace exactnorm
