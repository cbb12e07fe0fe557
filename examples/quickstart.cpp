// Batch normalization of a small (N, C, H, W) tensor: training, backward, inference. Prints what it finds.

#include <exactnorm/exactnorm.h>

#include <cstdio>
#include <vector>

int main() {
  const exactnorm::IndexList shape = {8, 3, 4, 4};  // N, C, H, W
  std::vector<float> x(8 * 3 * 4 * 4);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = 1e6F + static_cast<float>(i * i % 101);

  // Training: y from x's own statistics, which are returned.
  std::vector<float> y(x.size());
  const std::vector<float> gamma = {1.5F, -2.0F, 0.5F};
  const std::vector<float> beta = {0.0F, 1.0F, -1.0F};
  const exactnorm::Affine affine = {exactnorm::view(gamma, {3}), exactnorm::view(beta, {3})};
  const exactnorm::Statistics statistics =
      exactnorm::training(exactnorm::view(x, shape), exactnorm::mutable_view(y, shape), affine);
  std::printf("channel 0: mean %.6f, variance %.6f, y[0] %.6f\n", statistics.mean[0], statistics.variance[0],
              static_cast<double>(y[0]));

  // Backward: here for dy = y.
  std::vector<float> dx(x.size());
  std::vector<double> dgamma(3);
  exactnorm::backward(exactnorm::view(y, shape), exactnorm::view(x, shape), statistics, affine,
                      {.dx = exactnorm::mutable_view(dx, shape), .dgamma = exactnorm::mutable_view(dgamma, {3})});
  std::printf("dgamma: %.6f %.6f %.6f\n", dgamma[0], dgamma[1], dgamma[2]);

  // Inference, by running statistics, on the same memory seen as (H, W, C, N), in place.
  exactnorm::RunningStatistics running(3);
  running.update(statistics);
  const exactnorm::MutableTensorView other = exactnorm::permute(exactnorm::mutable_view(x, shape), {2, 3, 1, 0});
  const exactnorm::Options channels_third = {.channel_axes = {2}};
  exactnorm::inference(other, running.statistics(channels_third), other, affine, channels_third);
  std::printf("inference: x[0] becomes %.6f\n", static_cast<double>(x[0]));
}
