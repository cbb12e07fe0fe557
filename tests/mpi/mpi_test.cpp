// Ranks of MPI. The program is started by mpirun, and each rank runs all tests.
#include "exactnorm/mpi.h"

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "exactnorm/synchronized.h"
#include "support/compare.h"
#include "support/random.h"
#include "support/ranked_batch.h"

namespace exactnorm::testing {
namespace {

Communicator& world() {
  static const std::unique_ptr<Communicator> communicator = mpi::world();
  return *communicator;
}

TEST(Mpi, GivesTheBitsOfOneProcess) {
  Random random(701);
  for (int i = 0; i < 50; ++i) {
    const Case which = random_case(random, world().size());
    const Options options = random_options(random);
    const Whole whole = compute(random, which, options);
    check_rank(world(), which, options, whole, random.bits());
  }
}

TEST(Mpi, GathersStringsOfAnyLength) {
  const int rank = world().rank();
  const std::vector<std::string> texts = world().gather(std::string(static_cast<std::size_t>(rank * 1000), '\0') + "x");
  ASSERT_EQ(texts.size(), static_cast<std::size_t>(world().size()));
  for (std::size_t i = 0; i < texts.size(); ++i) {
    EXPECT_EQ(texts[i].size(), i * 1000 + 1);
    EXPECT_EQ(texts[i].back(), 'x');
  }
  EXPECT_EQ(world().gather("").back(), "");
}

// Two exchanges under way at a time, finished in the other order, the last rank being late.
TEST(Mpi, SumsWhileOtherWorkIsDone) {
  SumExchange first(world(), 1);
  SumExchange second(world(), {{2}, {1, PartialSums::Range::extended}});
  const std::vector<float> ones(3, 1);
  PartialSums one(1);
  PartialSums two(2);
  accumulate(one, view(ones, {3, 1}));
  accumulate(two, TensorView{ones.data(), DType::float32, {1, 2}, {2, 1}});
  if (world().rank() + 1 == world().size()) std::this_thread::sleep_for(std::chrono::milliseconds(50));
  first.start(std::vector<PartialSums>{one});
  second.start(std::vector<PartialSums>{two, one});
  const std::vector<PartialSums> of_second = second.finish();
  while (!first.is_done()) std::this_thread::yield();
  EXPECT_EQ(first.finish().front().count(), 3 * world().size());
  EXPECT_EQ(of_second[0].count(), world().size());
  EXPECT_EQ(of_second[1].count(), 3 * world().size());
  EXPECT_EQ(statistics_of(of_second[1]).mean[0], 1);
}

TEST(Mpi, AnErrorOnTheLastRankIsTheErrorOfAll) {
  const int last = world().size() - 1;
  SumExchange exchange(world(), 2);
  const std::vector<float> values(6, 1);
  std::vector<float> out(6);
  const IndexList shape = world().rank() == last ? IndexList{2, 3} : IndexList{3, 2};
  const std::string place = last == 0 ? "" : " on rank " + std::to_string(last);
  EXPECT_EQ(error_of([&] { synchronized_training(exchange, view(values, shape), mutable_view(out, shape)); }),
            "x" + place + ": has 3 channels; expected 2, as in the exchange");
  EXPECT_EQ(out, std::vector<float>(6));
}

// What interrupts a rank that waits: an exception from while_waiting. The message is given up, which MPI survives.
TEST(Mpi, AWaitCanBeLeft) {
  if (world().size() == 1) GTEST_SKIP() << "one rank waits for nobody";
  struct Enough {};
  bool impatient = world().rank() == 0;
  {
    const std::unique_ptr<Communicator> ranks = mpi::world([&] {
      if (impatient) throw Enough();
    });
    const auto late = [&] {
      if (world().rank() != 0) std::this_thread::sleep_for(std::chrono::milliseconds(30));
      return ranks->start_sum({1})->wait().front();
    };
    if (world().rank() == 0) {
      EXPECT_THROW((void)late(), Enough);
    } else {
      EXPECT_EQ(late(), world().size());
    }
    impatient = false;
    EXPECT_EQ(ranks->gather("after").size(), static_cast<std::size_t>(world().size()));
  }
}

TEST(Mpi, HasAVersion) { EXPECT_NE(mpi::version(), ""); }

}  // namespace
}  // namespace exactnorm::testing

int main(int count, char** arguments) {
  ::testing::InitGoogleTest(&count, arguments);
  const exactnorm::mpi::Environment environment;
  return RUN_ALL_TESTS();
}
