#include <memory>

#include "exactnorm/exactnorm.h"
#include "peer.h"
#include "placement.h"

// Another build of this library, installed somewhere: what a change is worth is the ratio to the build before it. This
// file is compiled with that build's headers.

namespace exactnorm::bench {
namespace {

class BaselineCall : public PeerCall {
 public:
  BaselineCall(const PeerProblem& problem, int threads) : operation_(problem.operation) {
    const Placement& at = problem.placement;
    const MutableLayoutView x = library_view(at, problem.x, DType::float32);
    options_.channel_axes = x.channel_axes;
    options_.epsilon = epsilon;
    options_.threads = threads;
    x_ = x.view;
    output_ = library_view(at, problem.output, DType::float32).view;
    const auto parameter = [&](float* data) { return mutable_view(data, {at.channels}); };
    affine_ = {parameter(problem.gamma), parameter(problem.beta)};
    if (operation_ == Operation::inference) {
      statistics_ = given_statistics(parameter(problem.mean), parameter(problem.variance), options_);
    } else {
      statistics_ = training(x_, output_, affine_, options_);
    }
    if (operation_ != Operation::backward) return;
    dy_ = library_view(at, problem.dy, DType::float32).view;
    gradients_ = {output_, parameter(problem.dgamma), parameter(problem.dbeta)};
  }

  void run() override {
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

  [[nodiscard]] std::string implementation() const override { return active_target(); }

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

class Baseline : public Peer {
 public:
  explicit Baseline(int threads) : threads_(threads) {}

  [[nodiscard]] PeerDescription description() const override {
    return {"Exactnorm before", std::string(version()), "OpenMP", active_target()};
  }

  [[nodiscard]] std::unique_ptr<PeerCall> prepare(const PeerProblem& problem) override {
    return std::make_unique<BaselineCall>(problem, threads_);
  }

 private:
  int threads_;
};

}  // namespace
}  // namespace exactnorm::bench

extern "C" [[gnu::visibility("default")]] exactnorm::bench::Peer* exactnorm_bench_make_peer(int threads);

exactnorm::bench::Peer* exactnorm_bench_make_peer(int threads) { return new exactnorm::bench::Baseline(threads); }
