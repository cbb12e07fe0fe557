#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "exactnorm/batch_norm.h"
#include "exactnorm/export.h"
#include "exactnorm/options.h"
#include "exactnorm/statistics.h"
#include "exactnorm/tensor.h"

namespace exactnorm {

// Plans: an operation of batch_norm.h that is made once for shapes, strides, dtypes and options, and run many times on
// other memory. A run takes no view apart. On one thread it allocates nothing after the first runs, unless a channel
// needs exact sums, or scratch memory exceeds a mebibyte. Its results are, bit for bit, those of the function.
//
// The views that a plan is made of need no memory: their `data` is not looked at. A parameter or an output that is
// absent there has a null pointer in each run.
//
// Thread safety: a plan does not change. Several threads may run it at the same time, on different outputs; copies are
// cheap, and share all they hold. With `Options::threads` of 0 a plan takes OpenMP's default when it is made.
//
// A run checks its pointers before anything is written: each must not be null, has to be aligned to its type, and
// outputs must not overlap anything, with the exception that batch_norm.h names.

/// Where the tensors of a forward operation lie: the addresses of their elements (0, 0, ...).
struct EXACTNORM_EXPORT ForwardPointers {
  const void* x = nullptr;
  void* y = nullptr;
  const void* gamma = nullptr;
  const void* beta = nullptr;
  const void* residual = nullptr;
  const void* mask = nullptr;
};

/// `training`. The statistics go into the caller's memory.
class EXACTNORM_EXPORT TrainingPlan {
 public:
  /// Throws Error as `training` does.
  explicit TrainingPlan(const TensorView& x, const MutableTensorView& y, const Affine& affine = {},
                        const Options& options = {});

  /// Returns the elements per channel behind the statistics: count(), or those that the mask selects.
  /// Throws Error that names what lies where it must not.
  Index run(const ForwardPointers& at, const MutableStatisticsView& statistics) const;

  [[nodiscard]] Index channels() const noexcept;
  /// Elements per channel, the `count` of Statistics without a mask; 0 for an empty batch.
  [[nodiscard]] Index count() const noexcept;

 private:
  struct Parts;
  std::shared_ptr<const Parts> parts_;
};

/// `inference` by given statistics, gamma and beta, which are read when the plan is made, and not needed afterwards.
class EXACTNORM_EXPORT InferencePlan {
 public:
  /// Throws Error as `inference` does.
  explicit InferencePlan(const TensorView& x, const MutableTensorView& y, const Statistics& statistics,
                         const Affine& affine = {}, const Options& options = {});

  /// Throws Error that names what lies where it must not. `residual` and `mask` are null where the plan has
  /// none.
  void run(const void* x, void* y, const void* residual = nullptr, const void* mask = nullptr) const;

 private:
  struct Parts;
  std::shared_ptr<const Parts> parts_;
};

/// Which backward pass.
enum class BackwardKind : std::uint8_t {
  training,  ///< `backward`: mean and variance are functions of x
  frozen     ///< `backward_frozen`: they are constants
};

/// Where the tensors of a backward pass lie.
struct EXACTNORM_EXPORT BackwardPointers {
  const void* dy = nullptr;
  const void* x = nullptr;
  const void* gamma = nullptr;
  void* dx = nullptr;
  void* dgamma = nullptr;
  void* dbeta = nullptr;
  const void* beta = nullptr;
  const void* residual = nullptr;
  void* d_residual = nullptr;
  const void* mask = nullptr;
  const void* output = nullptr;
};

/// `backward` or `backward_frozen`. Unlike these it takes epsilon and its placement from `options`, which have to be
/// those of the forward pass; the statistics of `backward` are over as many elements as x has per channel, or as the
/// mask selects.
class EXACTNORM_EXPORT BackwardPlan {
 public:
  /// Throws Error as `backward` does.
  explicit BackwardPlan(const TensorView& dy, const TensorView& x, const Affine& affine, const Gradients& gradients,
                        const Options& options = {}, BackwardKind kind = BackwardKind::training);

  /// Throws Error that names what lies where it must not.
  void run(const BackwardPointers& at, const StatisticsView& statistics) const;

  [[nodiscard]] Index channels() const noexcept;

 private:
  struct Parts;
  std::shared_ptr<const Parts> parts_;
};

}  // namespace exactnorm
