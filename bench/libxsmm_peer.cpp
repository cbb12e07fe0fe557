#include <libxsmm.h>
#include <omp.h>

#include <cmath>
#include <memory>
#include <stdexcept>
#include <vector>

#include "peer.h"

// libxsmm 1.17, which Debian and Ubuntu package. Its fused batch normalization is the predecessor of the one in
// libxsmm-dnn, of which there are no packages. It knows a layout of its own, with blocks of as many channels as it
// likes, and its epsilon is 1e-7, whatever is wanted.

namespace exactnorm::bench {
namespace {

void check(libxsmm_dnn_err_t status) {
  if (status != LIBXSMM_DNN_SUCCESS) throw std::runtime_error(libxsmm_dnn_get_error(status));
}

struct DestroyHandle {
  void operator()(libxsmm_dnn_fusedbatchnorm* handle) const { libxsmm_dnn_destroy_fusedbatchnorm(handle); }
};
struct DestroyTensor {
  void operator()(libxsmm_dnn_tensor* tensor) const { libxsmm_dnn_destroy_tensor(tensor); }
};
struct DestroyLayout {
  void operator()(libxsmm_dnn_tensor_datalayout* layout) const { libxsmm_dnn_destroy_tensor_datalayout(layout); }
};
using Handle = std::unique_ptr<libxsmm_dnn_fusedbatchnorm, DestroyHandle>;
using Layout = std::unique_ptr<libxsmm_dnn_tensor_datalayout, DestroyLayout>;

Handle make_handle(const Placement& at, libxsmm_dnn_fusedbatchnorm_fuse_op work, int threads) {
  libxsmm_dnn_fusedbatchnorm_desc wanted{};
  wanted.partN = wanted.fullN = static_cast<int>(at.batch);
  wanted.C = static_cast<int>(at.channels);
  wanted.H = static_cast<int>(at.height);
  wanted.W = static_cast<int>(at.width);
  wanted.u = wanted.v = 1;
  wanted.threads = threads;
  wanted.datatype_in = wanted.datatype_out = wanted.datatype_stats = LIBXSMM_DNN_DATATYPE_F32;
  wanted.buffer_format = LIBXSMM_DNN_TENSOR_FORMAT_LIBXSMM;
  wanted.fuse_order = LIBXSMM_DNN_FUSEDBN_ORDER_BN_ELTWISE_RELU;
  wanted.fuse_ops = work;
  libxsmm_dnn_err_t status = LIBXSMM_DNN_SUCCESS;
  Handle handle(libxsmm_dnn_create_fusedbatchnorm(wanted, &status));
  check(status);
  return handle;
}

Layout layout_of(const Handle& handle, libxsmm_dnn_tensor_type type) {
  libxsmm_dnn_err_t status = LIBXSMM_DNN_SUCCESS;
  Layout layout(libxsmm_dnn_fusedbatchnorm_create_tensor_datalayout(handle.get(), type, &status));
  check(status);
  return layout;
}

class LibxsmmCall : public PeerCall {
 public:
  LibxsmmCall(const PeerProblem& problem, int threads)
      : threads_(threads),
        kind_(problem.operation == Operation::backward ? LIBXSMM_DNN_COMPUTE_KIND_BWD : LIBXSMM_DNN_COMPUTE_KIND_FWD),
        handle_(make_handle(
            problem.placement,
            problem.operation == Operation::inference ? LIBXSMM_DNN_FUSEDBN_OPS_BNSCALE : LIBXSMM_DNN_FUSEDBN_OPS_BN,
            threads)),
        inverse_deviation_(static_cast<std::size_t>(problem.placement.channels)) {
    for (std::size_t c = 0; c < inverse_deviation_.size(); ++c) {
      inverse_deviation_[c] = static_cast<float>(1 / std::sqrt(static_cast<double>(problem.variance[c]) + epsilon));
    }
    bind(LIBXSMM_DNN_REGULAR_INPUT, problem.x);
    bind(LIBXSMM_DNN_REGULAR_CHANNEL_GAMMA, problem.gamma);
    bind(LIBXSMM_DNN_CHANNEL_EXPECTVAL, problem.mean);
    bind(LIBXSMM_DNN_CHANNEL_RCPSTDDEV, inverse_deviation_.data());
    if (problem.operation == Operation::backward) {
      bind(LIBXSMM_DNN_GRADIENT_OUTPUT, problem.dy);
      bind(LIBXSMM_DNN_GRADIENT_INPUT, problem.output);
      bind(LIBXSMM_DNN_GRADIENT_CHANNEL_GAMMA, problem.dgamma);
      bind(LIBXSMM_DNN_GRADIENT_CHANNEL_BETA, problem.dbeta);
    } else {
      bind(LIBXSMM_DNN_REGULAR_OUTPUT, problem.output);
      bind(LIBXSMM_DNN_REGULAR_CHANNEL_BETA, problem.beta);
      bind(LIBXSMM_DNN_CHANNEL_VARIANCE, problem.variance);
    }
    libxsmm_dnn_err_t status = LIBXSMM_DNN_SUCCESS;
    scratch_.resize(libxsmm_dnn_fusedbatchnorm_get_scratch_size(handle_.get(), &status) + scratch_alignment);
    check(status);
    check(libxsmm_dnn_fusedbatchnorm_bind_scratch(handle_.get(), scratch_.data()));
  }

