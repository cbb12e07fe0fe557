#include <omp.h>
#include <sched.h>
#include <unistd.h>

#include <cstdlib>
#include <oneapi/dnnl/dnnl.hpp>
#include <stdexcept>
#include <unordered_map>
#include <vector>

#include "peer.h"

// oneDNN, through the C++ API of its version 3. The build defines EXACTNORM_BENCH_OPENCL: a library without which
// builds of oneDNN for SYCL do not find the processor.

namespace exactnorm::bench {
namespace {

constexpr auto float32 = dnnl::memory::data_type::f32;

std::string runtime_name(unsigned runtime) {
  switch (runtime) {
    case DNNL_RUNTIME_SEQ:
      return "sequential";
    case DNNL_RUNTIME_OMP:
      return "OpenMP";
    case DNNL_RUNTIME_TBB:
      return "TBB";
    case DNNL_RUNTIME_THREADPOOL:
      return "threadpool";
    case DNNL_RUNTIME_SYCL:
      return "SYCL";
    default:
      return std::to_string(runtime);
  }
}

std::string isa_name(dnnl::cpu_isa isa) {
  switch (isa) {
    case dnnl::cpu_isa::isa_default:
      return "default";
    case dnnl::cpu_isa::sse41:
      return "sse41";
    case dnnl::cpu_isa::avx:
      return "avx";
    case dnnl::cpu_isa::avx2:
      return "avx2";
    case dnnl::cpu_isa::avx2_vnni:
      return "avx2_vnni";
    case dnnl::cpu_isa::avx2_vnni_2:
      return "avx2_vnni_2";
    case dnnl::cpu_isa::avx512_core:
      return "avx512_core";
    case dnnl::cpu_isa::avx512_core_vnni:
      return "avx512_core_vnni";
    case dnnl::cpu_isa::avx512_core_bf16:
      return "avx512_core_bf16";
    case dnnl::cpu_isa::avx512_core_fp16:
      return "avx512_core_fp16";
    case dnnl::cpu_isa::avx512_core_amx:
      return "avx512_core_amx";
    default:
      return "isa " + std::to_string(static_cast<int>(isa));
  }
}

// OpenMP is told how many threads to use; other runtimes take what processors they are given.
void use_threads(int threads) {
  if (dnnl_version()->cpu_runtime == DNNL_RUNTIME_OMP) {
    omp_set_num_threads(threads);
    return;
  }
  cpu_set_t available;
  cpu_set_t chosen;
  CPU_ZERO(&chosen);
  if (::sched_getaffinity(0, sizeof(available), &available) != 0) return;
  int count = 0;
  for (std::size_t processor = 0; processor < CPU_SETSIZE && count < threads; ++processor) {
    if (!CPU_ISSET(processor, &available)) continue;
    CPU_SET(processor, &chosen);
    ++count;
  }
  if (count < threads) {
    throw std::runtime_error("oneDNN with " + runtime_name(dnnl_version()->cpu_runtime) + " cannot use " +
                             std::to_string(threads) + " threads on " + std::to_string(count) + " processors");
  }
  if (::sched_setaffinity(0, sizeof(chosen), &chosen) != 0) throw std::runtime_error("cannot bind to processors");
}

// Batch normalization does not care in which order a tensor's axes but the channels' are named. Two of them are
// enough for every dense layout with the channels in between, and oneDNN is quick with those that it knows.
dnnl::memory::desc descriptor_of(const Placement& at) {
  using Dimensions = dnnl::memory::dims;
  if (at.block > 1) {
    const auto tag = at.block == 8 ? dnnl::memory::format_tag::nChw8c : dnnl::memory::format_tag::nChw16c;
    return {Dimensions{at.batch, at.channels, at.height, at.width}, float32, tag};
  }
  if (at.layout == "hwcn") {
    return {Dimensions{at.height * at.width, at.channels, 1, at.batch}, float32, dnnl::memory::format_tag::nchw};
  }
  if (at.layout == "cn") return {Dimensions{1, at.channels, 1, at.batch}, float32, dnnl::memory::format_tag::nchw};
  if (at.layout == "nc") return {Dimensions{at.batch, at.channels}, float32, dnnl::memory::format_tag::nc};
  return {Dimensions{at.batch, at.channels, at.height, at.width}, float32,
          Dimensions{at.batch_stride, at.channel_stride, at.height_stride, at.width_stride}};
}

class OneDnnCall : public PeerCall {
 public:
  OneDnnCall(const dnnl::engine& engine, const PeerProblem& problem) : stream_(engine) {
    const dnnl::memory::desc tensor = descriptor_of(problem.placement);
    const dnnl::memory::desc channels({problem.placement.channels}, float32, dnnl::memory::format_tag::x);
    const auto add = [&](int argument, const dnnl::memory::desc& descriptor, float* data) {
      arguments_.emplace(argument, dnnl::memory(descriptor, engine, data));
    };
    auto flags = dnnl::normalization_flags::use_scale | dnnl::normalization_flags::use_shift;
    if (problem.has_relu) flags |= dnnl::normalization_flags::fuse_norm_relu;
    add(DNNL_ARG_SRC, tensor, problem.x);
    add(DNNL_ARG_MEAN, channels, problem.mean);
    add(DNNL_ARG_VARIANCE, channels, problem.variance);
    add(DNNL_ARG_SCALE, channels, problem.gamma);
    const bool is_inference = problem.operation == Operation::inference;
    const dnnl::batch_normalization_forward::primitive_desc forward(
        engine, is_inference ? dnnl::prop_kind::forward_inference : dnnl::prop_kind::forward_training, tensor, tensor,
        static_cast<float>(epsilon), is_inference ? flags | dnnl::normalization_flags::use_global_stats : flags);
    if (problem.operation != Operation::backward) {
      add(DNNL_ARG_SHIFT, channels, problem.beta);
      add(DNNL_ARG_DST, tensor, problem.output);
      add_workspace(forward, engine);
      implementation_ = forward.impl_info_str();
      primitive_ = dnnl::batch_normalization_forward(forward);
      return;
    }
    if (problem.has_relu) {
      // What the backward pass reads of the forward pass: where relu was 0.
      add(DNNL_ARG_SHIFT, channels, problem.beta);
      add(DNNL_ARG_DST, tensor, problem.output);
      add_workspace(forward, engine);
      dnnl::batch_normalization_forward(forward).execute(stream_, arguments_);
      stream_.wait();
      arguments_.erase(DNNL_ARG_SHIFT);
      arguments_.erase(DNNL_ARG_DST);
    }
    const dnnl::batch_normalization_backward::primitive_desc backward(
        engine, dnnl::prop_kind::backward, tensor, tensor, tensor, static_cast<float>(epsilon), flags, forward);
    add(DNNL_ARG_DIFF_DST, tensor, problem.dy);
    add(DNNL_ARG_DIFF_SRC, tensor, problem.output);
    add(DNNL_ARG_DIFF_SCALE, channels, problem.dgamma);
    add(DNNL_ARG_DIFF_SHIFT, channels, problem.dbeta);
    implementation_ = backward.impl_info_str();
    primitive_ = dnnl::batch_normalization_backward(backward);
  }

