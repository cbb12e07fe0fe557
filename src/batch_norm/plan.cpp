#include "exactnorm/plan.h"

#include <array>
#include <cstddef>

#include "batch_norm/arguments.h"
#include "batch_norm/passes.h"
#include "tensor/argument.h"
#include "traverse/floating_point.h"

namespace exactnorm {

namespace {

constexpr const char* statistics_name = "statistics";

Argument statistics_column(Index channels) {
  return Argument::input(statistics_name, {nullptr, DType::float64, {channels}, {1}});
}

std::array<const double*, 4> columns_of(const StatisticsView& statistics) {
  return {statistics.mean, statistics.mean_residual, statistics.variance, statistics.inverse_deviation};
}

// Statistics that overlap neither each other nor `others`.
template <std::size_t kOthers>
void check_statistics_columns(const Argument& column, const StatisticsView& statistics,
                              const std::array<std::pair<const Argument*, const void*>, kOthers>& others) {
  const std::array<const double*, 4> columns = columns_of(statistics);
  for (std::size_t i = 0; i < columns.size(); ++i) {
    column.check_address(columns[i]);
    for (std::size_t j = 0; j < i; ++j) check_separate(column, columns[i], column, columns[j], false);
    for (const auto& [argument, address] : others) {
      if (argument != nullptr) check_separate(column, columns[i], *argument, address, false);
    }
  }
}

const Argument* address_of(const OptionalArgument& argument) { return argument ? &*argument : nullptr; }
const Argument* address_of(const std::optional<MaskArgument>& mask) { return mask ? &mask->argument() : nullptr; }

}  // namespace

struct TrainingPlan::Parts {
  TrainingPass pass;
  Argument column;
};

TrainingPlan::TrainingPlan(const TensorView& x, const MutableTensorView& y, const Affine& affine,
                           const Options& options) {
  const TrainingPass pass(x, y, affine, options);
  parts_ = std::make_shared<const Parts>(Parts{pass, statistics_column(pass.arguments().channels())});
}

Index TrainingPlan::run(const ForwardPointers& at, const MutableStatisticsView& statistics) const {
  const DefaultFloatingPoint default_floating_point;
  const ForwardArguments& arguments = parts_->pass.arguments();
  arguments.check(at);
  check_statistics_columns<6>(parts_->column, statistics,
                              {{{&arguments.x(), at.x},
                                {&arguments.y(), at.y},
                                {address_of(arguments.gamma()), at.gamma},
                                {address_of(arguments.beta()), at.beta},
                                {address_of(arguments.residual()), at.residual},
                                {address_of(arguments.mask()), at.mask}}});
  return parts_->pass.run(at, statistics);
}

Index TrainingPlan::channels() const noexcept { return parts_->pass.arguments().channels(); }
Index TrainingPlan::count() const noexcept { return parts_->pass.arguments().count(); }

struct InferencePlan::Parts {
  InferencePass pass;
  CoefficientTable table;
};

InferencePlan::InferencePlan(const TensorView& x, const MutableTensorView& y, const Statistics& statistics,
                             const Affine& affine, const Options& options) {
  const DefaultFloatingPoint default_floating_point;
  const InferencePass pass(x, y, affine, options);
  check_statistics(statistics, pass.arguments().channels());
  const ForwardPointers at = pointers_of(x, y, affine);
  if (affine.gamma) pass.arguments().gamma()->check_address(at.gamma);
  if (affine.beta) pass.arguments().beta()->check_address(at.beta);
  parts_ = std::make_shared<const Parts>(Parts{pass, pass.coefficients(view(statistics), at)});
}

void InferencePlan::run(const void* x, void* y, const void* residual, const void* mask) const {
  const DefaultFloatingPoint default_floating_point;
  const ForwardArguments& arguments = parts_->pass.arguments();
  const ForwardPointers at = {.x = x, .y = y, .residual = residual, .mask = mask};
  arguments.check_tensors(at);
  parts_->pass.run(at, parts_->table.view());
}

struct BackwardPlan::Parts {
  BackwardPass pass;
  Argument column;
};

BackwardPlan::BackwardPlan(const TensorView& dy, const TensorView& x, const Affine& affine, const Gradients& gradients,
                           const Options& options, BackwardKind kind) {
  const BackwardPass pass(dy, x, affine, gradients, options, kind);
  parts_ = std::make_shared<const Parts>(Parts{pass, statistics_column(pass.arguments().channels())});
}

void BackwardPlan::run(const BackwardPointers& at, const StatisticsView& statistics) const {
  const DefaultFloatingPoint default_floating_point;
  const BackwardArguments& arguments = parts_->pass.arguments();
  arguments.check(at);
  for (const double* column : columns_of(statistics)) parts_->column.check_address(column);
  const std::array<std::pair<const Argument*, const void*>, 4> outputs = {
      {{address_of(arguments.dx()), at.dx},
       {address_of(arguments.dgamma()), at.dgamma},
       {address_of(arguments.dbeta()), at.dbeta},
       {address_of(arguments.d_residual()), at.d_residual}}};
  for (const auto& [output, address] : outputs) {
    if (output == nullptr) continue;
    for (const double* column : columns_of(statistics)) {
      check_separate(*output, address, parts_->column, column, false);
    }
  }
  parts_->pass.run(at, statistics, parts_->pass.select(at));
}

Index BackwardPlan::channels() const noexcept { return parts_->pass.arguments().channels(); }

}  // namespace exactnorm