  void run() override {
#pragma omp parallel num_threads(threads_)
    libxsmm_dnn_fusedbatchnorm_execute_st(handle_.get(), kind_, 0, omp_get_thread_num());
  }

  [[nodiscard]] std::string implementation() const override { return "fusedbatchnorm"; }

 private:
  // More than it asks for, as it aligns what it gets.
  static constexpr std::size_t scratch_alignment = 64;

  void bind(libxsmm_dnn_tensor_type type, float* data) {
    libxsmm_dnn_err_t status = LIBXSMM_DNN_SUCCESS;
    tensors_.emplace_back(libxsmm_dnn_link_tensor(layout_of(handle_, type).get(), data, &status));
    check(status);
    check(libxsmm_dnn_fusedbatchnorm_bind_tensor(handle_.get(), tensors_.back().get(), type));
  }

  int threads_;
  libxsmm_dnn_compute_kind kind_;
  Handle handle_;
  std::vector<float> inverse_deviation_;
  std::vector<std::byte> scratch_;
  std::vector<std::unique_ptr<libxsmm_dnn_tensor, DestroyTensor>> tensors_;
};

class Libxsmm : public Peer {
 public:
  explicit Libxsmm(int threads) : threads_(threads) { libxsmm_init(); }

  [[nodiscard]] PeerDescription description() const override {
    return {"libxsmm", LIBXSMM_VERSION, "OpenMP", libxsmm_get_target_arch()};
  }

  [[nodiscard]] std::string own_layout(const IndexList& shape) const override {
    if (shape.size() != 4) return "";
    Placement one_pixel;
    one_pixel.channels = shape[1];
    const Handle handle = make_handle(one_pixel, LIBXSMM_DNN_FUSEDBN_OPS_BN, threads_);
    return "nChw" + std::to_string(layout_of(handle, LIBXSMM_DNN_REGULAR_INPUT)->dim_size[0]) + "c";
  }

  [[nodiscard]] std::unique_ptr<PeerCall> prepare(const PeerProblem& problem) override {
    if (problem.has_relu) throw std::runtime_error("its fused relu is not measured here");
    if (problem.placement.block == 1) throw std::runtime_error("it has a layout of its own, for images alone");
    return std::make_unique<LibxsmmCall>(problem, threads_);
  }

 private:
  int threads_;
};

}  // namespace
}  // namespace exactnorm::bench

extern "C" [[gnu::visibility("default")]] exactnorm::bench::Peer* exactnorm_bench_make_peer(int threads);

exactnorm::bench::Peer* exactnorm_bench_make_peer(int threads) { return new exactnorm::bench::Libxsmm(threads); }
