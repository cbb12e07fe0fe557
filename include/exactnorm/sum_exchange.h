#pragma once

#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "exactnorm/communicator.h"
#include "exactnorm/error.h"
#include "exactnorm/export.h"
#include "exactnorm/partial_sums.h"

namespace exactnorm {

/// How many numbers the sums of a layer are.
struct EXACTNORM_EXPORT ExchangedLayer {
  Index channels = 0;
  /// What all ranks' data need: single for float32 and integers of up to 16 bits, else extended.
  PartialSums::Range range = PartialSums::Range::single;
};

/// Adds up exact sums over all ranks: one message, whose size does not depend on the number of ranks, in which errors
/// travel too.
///
/// Where a rank has nothing to give because its arguments are wrong, it says so in its place, and all ranks throw
/// the same Error, which names the rank. The same happens where ranks are not at the same call: where number, kinds of
/// sums or purpose differ. Calls are compared by a digest of 122 bits: two that differ pass as the same with a
/// probability of at most (n / (2^61 - 1))^2, n being the characters of the longer description, which is below 2^-105
/// for 256.
///
/// An exchange is made once and used for many batches, forward and backward. It may carry several layers in one
/// message.
///
/// 17 int64, and for each layer 2 and 36 per channel of range single (206 of range extended), are sent.
class EXACTNORM_EXPORT SumExchange {
 public:
  /// Called by all ranks together; compares what they give. `communicator` has to outlive the object.
  /// Throws Error, the same on all ranks, where they differ or when a number of channels is negative.
  SumExchange(Communicator& communicator, std::vector<ExchangedLayer> layers);
  SumExchange(Communicator& communicator, Index channels, PartialSums::Range range = PartialSums::Range::single);

  [[nodiscard]] Communicator& communicator() const noexcept { return *communicator_; }
  [[nodiscard]] const std::vector<ExchangedLayer>& layers() const noexcept { return layers_; }

  /// The sums over all ranks of one layer: start() and finish().
  [[nodiscard]] PartialSums sum(const PartialSums& sums, const std::string& purpose = "");

  /// Sends the sums of this rank, one for each layer, and returns at once, for other work to be done meanwhile.
  /// `purpose` says what they are for: ranks that say something else are an error. So are sums that do not fit the
  /// layers; finish() throws it. Throws Error when a message is under way already.
  void start(std::span<const PartialSums> sums, const std::string& purpose = "");
  /// Takes the place of start() on a rank that met an error: finish() throws it on all ranks.
  void start_failed(const std::exception& error);

  /// Whether finish() would return at once.
  [[nodiscard]] bool is_done();
  /// The sums over all ranks. Throws Error, the same on all ranks, where one of them failed or is at another call.
  [[nodiscard]] std::vector<PartialSums> finish();

 private:
  void send(std::vector<std::int64_t> numbers);
  [[noreturn]] void throw_difference();

  Communicator* communicator_;
  std::vector<ExchangedLayer> layers_;
  std::vector<PartialSums::Kind> kinds_;
  std::unique_ptr<PendingSum> pending_;
  std::optional<Error> failure_;
  std::string call_;
  std::uint64_t calls_ = 0;
};

}  // namespace exactnorm
