#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "exactnorm/export.h"

namespace exactnorm {

/// A sum over all ranks that is under way.
class EXACTNORM_EXPORT PendingSum {
 public:
  PendingSum() = default;
  /// One that is not done is given up: the numbers may be lost on this rank, while the others go on.
  virtual ~PendingSum() = default;
  PendingSum(const PendingSum&) = delete;
  PendingSum& operator=(const PendingSum&) = delete;

  /// Whether wait() would return at once. Never blocks; some engines advance only while this or wait() is called.
  [[nodiscard]] virtual bool is_done() = 0;
  /// The totals, once.
  [[nodiscard]] virtual std::vector<std::int64_t> wait() = 0;
};

/// The processes ("ranks") that share a batch, and the engine by which they talk: an interface to be derived from for
/// each engine. `exactnorm/mpi.h` has the one for MPI.
///
/// All ranks call the same functions of a communicator in the same order. One object may be used by one thread at a
/// time.
class EXACTNORM_EXPORT Communicator {
 public:
  Communicator() = default;
  virtual ~Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  /// From 0 to size() - 1.
  [[nodiscard]] virtual int rank() const = 0;
  /// At least 1 and at most 65,536.
  [[nodiscard]] virtual int size() const = 0;
  /// Starts to add up `numbers`, as many on each rank, element by element over all ranks: what MPI_Iallreduce does.
  [[nodiscard]] virtual std::unique_ptr<PendingSum> start_sum(std::vector<std::int64_t> numbers) = 0;
  /// The strings of all ranks, in their order. Any bytes; lengths may differ.
  [[nodiscard]] virtual std::vector<std::string> gather(const std::string& text) = 0;
};

/// A single process, which is what the library works with where nothing is said.
[[nodiscard]] EXACTNORM_EXPORT Communicator& single_process();

/// Calls `work` on each rank, and waits for all. Where it threw an exception (derived from std::exception) on some of
/// them, all ranks throw the Error of the first of these, which names the rank.
EXACTNORM_EXPORT void agree(Communicator& communicator, const std::function<void()>& work);

}  // namespace exactnorm
