#pragma once

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
};

/// A call with all that it needs, made before it is timed.
class LibraryCall {
 public:
  explicit LibraryCall(const LibraryProblem& problem) : problem_(problem) {
    options_.channel_axes = problem.x.channel_axes;
    options_.epsilon = epsilon;
    options_.threads = problem.threads;
    if (problem.operation == Operation::inference) {
      statistics_ = given_statistics(problem.mean, problem.variance, options_);
    }
    if (problem.operation == Operation::backward) train();
  }

  void run() {
    switch (problem_.operation) {
      case Operation::training:
        train();
        break;
      case Operation::inference:
        inference(problem_.x.view, statistics_, problem_.output, problem_.affine, options_);
        break;
      case Operation::backward:
        backward(problem_.dy, problem_.x.view, statistics_, problem_.affine.gamma,
                 {problem_.output, problem_.dgamma, problem_.dbeta}, options_);
        break;
    }
  }

  [[nodiscard]] const Statistics& statistics() const noexcept { return statistics_; }

 private:
  void train() { statistics_ = training(problem_.x.view, problem_.output, problem_.affine, options_); }

  LibraryProblem problem_;
  Options options_;
  Statistics statistics_;
};

}  // namespace exactnorm::bench
