#include "exactnorm/batch_norm.h"

#include <algorithm>
#include <string>

#include "batch_norm/arguments.h"
#include "batch_norm/passes.h"
#include "sums/exact_finalize.h"
#include "sums/superaccumulator.h"
#include "traverse/floating_point.h"

namespace exactnorm {

Statistics training(const TensorView& x, const MutableTensorView& y, const Affine& affine, const Options& options) {
  const DefaultFloatingPoint default_floating_point;
  const TrainingPass pass(x, y, affine, options);
  const ForwardPointers at = pointers_of(x, y, affine);
  pass.arguments().check(at);
  Statistics statistics = make_statistics(pass.arguments().channels(), pass.arguments().count(), options);
  statistics.count = pass.run(at, mutable_view(statistics));
  return statistics;
}

void inference(const TensorView& x, const Statistics& statistics, const MutableTensorView& y, const Affine& affine,
               const Options& options) {
  const DefaultFloatingPoint default_floating_point;
  const InferencePass pass(x, y, affine, options);
  const ForwardPointers at = pointers_of(x, y, affine);
  pass.arguments().check(at);
  check_statistics(statistics, pass.arguments().channels());
  const CoefficientTable table = pass.coefficients(view(statistics), at);
  pass.run(at, table.view());
}

namespace {

// Epsilon is that of the forward pass, whatever the backward pass is given.
Options with_epsilon_of(const Statistics& statistics, const Options& options) {
  check_epsilon(statistics);
  Options of_forward = options;
  of_forward.epsilon = statistics.epsilon;
  of_forward.epsilon_placement = statistics.epsilon_placement;
  return of_forward;
}

void check_gradient_sums(const PartialSums& sums, Index channels) {
  check_kind(sums, PartialSums::Kind::gradients);
  if (sums.channels() == channels) return;
  throw Error("sums", "have " + std::to_string(sums.channels()) + " channels; expected " + std::to_string(channels));
}

}  // namespace

void backward(const TensorView& dy, const TensorView& x, const Statistics& statistics, const Affine& affine,
              const Gradients& gradients, const Options& options) {
  const DefaultFloatingPoint default_floating_point;
  check_options(options);
  const BackwardPass pass(dy, x, affine, gradients, with_epsilon_of(statistics, options), BackwardKind::training);
  const BackwardPointers at = pointers_of(dy, x, affine, gradients);
  pass.arguments().check(at);
  check_batch_statistics(statistics, pass.arguments());
  const Selection selection = pass.select(at);
  if (pass.arguments().elements() > 0 && statistics.count != selection.count) {
    throw Error("statistics", "are of " + std::to_string(statistics.count) + " elements per channel; expected " +
                                  std::to_string(selection.count) + ", as in x" +
                                  (affine.mask ? " where the mask selects them" : ""));
  }
  pass.run(at, view(statistics), selection);
}

void backward_frozen(const TensorView& dy, const TensorView& x, const Statistics& statistics, const Affine& affine,
                     const Gradients& gradients, const Options& options) {
  const DefaultFloatingPoint default_floating_point;
  check_options(options);
  const BackwardPass pass(dy, x, affine, gradients, with_epsilon_of(statistics, options), BackwardKind::frozen);
  const BackwardPointers at = pointers_of(dy, x, affine, gradients);
  pass.arguments().check(at);
  check_statistics(statistics, pass.arguments().channels());
  pass.run(at, view(statistics), pass.select(at));
}

void backward_from_sums(const TensorView& dy, const TensorView& x, const Statistics& statistics,
                        const PartialSums& sums, const Affine& affine, const Gradients& gradients,
                        const Options& options) {
  const DefaultFloatingPoint default_floating_point;
  check_options(options);
  const BackwardPass pass(dy, x, affine, gradients, with_epsilon_of(statistics, options), BackwardKind::training, true);
  const BackwardPointers at = pointers_of(dy, x, affine, gradients);
  pass.arguments().check(at);
  check_batch_statistics(statistics, pass.arguments());
  check_gradient_sums(sums, pass.arguments().channels());
  Selection selection = pass.select(at);
  selection.count = statistics.count;
  if (!are_of_batch(sums.count(), statistics.count, affine)) {
    throw Error("sums", "are over " + std::to_string(sums.count()) + " elements per channel; expected " +
                            std::to_string(statistics.count) + ", as in statistics");
  }
  pass.run(at, view(statistics), selection, &sums);
}

void accumulate_gradients(PartialSums& sums, const TensorView& dy, const TensorView& x, const Statistics& statistics,
                          const Affine& affine, const Options& options) {
  const DefaultFloatingPoint default_floating_point;
  check_options(options);
  const BackwardPass pass(dy, x, affine, {}, with_epsilon_of(statistics, options), BackwardKind::training);
  const BackwardPointers at = pointers_of(dy, x, affine, {});
  pass.arguments().check(at);
  check_batch_statistics(statistics, pass.arguments());
  if (options.activation == Activation::none && !affine.mask) {
    accumulate(sums, dy, x, options);
    return;
  }
  check_gradient_sums(sums, pass.arguments().channels());
  const PartialSums::Range range = std::max({sums.range(), range_for(dy.dtype), range_for(x.dtype)});
  PartialSums added(sums.channels(), PartialSums::Kind::gradients, range);
  if (pass.arguments().elements() > 0) added.add_count(pass.accumulate(at, view(statistics), added));
  sums.merge(added);
}

}  // namespace exactnorm
