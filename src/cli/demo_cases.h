#pragma once

#include <string>
#include <vector>

#include "exactnorm/options.h"
#include "exactnorm/tensor.h"

namespace exactnorm::cli {

/// The release of PyTorch whose results are embedded.
inline constexpr const char* pytorch_version = "2.13.0";
inline constexpr double pytorch_epsilon = 1e-5;

/// Both agree where |ours - PyTorch's| <= absolute + relative * |PyTorch's|: numpy.allclose.
struct Tolerance {
  double absolute = 0;
  double relative = 0;
  std::string text;
};

/// Something to normalize, and what PyTorch made of it.
struct DemoCase {
  std::string name;
  std::string title;
  std::string formula;
  IndexList shape = {};
  Index channel_axis = 0;
  std::vector<float> z = {};
  std::vector<float> pytorch = {};
  Options options = {};  // our convention
  std::string convention;
  Tolerance tolerance = {};
  bool shows_rows = false;  // few enough to print
};

/// The four cases: a fully connected layer and a convolution, each on random integers and on digits.
[[nodiscard]] std::vector<DemoCase> make_demo_cases();

}  // namespace exactnorm::cli
