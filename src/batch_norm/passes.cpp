#include "batch_norm/passes.h"

#include <algorithm>
#include <array>
#include <limits>
#include <span>
#include <vector>

#include "affine/activation_window.h"
#include "batch_norm/finalizers.h"
#include "tensor/element_type.h"
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

// An operand of no address where the argument is absent.
Operand operand_of(const OptionalArgument& argument, const void* address) {
  return argument ? Operand(address, argument->layout().dtype) : Operand();
}

ActivationFunction function_of(const Options& options) { return {options.activation, options.slope}; }

// x, the residual where there is one, and y.
std::vector<TensorView> forward_views(const ForwardArguments& arguments) {
  std::vector<TensorView> views = {arguments.x().layout()};
  if (arguments.residual()) views.push_back(arguments.residual()->layout());
  views.push_back(arguments.y().layout());
  return views;
}
ApplyOperands forward_operands(const ForwardArguments& arguments, const ForwardPointers& at,
                               ActivationFunction function) {
  const std::array<Operand, 2> inputs = {Operand(at.x, arguments.x().layout().dtype),
                                         operand_of(arguments.residual(), at.residual)};
  const OutputOperand y = {at.y, arguments.y().layout().dtype};
  const Store store = store_of(std::span(inputs).first(arguments.residual() ? 2 : 1), y, arguments.elements());
  return {inputs[0], function, inputs[1], y, store};
}

}  // namespace

TrainingPass::TrainingPass(const TensorView& x, const MutableTensorView& y, const Affine& affine,
                           const Options& options)
    : arguments_(x, y, affine, options), options_(options) {
  if (arguments_.elements() == 0) return;
  const std::vector<TensorView> apply = forward_views(arguments_);
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
  const ApplyOperands apply = forward_operands(arguments_, at, function_of(options_));
  accumulate_finalize_apply(*schedule_, {{&x, 1}}, &apply, finalizer, table.view());
}

InferencePass::InferencePass(const TensorView& x, const MutableTensorView& y, const Affine& affine,
                             const Options& options)
    : arguments_(x, y, affine, options), function_(function_of(options)) {
  if (arguments_.elements() == 0) return;
  const IndexList& axes = arguments_.channel_axes();
  schedule_ = apply_schedule(forward_views(arguments_), axes, number_channels(axes, x.shape), options.threads);
}

CoefficientTable InferencePass::coefficients(const StatisticsView& statistics, const ForwardPointers& at) const {
  const Index channels = arguments_.channels();
  AffineValues parameters(arguments_, at);
  CoefficientTable table(channels);
  set_forward(table, 0, channels, statistics, parameters.view());
  return table;
}

void InferencePass::run(const ForwardPointers& at, const Coefficients& coefficients) const {
  if (schedule_) apply_all(*schedule_, forward_operands(arguments_, at, function_), coefficients);
}

BackwardPass::BackwardPass(const TensorView& dy, const TensorView& x, const Affine& affine, const Gradients& gradients,
                           const Options& options, BackwardKind kind, bool sums_are_given)
    : arguments_(dy, x, affine, gradients, options), options_(options), is_frozen_(kind == BackwardKind::frozen) {
  if (arguments_.elements() == 0) return;
  const IndexList& axes = arguments_.channel_axes();
  const ChannelMap channels = number_channels(axes, x.shape);
  const bool writes_gradient = arguments_.d_residual().has_value();
  std::vector<TensorView> operands = inputs();
  std::vector<TensorView> apply;  // in the order of apply_operands
  if (arguments_.dx()) {
    const TensorView& gradient = writes_gradient ? arguments_.d_residual()->layout() : arguments_.dy().layout();
    if (has_step() && !writes_gradient) {
      apply = operands;
    } else if (is_frozen_) {
      apply = {gradient};
    } else {
      apply = {gradient, arguments_.x().layout()};
    }
    apply.push_back(arguments_.dx()->layout());
  }
  if (writes_gradient) operands.push_back(arguments_.d_residual()->layout());
  // Without gradients of parameters, dx of frozen statistics is gamma * inverse_deviation * dy.
  const bool needs_sums = !is_frozen_ || arguments_.dgamma() || arguments_.dbeta();
  if (needs_sums && !sums_are_given) {
    schedule_.emplace(operands, apply, axes, options.threads);
    return;
  }
  if (writes_gradient) gradient_alone_ = apply_schedule(operands, axes, channels, options.threads);
  if (arguments_.dx()) apply_alone_ = apply_schedule(apply, axes, channels, options.threads);
}

const OptionalArgument& BackwardPass::residual() const noexcept {
  static const OptionalArgument none;
  return options_.activation == Activation::none ? none : arguments_.residual();
}

std::vector<TensorView> BackwardPass::inputs() const {
  std::vector<TensorView> views = {arguments_.dy().layout(), arguments_.x().layout()};
  if (residual()) views.push_back(residual()->layout());
  return views;
}

// What a backward pass reads, and the coefficients of its activation.
class BackwardPass::Inputs {
 public:
  Inputs(const BackwardPass& pass, const BackwardPointers& at, const StatisticsView& statistics, const double* gamma)
      : list_{Operand(at.dy, pass.arguments_.dy().layout().dtype), Operand(at.x, pass.arguments_.x().layout().dtype),
              operand_of(pass.residual(), at.residual)},
        size_(pass.residual() ? 3 : 2) {
    if (!pass.has_step()) return;
    const Index channels = pass.arguments_.channels();
    ScratchArray<double> beta(channels);
    read_parameter(pass.arguments_.beta(), at.beta, 0, channels, beta.data());
    forward_.emplace(channels);
    set_forward(*forward_, 0, channels, statistics, {gamma, beta.data()});
    step_ = ActivationStep{function_of(pass.options_), list_[0].dtype, size_ == 3, forward_->view()};
  }

