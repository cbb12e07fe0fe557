#pragma once

#include <memory>
#include <string>
#include <vector>

#include "placement.h"
#include "problem.h"

namespace exactnorm::bench {

/// Another library that does the same, or a build of it, in a module of its own: only who asks for it loads it and
/// its threads.
struct PeerDescription {
  std::string name;
  std::string version;
  std::string runtime;
  std::string isa;
};

/// Memory is the caller's and outlives the call. All of it is float32.
struct PeerProblem {
  Operation operation = Operation::training;
  Placement placement;
  float* x = nullptr;
  float* dy = nullptr;
  float* output = nullptr;
  float* gamma = nullptr;
  float* beta = nullptr;
  float* mean = nullptr;      ///< written by training
  float* variance = nullptr;  ///< the same
  float* dgamma = nullptr;
  float* dbeta = nullptr;
  bool has_relu = false;
};

/// One prepared call.
class PeerCall {
 public:
  virtual ~PeerCall() = default;
  /// Returns when the results are there.
  virtual void run() = 0;
  [[nodiscard]] virtual std::string implementation() const = 0;
};

class Peer {
 public:
  virtual ~Peer() = default;
  [[nodiscard]] virtual PeerDescription description() const = 0;
  /// The layout without which the peer cannot do a case of this shape; empty where it takes that of the case.
  [[nodiscard]] virtual std::string own_layout(const IndexList& shape) const {
    static_cast<void>(shape);
    return "";
  }
  /// Throws std::exception, whose text says why, where the peer cannot do this.
  [[nodiscard]] virtual std::unique_ptr<PeerCall> prepare(const PeerProblem& problem) = 0;
};

/// What every module has under the name `make_peer_symbol`. Has to be called before threads are started.
using MakePeer = Peer* (*)(int threads);
inline constexpr const char* make_peer_symbol = "exactnorm_bench_make_peer";

/// What --peer takes.
[[nodiscard]] const std::vector<std::string>& peer_names();

/// Loads the modules behind a name, which stay loaded. Those that do not work here are reported on stderr. Throws
/// std::runtime_error, which says what is missing, when there is none left.
[[nodiscard]] std::vector<std::unique_ptr<Peer>> load_peers(const std::string& name, int threads);

}  // namespace exactnorm::bench
