#include "run.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <functional>

#include "batch_norm/reduction.h"
#include "calls.h"
#include "cold_case.h"
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

/// Those peers' calls that work, each with its peer and its row, which has no times yet. What does not work is a
/// remark.
struct TheirCalls {
  std::vector<std::unique_ptr<TheirCall>> calls;
  std::vector<Peer*> peers;
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
      result.rows.push_back({peer->description(), tensors.placement.layout, call->implementation(), {}, {}});
      result.calls.push_back(std::move(call));
      result.peers.push_back(peer.get());
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

/// Milliseconds of each contender in each round; what is read after cold calls is in them, and apart.
struct Samples {
  std::vector<std::vector<double>> all;
  std::vector<std::vector<double>> readings;
  double other_load = 0;
};

/// Once more, and again, where others were in the way.
Samples measure_undisturbed(const std::function<Samples()>& measure) {
  Samples samples;
  for (int attempt = 0; attempt < most_attempts; ++attempt) {
    const OtherLoad others;
    samples = measure();
    samples.other_load = others.processors();
    if (samples.other_load <= bearable_load) break;
  }
  return samples;
}

/// Those who take turns: this library, two ways to move bytes, this library with exact sums alone where that is asked
/// for, and the peers.
constexpr std::size_t ours_at = 0;
constexpr std::size_t copy_at = 1;
constexpr std::size_t copy_nontemporal_at = 2;
constexpr std::size_t exact_at = 3;

template <typename T>
class Contest {
 public:
  Contest(const Case& measured, const Manner& manner, Tensors<T>& tensors, LibraryCall& ours, TheirCalls& theirs)
      : measured_(measured), manner_(manner), tensors_(tensors), ours_(ours), theirs_(theirs) {}

  [[nodiscard]] Samples warm() {
    std::vector<std::function<void()>> calls = {[&] { ours_.run(); }, [&] { move(tensors_, Store::ordinary); },
                                                [&] { move(tensors_, Store::nontemporal); }};
    if (manner_.exact_sums) calls.emplace_back([&] { run_exactly(ours_); });
    for (const auto& call : theirs_.calls) calls.emplace_back([&call] { call->run(); });
    return {measure_in_turn(calls, manner_.effort), {}};
  }

  [[nodiscard]] Samples cold() {
    ColdCase<T> cold(measured_, tensors_, manner_.threads);
    std::vector<ColdContender> contenders = {{[&] { ours_.run(); }, cold.our_layer()}};
    for (const Store store : {Store::ordinary, Store::nontemporal}) {
      contenders.push_back(
          {[this, store] { move(tensors_, store); }, [this, store, &cold] { move(cold.layer_tensors(), store); }});
    }
    if (manner_.exact_sums) contenders.push_back({[&] { run_exactly(ours_); }, cold.our_layer()});
    for (std::size_t i = 0; i < theirs_.calls.size(); ++i) {
      contenders.push_back({[this, i] { theirs_.calls[i]->run(); }, cold.layer_of(*theirs_.peers[i])});
    }
    Samples samples;
    for (ColdSamples& of : measure_cold_in_turn(
             contenders, [&] { cold.prepare(); }, [&] { cold.read_output(); }, manner_.effort)) {
      samples.all.push_back(std::move(of.all));
      samples.readings.push_back(std::move(of.readings));
    }
    return samples;
  }

 private:
  void move(Tensors<T>& tensors, Store store) {
    const std::size_t bytes = static_cast<std::size_t>(tensors.placement.elements()) * sizeof(T);
    move_bytes(measured_.operation, tensors.x, tensors.dy, tensors.output, bytes, store, manner_.threads);
  }

  const Case& measured_;
  const Manner& manner_;
  Tensors<T>& tensors_;
  LibraryCall& ours_;
  TheirCalls& theirs_;
};

/// All peers of a run have one layout.
std::string layout_for(const Peers& peers, const Case& measured, const Manner& manner) {
  for (const auto& peer : peers) {
    if (std::string own = peer->own_layout(measured.shape); !own.empty()) return own;
  }
  return manner.peer_layout;
}

template <typename T>
Outcome run_case_as(const Case& measured, const Peers& peers, const Manner& manner) {
  const int threads = manner.threads;
  const Placement placement = place(measured.layout, measured.shape);
  const std::string peer_layout = layout_for(peers, measured, manner);
  const Placement peer_placement = peer_layout.empty() ? placement : place(peer_layout, measured.shape);
  const bool needs_other_tensors = !peers.empty() && peer_placement.layout != placement.layout;
  const std::size_t bytes =
      memory_of(measured, placement) + (needs_other_tensors ? memory_of(measured, peer_placement) : 0);
  if (static_cast<double>(bytes) > usable_share * static_cast<double>(available_memory())) {
    return {{}, {fmt::format("left out: its tensors need {:.1f} GB of memory", static_cast<double>(bytes) / 1e9)}};
  }

  Tensors<T> tensors(measured, placement, threads);
  const Parameters<T> parameters = make_parameters<T>(placement.channels);
  const Reference<T> reference(measured, tensors, parameters, threads);
  LibraryCall ours = our_call(measured, tensors, parameters, threads);
  if (const std::string problem = problem_with(ours, tensors, reference, Standard::promised); !problem.empty()) {
    return {{}, {"exactnorm is wrong: " + problem}, true};
  }
  if (manner.exact_sums && !has_same_bits(ours, tensors, placement)) {
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

  Contest<T> contest(measured, manner, tensors, ours, theirs);
  const SumCounts before = sum_counts();
  Samples samples = measure_undisturbed([&] { return manner.cold ? contest.cold() : contest.warm(); });
  if (samples.other_load > bearable_load) {
    theirs.remarks.push_back(
        fmt::format("times may be too long: other programs used {:.1f} processors meanwhile", samples.other_load));
  }
  const std::size_t first_peer = manner.exact_sums ? exact_at + 1 : exact_at;
  for (std::size_t i = 0; i < theirs.rows.size(); ++i) {
    theirs.rows[i].milliseconds = samples.all[first_peer + i];
    if (manner.cold) theirs.rows[i].reading = samples.readings[first_peer + i];
  }
  Row row;
  row.measured = measured;
  row.bytes_per_tensor = placement.elements() * static_cast<Index>(sizeof(T));
  row.ours = samples.all[ours_at];
  row.copy = samples.all[copy_at];
  row.copy_nontemporal = samples.all[copy_nontemporal_at];
  if (manner.exact_sums) row.exact = samples.all[exact_at];
  if (manner.cold) row.our_reading = samples.readings[ours_at];
  row.decided = parts_of(before, sum_counts());
  row.other_load = samples.other_load;
  row.peers = std::move(theirs.rows);
  return {std::move(row), theirs.remarks};
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

Outcome run_case(const Case& measured, const Peers& peers, const Manner& manner) {
  return measured.dtype == DType::float32 ? run_case_as<float>(measured, peers, manner)
                                          : run_case_as<double>(measured, peers, manner);
}

}  // namespace exactnorm::bench
