// What synchronization costs, to be started by mpirun: bench/distributed.py does so, and makes tables of it.
//
//   messages   seconds of an all-reduce and of an all-gather, by bytes that a rank gives
//   layers     seconds of ResNet-50's normalizations, forward and backward, by a rank alone and with the others
//
// Each rank has one thread and the batch that is the first argument (default: 16). The first rank prints JSON. All
// answers are checked before they are timed.

#include <exactnorm/exactnorm.h>
#include <exactnorm/mpi.h>
#include <exactnorm/sums.h>
#include <fmt/core.h>
#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>
#include <stdexcept>
#include <vector>

namespace {

using exactnorm::Index;
using Json = nlohmann::ordered_json;

struct Layer {
  Index channels;
  Index size;   // height and width
  int repeats;  // of this shape in ResNet-50
};

// He et al. (2016), with the stride of a bottleneck in its 3x3 convolution.
const std::vector<Layer> resnet_layers = {{64, 112, 1}, {64, 56, 6},   {128, 56, 1}, {256, 56, 4},
                                          {128, 28, 7}, {256, 28, 1},  {512, 28, 5}, {256, 14, 11},
                                          {512, 14, 1}, {1024, 14, 7}, {512, 7, 5},  {2048, 7, 4}};

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// The median over rounds of the slowest rank's time; ranks start together.
double time_of(const std::function<void()>& work, int rounds) {
  std::vector<double> times;
  for (int round = -2; round < rounds; ++round) {
    MPI_Barrier(MPI_COMM_WORLD);
    const auto start = std::chrono::steady_clock::now();
    work();
    double seconds = seconds_since(start);
    MPI_Allreduce(MPI_IN_PLACE, &seconds, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    if (round >= 0) times.push_back(seconds);
  }
  std::nth_element(times.begin(), times.begin() + rounds / 2, times.end());
  return times[static_cast<std::size_t>(rounds / 2)];
}

Json messages(int ranks) {
  Json result = {{"all_reduce", Json::array()}, {"all_gather", Json::array()}};
  for (std::size_t numbers = 1; numbers <= std::size_t{1} << 17; numbers *= 4) {
    const int rounds = numbers < 10000 ? 200 : 50;
    std::vector<std::int64_t> give(numbers, 1);
    std::vector<std::int64_t> get(numbers * static_cast<std::size_t>(ranks));
    const auto count = static_cast<int>(numbers);
    const auto reduce = [&] { MPI_Allreduce(give.data(), get.data(), count, MPI_INT64_T, MPI_SUM, MPI_COMM_WORLD); };
    const auto gather = [&] {
      MPI_Allgather(give.data(), count, MPI_INT64_T, get.data(), count, MPI_INT64_T, MPI_COMM_WORLD);
    };
    reduce();
    if (get.front() != ranks || get[numbers - 1] != ranks) throw std::runtime_error("all-reduce is wrong");
    gather();
    if (get.front() != 1 || get.back() != 1) throw std::runtime_error("all-gather is wrong");
    result["all_reduce"].push_back({8 * numbers, time_of(reduce, rounds)});
    result["all_gather"].push_back({8 * numbers, time_of(gather, rounds)});
  }
  return result;
}

Json measure_layer(exactnorm::Communicator& ranks, const Layer& layer, Index batch) {
  const exactnorm::IndexList shape = {batch, layer.channels, layer.size, layer.size};
  const auto elements = static_cast<std::size_t>(batch * layer.channels * layer.size * layer.size);
  std::mt19937 engine(static_cast<unsigned>(ranks.rank()));
  std::normal_distribution<float> normal;
  std::vector<float> x(elements);
  std::vector<float> dy(elements);
  for (float& value : x) value = normal(engine);
  for (float& value : dy) value = normal(engine);
  std::vector<float> y(elements);
  std::vector<float> dx(elements);
  exactnorm::Options options;
  options.threads = 1;
  const auto view = [&](const std::vector<float>& values) { return exactnorm::view(values, shape); };
  const auto output = [&](std::vector<float>& values) { return exactnorm::mutable_view(values, shape); };

  exactnorm::SumExchange exchange(ranks, layer.channels);
  const auto alone = [&] {
    const exactnorm::Statistics statistics = exactnorm::training(view(x), output(y), {}, options);
    exactnorm::backward(view(dy), view(x), statistics, {}, {.dx = output(dx)}, options);
  };
  exactnorm::Statistics of_all;
  const auto together = [&] {
    of_all = exactnorm::synchronized_training(exchange, view(x), output(y), {}, options);
    exactnorm::synchronized_backward(exchange, view(dy), view(x), of_all, {}, {.dx = output(dx)}, options);
  };
  exactnorm::PartialSums sums(layer.channels);
  exactnorm::accumulate(sums, view(x), options);
  const auto message = [&] { static_cast<void>(exchange.sum(sums)); };

  together();
  exactnorm::PartialSums merged(layer.channels);
  for (int rank = 0; rank < ranks.size(); ++rank) {
    std::mt19937 other(static_cast<unsigned>(rank));
    std::normal_distribution<float> of_other;
    for (float& value : y) value = of_other(other);
    exactnorm::accumulate(merged, view(y), options);
  }
  if (exactnorm::statistics_of(merged, options).mean != of_all.mean) throw std::runtime_error("statistics are wrong");

  const int rounds = elements > 2000000 ? 7 : 21;
  return {{"channels", layer.channels},
          {"size", layer.size},
          {"repeats", layer.repeats},
          {"bytes", 8 * (17 + exactnorm::to_addends(sums, exactnorm::PartialSums::Range::single).size())},
          {"alone", time_of(alone, rounds)},
          {"together", time_of(together, rounds)},
          {"message", time_of(message, 51)}};
}

void run(Index batch) {
  const std::unique_ptr<exactnorm::Communicator> ranks = exactnorm::mpi::world();
  Json json = {{"ranks", ranks->size()}, {"mpi", exactnorm::mpi::version()},    {"target", exactnorm::active_target()},
               {"batch", batch},         {"messages", messages(ranks->size())}, {"layers", Json::array()}};
  for (const Layer& layer : resnet_layers) {
    if (batch > 0) json["layers"].push_back(measure_layer(*ranks, layer, batch));
  }
  if (ranks->rank() == 0) fmt::print("{}\n", json.dump());
}

}  // namespace

int main(int count, char** arguments) {
  const exactnorm::mpi::Environment environment;
  try {
    run(count > 1 ? std::atoi(arguments[1]) : 16);
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    exactnorm::mpi::abort_all(1);
  }
}
