#pragma once

#include <memory>
#include <string>

#include "exactnorm/exactnorm.h"
#include "library_call.h"
#include "peer.h"
#include "problem.h"

namespace exactnorm::bench {

/// The library's call on the tensors of a case.
template <typename T>
[[nodiscard]] LibraryCall our_call(const Case& measured, Tensors<T>& tensors, const Parameters<T>& parameters,
                                   int threads) {
  const IndexList channels = {tensors.placement.channels};
  const auto tensor = [&](Memory& memory) {
    return library_view(tensors.placement, memory.template as<T>(), dtype_of<T>());
  };
  LibraryProblem problem;
  problem.operation = measured.operation;
  problem.x = tensor(tensors.x);
  problem.output = tensor(tensors.output).view;
  problem.affine = {view(parameters.gamma, channels), view(parameters.beta, channels)};
  problem.mean = view(parameters.mean, channels);
  problem.variance = view(parameters.variance, channels);
  if (measured.operation == Operation::backward) {
    problem.dy = tensor(tensors.dy).view;
    problem.dgamma = mutable_view(tensors.dgamma, channels);
    problem.dbeta = mutable_view(tensors.dbeta, channels);
  }
  problem.threads = threads;
  problem.has_relu = measured.has_relu;
  return LibraryCall(problem);
}

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
                          tensors.dbeta.data(), measured.has_relu});
  }

  void run() { call_->run(); }
  [[nodiscard]] std::string implementation() const { return call_->implementation(); }

 private:
  Parameters<float> parameters_;
  std::unique_ptr<PeerCall> call_;
};

}  // namespace exactnorm::bench
