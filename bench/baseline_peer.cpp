#include <memory>

#include "exactnorm/exactnorm.h"
#include "library_call.h"
#include "peer.h"
#include "placement.h"

// Another build of this library, installed somewhere: what a change is worth is the ratio to the build before it. This
// file is compiled with that build's headers.

namespace exactnorm::bench {
namespace {

LibraryProblem library_problem(const PeerProblem& problem, int threads) {
  const Placement& at = problem.placement;
  const auto tensor = [&](float* data) { return library_view(at, data, DType::float32); };
  const auto parameter = [&](float* data) { return mutable_view(data, {at.channels}); };
  LibraryProblem result;
  result.operation = problem.operation;
  result.x = tensor(problem.x);
  result.output = tensor(problem.output).view;
  result.affine = {parameter(problem.gamma), parameter(problem.beta)};
  result.mean = parameter(problem.mean);
  result.variance = parameter(problem.variance);
  if (problem.operation == Operation::backward) result.dy = tensor(problem.dy).view;
  result.dgamma = parameter(problem.dgamma);
  result.dbeta = parameter(problem.dbeta);
  result.threads = threads;
  result.has_relu = problem.has_relu;
  return result;
}

class BaselineCall : public PeerCall {
 public:
  BaselineCall(const PeerProblem& problem, int threads) : call_(library_problem(problem, threads)) {}

  void run() override { call_.run(); }
  [[nodiscard]] std::string implementation() const override { return active_target(); }

 private:
  LibraryCall call_;
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