  [[nodiscard]] std::span<const Operand> all() const noexcept { return {list_.data(), size_}; }
  [[nodiscard]] const Operand& dy() const noexcept { return list_[0]; }
  [[nodiscard]] const Operand& x() const noexcept { return list_[1]; }
  [[nodiscard]] const Operand& residual() const noexcept { return list_[2]; }
  [[nodiscard]] const ActivationStep* step() const noexcept { return step_ ? &*step_ : nullptr; }

  void set_windows(Activation activation, Index channels, const WindowTargets& to) {
    has_windows_ = exactnorm::set_windows(activation, forward_->view(), channels, to);
  }
  [[nodiscard]] bool has_windows() const noexcept { return has_windows_; }

 private:
  std::array<Operand, 3> list_;
  std::size_t size_;
  std::optional<CoefficientTable> forward_;
  std::optional<ActivationStep> step_;
  bool has_windows_ = false;
};

// Windows serve float32 arithmetic, and where the activation's gradient is written nowhere.
bool BackwardPass::may_have_windows() const noexcept {
  const auto fits = [](const OptionalArgument& argument) {
    return !argument || dtype_fits_float32(argument->layout().dtype);
  };
  return has_window(options_.activation) && !is_frozen_ && !arguments_.residual() && arguments_.count() > 0 &&
         dtype_fits_float32(arguments_.x().layout().dtype) && dtype_fits_float32(arguments_.dy().layout().dtype) &&
         fits(arguments_.dx());
}

ApplyOperands BackwardPass::apply_operands(const BackwardPointers& at, const Inputs& inputs) const {
  const Index elements = arguments_.elements();
  const OutputOperand dx = {at.dx, arguments_.dx()->layout().dtype};
  if (inputs.step() != nullptr && !inputs.has_windows() && !arguments_.d_residual()) {
    return {inputs.dy(),
            inputs.x(),
            inputs.residual(),
            *inputs.step(),
            is_frozen_ ? Formula::forward : Formula::gradient,
            dx,
            store_of(inputs.all(), dx, elements)};
  }
  const Operand gradient = arguments_.d_residual() ? operand_of(arguments_.d_residual(), at.d_residual) : inputs.dy();
  if (is_frozen_) return {gradient, inputs.x().dtype, dx, store_of({&gradient, 1}, dx, elements)};
  const Store store = store_of(std::array<Operand, 2>{gradient, inputs.x()}, dx, elements);
  return {gradient, inputs.x(), inputs.has_windows() ? Formula::windowed_gradient : Formula::gradient, dx, store};
}

void BackwardPass::run(const BackwardPointers& at, const StatisticsView& statistics, const PartialSums* sums) const {
  const Index channels = arguments_.channels();
  const Index count = sums != nullptr ? sums->count() : arguments_.count();
  ScratchArray<double> gamma(channels);
  ScratchArray<double> dgamma(channels);
  ScratchArray<double> dbeta(channels);
  read_parameter(arguments_.gamma(), at.gamma, 1, channels, gamma.data());
  CoefficientTable table(channels);
  Inputs inputs(*this, at, statistics, gamma.data());
  if (may_have_windows()) inputs.set_windows(options_.activation, channels, table.windows());
  GradientsFinalizer finalizer(statistics, count, gamma.data(), {dgamma.data(), dbeta.data()}, is_frozen_, options_,
                               table);
  std::optional<ApplyOperands> apply;
  if (arguments_.dx() && arguments_.elements() > 0) apply = apply_operands(at, inputs);
  OutputOperand gradient;
  if (arguments_.d_residual()) gradient = {at.d_residual, arguments_.d_residual()->layout().dtype};
  if (count == 0) {  // over an empty batch gradients are 0
    std::fill_n(dgamma.data(), channels, 0.0);
    std::fill_n(dbeta.data(), channels, 0.0);
  } else if (!schedule_) {
    const std::vector<Index> all = all_channels(channels);
    sums != nullptr ? finalizer.finalize(*sums, all) : finalizer.set_coefficients(all);
    if (gradient_alone_) {
      const ApplyOperands to_gradient(inputs.dy(), inputs.x(), inputs.residual(), *inputs.step(), std::nullopt,
                                      gradient, Store::cached);
      apply_all(*gradient_alone_, to_gradient, table.view());
    }
    if (apply) apply_all(*apply_alone_, *apply, table.view());
  } else {
    accumulate_finalize_apply(*schedule_, {inputs.all(), inputs.step(), gradient}, apply ? &*apply : nullptr, finalizer,
                              table.view());
  }
  if (arguments_.dgamma()) write_values(arguments_.dgamma()->at(at.dgamma), dgamma.data());
  if (arguments_.dbeta()) write_values(arguments_.dbeta()->at(at.dbeta), dbeta.data());
}

void BackwardPass::accumulate(const BackwardPointers& at, const StatisticsView& statistics, PartialSums& sums) const {
  const Index channels = arguments_.channels();
  ScratchArray<double> gamma(channels);
  read_parameter(arguments_.gamma(), at.gamma, 1, channels, gamma.data());
  const Inputs inputs(*this, at, statistics, gamma.data());
  reduce_all(schedule_->accumulate, {inputs.all(), inputs.step()}, sums);
}

}  // namespace exactnorm
