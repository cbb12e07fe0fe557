#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "exactnorm/batch_norm.h"
#include "exactnorm/error.h"
#include "exactnorm/export.h"
#include "exactnorm/options.h"
#include "exactnorm/statistics.h"
#include "exactnorm/sums.h"
#include "exactnorm/tensor.h"

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
/// 17 int64, and for each layer 2 and 41 per channel of range single (143 of range extended), are sent.
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

// Batch normalization of a batch that several processes ("ranks") hold parts of. Each rank gives its part; statistics
// are those of the whole batch. y, dx and the statistics are the bits that one process with the whole batch gives,
// however it is cut: ranks may hold different numbers of samples, a single value per channel, or none.
//
// All ranks call the same functions in the same order, with an exchange of one layer that they made together. Wrong
// arguments on one rank make all ranks throw the same Error, which names the rank, with nothing written anywhere.
// Options and parameters other than the number of channels are each rank's own. Ranks that differ in epsilon, in its
// placement or in the statistics given to `synchronized_backward` get an Error, too: all the same, with nothing
// written.
//
// Running statistics: give `RunningStatistics::update` what `synchronized_training` returns. It is the same on every
// rank.

/// `training` of this rank's part: one message. Returns the statistics of the whole batch.
EXACTNORM_EXPORT Statistics synchronized_training(SumExchange& exchange, const TensorView& x,
                                                  const MutableTensorView& y, const Affine& affine = {},
                                                  const Options& options = {});

/// Where `synchronized_backward` writes; each is optional, but whether any is given has to be alike on all ranks.
struct EXACTNORM_EXPORT SynchronizedGradients {
  /// The gradient of the sum of all ranks' losses by this rank's x.
  std::optional<MutableTensorView> dx = std::nullopt;
  /// Sums over the whole batch, the same on every rank.
  std::optional<MutableTensorView> dgamma = std::nullopt;
  std::optional<MutableTensorView> dbeta = std::nullopt;
  /// This rank's shares of them: what is to be left for others to add up or to average, as PyTorch's
  /// DistributedDataParallel does.
  std::optional<MutableTensorView> dgamma_share = std::nullopt;
  std::optional<MutableTensorView> dbeta_share = std::nullopt;
  /// Of this rank's residual.
  std::optional<MutableTensorView> d_residual = std::nullopt;
};

/// `backward` of this rank's part: one message. `statistics` are those of the whole batch, from
/// `synchronized_training`, the same bits on all ranks.
/// Throws Error, the same on all ranks, where they differ, or are of another number of elements than the batch is.
EXACTNORM_EXPORT void synchronized_backward(SumExchange& exchange, const TensorView& dy, const TensorView& x,
                                            const Statistics& statistics, const Affine& affine,
                                            const SynchronizedGradients& gradients, const Options& options = {});

}  // namespace exactnorm
