#include "run.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <functional>

#include "batch_norm/reduction.h"
#include "exactnorm/exactnorm.h"
#include "other_load.h"
#include "reference.h"
#include "stream_limits.h"

namespace exactnorm::bench {
namespace {

// The rest is for the system and for other programs.
constexpr double usable_share = 0.8;
constexpr int most_attempts = 3;
// In processors.
constexpr double bearable_load = 0.1;

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

/// The least that the operation has to move, dense whatever the layout.
void move_bytes(Operation operation, const Memory& x, const Memory& dy, const Memory& output, std::size_t bytes,
                Store store, int threads) {
  if (operation == Operation::backward) {
    stream_combine(x.as<void>(), dy.as<void>(), output.as<void>(), bytes, store, threads);
  } else {
    stream_copy(x.as<void>(), output.as<void>(), bytes, store, threads);
  }
}

/// Empty where the answer of `call` is right.
template <typename T, typename Call>
std::string problem_with(Call& call, Tensors<T>& tensors, const Reference<T>& reference, Standard standard) {
  tensors.forget_outputs();
  call.run();
  return reference.problem_of(tensors, standard);
}

std::string label_of(const Peer& peer) {
  const PeerDescription description = peer.description();
  return description.name + " " + description.version;
}

/// Those peers' calls that work, each with its row, which has no times yet. What does not work is a remark.
struct TheirCalls {
  std::vector<std::unique_ptr<TheirCall>> calls;
  std::vector<Row::PeerRow> rows;
  std::vector<std::string> remarks;
  bool is_wrong = false;
};

TheirCalls prepare_peers(const Case& measured, const Peers& peers, Tensors<float>& tensors,
                         const Parameters<float>& parameters, const Statistics& statistics,
                         const Reference<float>& reference) {
  TheirCalls result;
  for (const std::unique_ptr<Peer>& peer : peers) {
    try {
      auto call = std::make_unique<TheirCall>(measured, tensors, parameters, statistics, *peer);
      if (const std::string problem = problem_with(*call, tensors, reference, Standard::comparable); !problem.empty()) {
        result.remarks.push_back(label_of(*peer) + " is wrong: " + problem);
        result.is_wrong = true;
        continue;
      }
      result.rows.push_back({peer->description(), tensors.placement.layout, call->implementation(), {}});
      result.calls.push_back(std::move(call));
    } catch (const std::exception& error) {
      result.remarks.push_back(fmt::format("{} cannot do this: {}", label_of(*peer), error.what()));
    }
  }
  return result;
}

/// A call with exact sums alone.
template <typename Call>
void run_exactly(Call& call) {
  use_quick_sums(false);
  call.run();
  use_quick_sums(true);
}

/// Whether quick sums and exact sums alone give the same bits.
template <typename T, typename Call>
bool has_same_bits(Call& call, Tensors<T>& tensors, const Placement& placement) {
  const auto results = [&] {
    const T* const output = tensors.output.template as<T>();
    std::vector<T> values(output, output + placement.elements());
    values.insert(values.end(), tensors.dgamma.begin(), tensors.dgamma.end());
    values.insert(values.end(), tensors.dbeta.begin(), tensors.dbeta.end());
    return values;
  };
  tensors.forget_outputs();
  call.run();
  const std::vector<T> quick = results();
  tensors.forget_outputs();
  run_exactly(call);
  const std::vector<T> exact = results();
  return std::memcmp(quick.data(), exact.data(), quick.size() * sizeof(T)) == 0;
}

Row::Decided parts_of(const SumCounts& before, const SumCounts& after) {
  const auto quick = static_cast<double>(after.quick - before.quick);
  const auto centred = static_cast<double>(after.centred - before.centred);
  const auto exact = static_cast<double>(after.exact - before.exact);
  const double all = std::max(quick + centred + exact, 1.0);
  return {quick / all, centred / all, exact / all};
}

/// All peers of a run have one layout.
std::string layout_for(const Peers& peers, const Case& measured, const std::string& peer_layout) {
  for (const auto& peer : peers) {
    if (std::string own = peer->own_layout(measured.shape); !own.empty()) return own;
  }
  return peer_layout;
}

template <typename T>
Outcome run_case_as(const Case& measured, const Peers& peers, const std::string& peer_layout, int threads,
                    const Effort& effort, bool exact_sums) {
  const Placement placement = place(measured.layout, measured.shape);
  const std::string layout = layout_for(peers, measured, peer_layout);
  const Placement peer_placement = layout.empty() ? placement : place(layout, measured.shape);
  const bool needs_other_tensors = !peers.empty() && peer_placement.layout != placement.layout;
  const std::size_t bytes =
      memory_of(measured, placement) + (needs_other_tensors ? memory_of(measured, peer_placement) : 0);
  if (static_cast<double>(bytes) > usable_share * static_cast<double>(available_memory())) {
    return {{}, {fmt::format("left out: its tensors need {:.1f} GB of memory", static_cast<double>(bytes) / 1e9)}};
  }

  Tensors<T> tensors(measured, placement, threads);
  const Parameters<T> parameters = make_parameters<T>(placement.channels);
  const Reference<T> reference(measured, tensors, parameters, threads);
  OurCall<T> ours(measured, tensors, parameters, threads);
  if (const std::string problem = problem_with(ours, tensors, reference, Standard::promised); !problem.empty()) {
    return {{}, {"exactnorm is wrong: " + problem}, true};
  }
  if (exact_sums && !has_same_bits(ours, tensors, placement)) {
    return {{}, {"exactnorm is wrong: quick sums and exact sums give different bits"}, true};
  }
  std::optional<Tensors<T>> other_tensors;
  if (needs_other_tensors) other_tensors.emplace(measured, peer_placement, threads);
  TheirCalls theirs;
  if constexpr (std::is_same_v<T, float>) {
    theirs = prepare_peers(measured, peers, other_tensors ? *other_tensors : tensors, parameters, ours.statistics(),
                           reference);
  } else {
    for (const auto& peer : peers) theirs.remarks.push_back(label_of(*peer) + " cannot do this: it has no float64");
  }
  if (theirs.is_wrong) return {{}, theirs.remarks, true};

  const Index tensor_bytes = placement.elements() * static_cast<Index>(sizeof(T));
  const auto move = [&](Store store) {
    move_bytes(measured.operation, tensors.x, tensors.dy, tensors.output, static_cast<std::size_t>(tensor_bytes), store,
               threads);
  };
  std::vector<std::function<void()>> contenders = {[&] { ours.run(); }, [&] { move(Store::ordinary); },
                                                   [&] { move(Store::nontemporal); }};
  if (exact_sums) contenders.emplace_back([&] { run_exactly(ours); });
  const std::size_t first_peer = contenders.size();
  for (const auto& call : theirs.calls) contenders.emplace_back([&call] { call->run(); });
  const SumCounts before = sum_counts();
  // Once more, and again, where others were in the way.
  std::vector<std::vector<double>> samples;
  double other_load = 0;
  for (int attempt = 0; attempt < most_attempts; ++attempt) {
    const OtherLoad others;
    samples = measure_in_turn(contenders, effort);
    other_load = others.processors();
    if (other_load <= bearable_load) break;
  }
  if (other_load > bearable_load) {
    theirs.remarks.push_back(
        fmt::format("times may be too long: other programs used {:.1f} processors meanwhile", other_load));
  }
  for (std::size_t i = 0; i < theirs.rows.size(); ++i) theirs.rows[i].milliseconds = samples[first_peer + i];
  return {
      Row{measured, tensor_bytes, samples[0], samples[1], samples[2], exact_sums ? samples[3] : std::vector<double>{},
          parts_of(before, sum_counts()), other_load, std::move(theirs.rows)},
      theirs.remarks};
}

}  // namespace

const Row::PeerRow* Row::best_peer() const {
  const auto best = std::min_element(peers.begin(), peers.end(), [](const PeerRow& a, const PeerRow& b) {
    return median(a.milliseconds) < median(b.milliseconds);
  });
  return best == peers.end() ? nullptr : &*best;
}

const std::vector<double>& Row::limit() const {
  return median(copy) < median(copy_nontemporal) ? copy : copy_nontemporal;
}

double Row::bytes_moved() const {
  return static_cast<double>(bytes_per_tensor) * (measured.operation == Operation::backward ? 3 : 2);
}

Outcome run_case(const Case& measured, const Peers& peers, const std::string& peer_layout, int threads,
                 const Effort& effort, bool exact_sums) {
  return measured.dtype == DType::float32
             ? run_case_as<float>(measured, peers, peer_layout, threads, effort, exact_sums)
             : run_case_as<double>(measured, peers, peer_layout, threads, effort, exact_sums);
}

}  // namespace exactnorm::bench
