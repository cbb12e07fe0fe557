#pragma once

#include <string>
#include <vector>

#include "cli/json_text.h"
#include "peer.h"
#include "run.h"

namespace exactnorm::bench {

/// Who measures, and where.
struct Circumstances {
  std::string version;
  std::string target;
  std::string processor;
  int threads = 0;
  /// Of the last level of cache; 0 where the system does not tell.
  Index cache_bytes = 0;
  bool exact_sums = false;
  bool cold = false;
  std::vector<PeerDescription> peers;
};

[[nodiscard]] Circumstances find_circumstances(const Manner& manner, const Peers& peers);

void print_header(const Circumstances& circumstances);
void print_row(const Row& row);

[[nodiscard]] cli::Json to_json(const Circumstances& circumstances);
[[nodiscard]] cli::Json to_json(const Row& row, const Circumstances& circumstances);

}  // namespace exactnorm::bench
