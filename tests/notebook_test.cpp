// The rows that a teaching notebook on batch normalization prints.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <vector>

#include "exactnorm/batch_norm.h"

namespace exactnorm {
namespace {

constexpr std::array<double, 20> z_norm = {0.72112619,  0.99574911,  -1.57069825, -0.14617705, 1.32157857,
                                           0.13765206,  -1.4944045,  0.03517387,  0.72728205,  1.12665275,
                                           -1.41848407, -0.43545073, 0.68807939,  0.86385778,  -1.66367405,
                                           0.11173688,  0.6955258,   1.06144702,  -1.52890832, -0.2280645};
constexpr std::array<double, 20> pytorch = {0.7211,  0.9957, -1.5707, -0.1462, 1.3216,  0.1377, -1.4944,
                                            0.0352,  0.7273, 1.1267,  -1.4185, -0.4355, 0.6881, 0.8639,
                                            -1.6637, 0.1117, 0.6955,  1.0614,  -1.5289, -0.2281};

const Options as_in_notebook = {.channel_axes = {0}, .epsilon = 1e-8, .epsilon_placement = EpsilonPlacement::deviation};

// Rows of mean 0 and deviation 1 stay what they are, to the digits that were printed.
TEST(Notebook, NormalizedRowsStayWhatTheyAre) {
  std::array<double, 20> y{};
  const Statistics statistics = training(view(z_norm, {5, 4}), mutable_view(y, {5, 4}), {}, as_in_notebook);
  for (std::size_t row = 0; row < 5; ++row) {
    EXPECT_NEAR(statistics.mean[row], 0, 1e-8);
    EXPECT_NEAR(statistics.variance[row], 1, 1e-7);
  }
  for (std::size_t i = 0; i < y.size(); ++i) {
    EXPECT_NEAR(y[i], z_norm[i], 1e-7);
    EXPECT_EQ(std::round(y[i] * 1e4) / 1e4, pytorch[i]);
  }
}

// The notebook keeps examples last; the same rows under a scale and an offset of their own come back as well.
TEST(Notebook, ScaleAndOffsetOfTheInputAreTakenOut) {
  std::array<double, 20> x{};
  std::array<double, 20> y{};
  for (std::size_t i = 0; i < x.size(); ++i) {
    const auto row = static_cast<double>(i / 4);
    x[i] = z_norm[i] * (row + 0.5) * 100 + row * 1000 - 7;
  }
  (void)training(view(x, {5, 4}), mutable_view(y, {5, 4}), {}, as_in_notebook);
  for (std::size_t i = 0; i < y.size(); ++i) {
    EXPECT_NEAR(y[i], z_norm[i], 1e-7);
    EXPECT_EQ(std::round(y[i] * 1e4) / 1e4, pytorch[i]);
  }
}

}  // namespace
}  // namespace exactnorm
