#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "exactnorm/options.h"
#include "exactnorm/tensor.h"
#include "support/random.h"

namespace exactnorm::testing {

enum class Content { normal, large_mean, constant, tails, outlier, subnormal, growing };
inline constexpr Content contents[] = {Content::normal,  Content::large_mean, Content::constant, Content::tails,
                                       Content::outlier, Content::subnormal,  Content::growing};
[[nodiscard]] std::string name_of(Content content);

/// A problem with its data, which depend on the seed alone. Values are as their dtypes hold them, in row-major order.
struct Case {
  explicit Case(std::uint64_t seed);

  [[nodiscard]] std::string description() const;
  [[nodiscard]] Index channels() const { return static_cast<Index>(gamma.size()); }
  /// The channel of each element, as the library numbers them.
  [[nodiscard]] std::vector<Index> channel_of_elements() const;

  std::uint64_t seed;
  DType x_dtype = DType::float32;
  DType dy_dtype = DType::float32;
  DType out_dtype = DType::float32;
  IndexList shape;
  Options options;
  Content x_content = Content::normal;
  Content dy_content = Content::normal;
  bool x_has_nonfinite = false;
  bool dy_has_nonfinite = false;
  std::vector<double> x;
  std::vector<double> dy;
  std::vector<double> gamma;  // float64
  std::vector<double> beta;
  std::vector<double> given_mean;
  std::vector<double> given_variance;
  // Of the masked passes, whose activation that of `masked_options` is.
  Options masked_options;
  std::vector<double> residual;  // float32; none where empty
  IndexList mask_shape;          // of all axes
  std::vector<double> mask;
  MaskedOutput masked_output = MaskedOutput::zero;

 private:
  void choose_masked_passes(Random& random);
  void choose_shape(Random& random, bool dy_outgrows_exponents);
};

}  // namespace exactnorm::testing
