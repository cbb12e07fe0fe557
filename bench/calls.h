#pragma once

#include <memory>
#include <string>

#include "exactnorm/exactnorm.h"
#include "peer.h"
#include "problem.h"

namespace exactnorm::bench {

/// The library's call on the tensors of a case, with all that it needs.
template <typename T>
class OurCall {
 public:
  OurCall(const Case& measured, Tensors<T>& tensors, const Parameters<T>& parameters, int threads)
      : operation_(measured.operation) {
    const MutableLayoutView x = library_view(tensors.placement, tensors.x.template as<T>(), dtype_of<T>());
    options_.channel_axes = x.channel_axes;
    options_.epsilon = epsilon;
    options_.threads = threads;
    x_ = x.view;
    output_ = library_view(tensors.placement, tensors.output.template as<T>(), dtype_of<T>()).view;
    const IndexList channels = {tensors.placement.channels};
    affine_ = {view(parameters.gamma, channels), view(parameters.beta, channels)};
    if (operation_ == Operation::inference) {
      statistics_ = given_statistics(view(parameters.mean, channels), view(parameters.variance, channels), options_);
    }
    if (operation_ == Operation::backward) {
      dy_ = library_view(tensors.placement, tensors.dy.template as<T>(), dtype_of<T>()).view;
      gradients_ = {output_, mutable_view(tensors.dgamma, channels), mutable_view(tensors.dbeta, channels)};
      statistics_ = training(x_, output_, affine_, options_);
    }
  }

  void run() {
    switch (operation_) {
      case Operation::training:
        statistics_ = training(x_, output_, affine_, options_);
        break;
      case Operation::inference:
        inference(x_, statistics_, output_, affine_, options_);
        break;
      case Operation::backward:
        backward(dy_, x_, statistics_, affine_.gamma, gradients_, options_);
        break;
    }
  }

  [[nodiscard]] const Statistics& statistics() const noexcept { return statistics_; }

 private:
  Operation operation_;
  Options options_;
  TensorView x_;
  TensorView dy_;
  MutableTensorView output_;
  Affine affine_;
  Gradients gradients_;
  Statistics statistics_;
};

/// The peer's call, likewise.
class TheirCall {
 public:
  TheirCall(const Case& measured, Tensors<float>& tensors, const Parameters<float>& parameters,
            const Statistics& statistics, Peer& peer)
      : parameters_(parameters) {
    if (measured.operation == Operation::backward) {
      parameters_.mean.assign(statistics.mean.begin(), statistics.mean.end());
      parameters_.variance.assign(statistics.variance.begin(), statistics.variance.end());
    }
    call_ = peer.prepare({measured.operation, tensors.placement, tensors.x.as<float>(), tensors.dy.as<float>(),
                          tensors.output.as<float>(), parameters_.gamma.data(), parameters_.beta.data(),
                          parameters_.mean.data(), parameters_.variance.data(), tensors.dgamma.data(),
                          tensors.dbeta.data()});
  }

  void run() { call_->run(); }
  [[nodiscard]] std::string implementation() const { return call_->implementation(); }

 private:
  Parameters<float> parameters_;
  std::unique_ptr<PeerCall> call_;
};

}  // namespace exactnorm::bench
