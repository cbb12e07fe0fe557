#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "peer.h"
#include "problem.h"
#include "timing.h"

namespace exactnorm::bench {

/// What everybody took, in milliseconds per call, one value per round.
struct Row {
  Case measured;
  Index bytes_per_tensor = 0;
  /// With cold tensors, these and all below are of calls and of the pass over their outputs together.
  std::vector<double> ours;
  /// That pass alone; empty unless tensors were cold.
  std::vector<double> our_reading;
  std::vector<double> copy;
  std::vector<double> copy_nontemporal;

  struct PeerRow {
    PeerDescription description;
    std::string layout;
    std::string implementation;
    std::vector<double> milliseconds;
    /// As `our_reading`.
    std::vector<double> reading;
  };
  /// With exact sums alone; empty where they were not asked for.
  std::vector<double> exact;
  /// Channels that quick sums decided about zero, or about their mean, and those that they left to exact sums, as parts
  /// of all.
  struct Decided {
    double quick = 0;
    double centred = 0;
    double exact = 0;
  };
  Decided decided;
  /// Processors that other programs used meanwhile.
  double other_load = 0;
  /// Those that can do this.
  std::vector<PeerRow> peers;

  /// The fastest; null where there is none.
  [[nodiscard]] const PeerRow* best_peer() const;
  [[nodiscard]] const std::vector<double>& limit() const;
  /// That the limit moves.
  [[nodiscard]] double bytes_moved() const;
};

/// What came of a case: a row, unless an answer was wrong; and what else there is to say.
struct Outcome {
  std::optional<Row> row;
  std::vector<std::string> remarks;
  bool is_wrong = false;
};

using Peers = std::vector<std::unique_ptr<Peer>>;

/// How to measure.
struct Manner {
  /// Empty for that of the case.
  std::string peer_layout;
  int threads = 0;
  Effort effort;
  /// With exact sums alone, too.
  bool exact_sums = false;
  /// Tensors are cold, and the output is read; peers have the layout of the case then.
  bool cold = false;
};

/// Checks all answers, then measures.
[[nodiscard]] Outcome run_case(const Case& measured, const Peers& peers, const Manner& manner);

}  // namespace exactnorm::bench
