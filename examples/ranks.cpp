// Synchronized batch normalization over MPI: each process holds some samples of one batch, the last one none.
// Run it as `mpirun -n 4 exactnorm_ranks`; whatever the number of processes, it prints the same.

#include <exactnorm/exactnorm.h>
#include <exactnorm/mpi.h>

#include <cstdio>
#include <exception>
#include <vector>

namespace {

constexpr exactnorm::Index samples = 10;
constexpr exactnorm::Index channels = 3;

void train(exactnorm::Communicator& ranks) {
  // Shares of the samples for all ranks but the last, or all of them for a rank alone.
  const exactnorm::Index sharers = ranks.size() > 1 ? ranks.size() - 1 : 1;
  const exactnorm::Index first = ranks.rank() < sharers ? ranks.rank() * samples / sharers : samples;
  const exactnorm::Index last = ranks.rank() < sharers ? (ranks.rank() + 1) * samples / sharers : samples;
  const exactnorm::IndexList shape = {last - first, channels};
  std::vector<float> x;
  std::vector<float> dy;
  for (exactnorm::Index i = first * channels; i < last * channels; ++i) {
    x.push_back(static_cast<float>(i * i % 17));
    dy.push_back(static_cast<float>(i % 5) / 10);
  }

  exactnorm::SumExchange exchange(ranks, channels);  // once per layer
  exactnorm::RunningStatistics running(channels);
  std::vector<float> y(x.size());
  std::vector<float> dx(x.size());
  std::vector<double> dgamma(channels);
  for (int step = 0; step < 3; ++step) {
    const exactnorm::Statistics statistics =
        exactnorm::synchronized_training(exchange, exactnorm::view(x, shape), exactnorm::mutable_view(y, shape));
    running.update(statistics);
    exactnorm::synchronized_backward(
        exchange, exactnorm::view(dy, shape), exactnorm::view(x, shape), statistics, {},
        {.dx = exactnorm::mutable_view(dx, shape), .dgamma = exactnorm::mutable_view(dgamma, {channels})});
  }
  if (ranks.rank() != 0) return;
  std::printf("running mean %a, variance %a; dgamma %a; dx[0] %a\n", running.mean[0], running.variance[0], dgamma[0],
              static_cast<double>(dx[0]));
}

}  // namespace

int main() {
  try {
    const exactnorm::mpi::Environment environment;
    train(*exactnorm::mpi::world());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
