#pragma once

#include <optional>

#include "exactnorm/exactnorm.h"
#include "problem.h"

namespace exactnorm::bench {

/// What a call of the library is given: this build's, or that of an older one (baseline_peer.cpp).
struct LibraryProblem {
  Operation operation = Operation::training;
  MutableLayoutView x;
  MutableTensorView output;
  Affine affine;
  TensorView mean;      ///< inference only
  TensorView variance;  ///< the same
  TensorView dy;        ///< backward only
  MutableTensorView dgamma;
  MutableTensorView dbeta;
  int threads = 0;
  bool has_relu = false;
};

/// gamma, and beta where there is a relu, as a backward pass takes them: in an Affine, or, in older builds, gamma by
/// itself.
class Gamma {
 public:
  Gamma(const Affine& affine, bool has_relu) {
    gamma_.gamma = affine.gamma;
    if (has_relu) gamma_.beta = affine.beta;
  }

  // NOLINTBEGIN(google-explicit-constructor)
  operator const Affine&() const noexcept { return gamma_; }
  operator const std::optional<TensorView>&() const noexcept { return gamma_.gamma; }
  // NOLINTEND(google-explicit-constructor)

 private:
  Affine gamma_;
};

/// A call with all that it needs, made before it is timed: a plan, where the build has plans.
class LibraryCall {
 public:
  explicit LibraryCall(const LibraryProblem& problem) : problem_(problem) {
    options_.channel_axes = problem.x.channel_axes;
    options_.epsilon = epsilon;
    options_.threads = problem.threads;
    if (problem.has_relu) options_.activation = Activation::relu;
    if (problem.operation == Operation::inference) {
      statistics_ = given_statistics(problem.mean, problem.variance, options_);
    } else {
      statistics_ = training(problem_.x.view, problem_.output, problem_.affine, options_);
    }
    prepare();
  }

  void run() {
    switch (problem_.operation) {
      case Operation::training:
        train();
        break;
      case Operation::inference:
        infer();
        break;
      case Operation::backward:
        go_back();
        break;
    }
  }

  [[nodiscard]] const Statistics& statistics() const noexcept { return statistics_; }

 private:
  [[nodiscard]] Gradients gradients() const { return {problem_.output, problem_.dgamma, problem_.dbeta}; }

#if __has_include("exactnorm/plan.h")
  void prepare() {
    const TensorView& x = problem_.x.view;
    const Affine& affine = problem_.affine;
    switch (problem_.operation) {
      case Operation::training:
        training_.emplace(x, problem_.output, affine, options_);
        break;
      case Operation::inference:
        inference_.emplace(x, problem_.output, statistics_, affine, options_);
        break;
      case Operation::backward:
        backward_.emplace(problem_.dy, x, Gamma(affine, problem_.has_relu), gradients(), options_);
        break;
    }
  }
  void train() {
    const Affine& affine = problem_.affine;
    training_->run({problem_.x.view.data, problem_.output.data, affine.gamma->data, affine.beta->data},
                   mutable_view(statistics_));
  }
  void infer() { inference_->run(problem_.x.view.data, problem_.output.data); }
  void go_back() {
    BackwardPointers at = {problem_.dy.data,     problem_.x.view.data, problem_.affine.gamma->data,
                           problem_.output.data, problem_.dgamma.data, problem_.dbeta.data};
    if (problem_.has_relu) set_beta(at);
    backward_->run(at, view(statistics_));
  }

  // Older builds have no relu, and no beta there.
  template <typename Pointers>
  void set_beta(Pointers& at) {
    if constexpr (requires { at.beta; }) at.beta = problem_.affine.beta->data;
  }

  std::optional<TrainingPlan> training_;
  std::optional<InferencePlan> inference_;
  std::optional<BackwardPlan> backward_;
#else
  void prepare() {}
  void train() { statistics_ = training(problem_.x.view, problem_.output, problem_.affine, options_); }
  void infer() { inference(problem_.x.view, statistics_, problem_.output, problem_.affine, options_); }
  void go_back() {
    backward(problem_.dy, problem_.x.view, statistics_, Gamma(problem_.affine, problem_.has_relu), gradients(),
             options_);
  }
#endif

  LibraryProblem problem_;
  Options options_;
  Statistics statistics_;
};

}  // namespace exactnorm::bench