  void run() override {
    primitive_.execute(stream_, arguments_);
    stream_.wait();
  }

  [[nodiscard]] std::string implementation() const override { return implementation_; }

 private:
  // A bit or a byte for each element, where relu is fused and a backward pass may follow.
  void add_workspace(const dnnl::batch_normalization_forward::primitive_desc& forward, const dnnl::engine& engine) {
    const dnnl::memory::desc descriptor = forward.workspace_desc();
    if (descriptor.get_size() > 0) arguments_.emplace(DNNL_ARG_WORKSPACE, dnnl::memory(descriptor, engine));
  }

  dnnl::stream stream_;
  dnnl::primitive primitive_;
  std::unordered_map<int, dnnl::memory> arguments_;
  std::string implementation_;
};

class OneDnn : public Peer {
 public:
  [[nodiscard]] PeerDescription description() const override {
    const dnnl::version_t& version = *dnnl::version();
    return {"oneDNN",
            std::to_string(version.major) + "." + std::to_string(version.minor) + "." + std::to_string(version.patch),
            runtime_name(version.cpu_runtime), isa_name(dnnl::get_effective_cpu_isa())};
  }

  [[nodiscard]] std::unique_ptr<PeerCall> prepare(const PeerProblem& problem) override {
    return std::make_unique<OneDnnCall>(engine_, problem);
  }

 private:
  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
};

}  // namespace
}  // namespace exactnorm::bench

extern "C" [[gnu::visibility("default")]] exactnorm::bench::Peer* exactnorm_bench_make_peer(int threads);

exactnorm::bench::Peer* exactnorm_bench_make_peer(int threads) {
  // A user's own choice comes first.
  constexpr int overwrite = 0;
  if (::access(EXACTNORM_BENCH_OPENCL, R_OK) == 0) ::setenv("OCL_ICD_FILENAMES", EXACTNORM_BENCH_OPENCL, overwrite);
  exactnorm::bench::use_threads(threads);
  return new exactnorm::bench::OneDnn();
}
