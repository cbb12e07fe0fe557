// Ranks of MPI. The program is started by mpirun, and each rank runs all tests.
#include "exactnorm/mpi.h"

#include <gtest/gtest.h>
#include <mpi.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "exactnorm/distributed.h"
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

// Memory that is taken when a call has been left: where the call's own was freed, MPI writes into it.
class TakenMemory {
 public:
  explicit TakenMemory(std::size_t size) : vectors_(200, std::vector<std::int64_t>(size, 7)) {}
  [[nodiscard]] bool is_untouched() const {
    return vectors_ == std::vector(vectors_.size(), std::vector<std::int64_t>(vectors_[0].size(), 7));
  }

 private:
  std::vector<std::vector<std::int64_t>> vectors_;
};

// The first rank leaves when the others have not come yet. These wait for the second half in vain, and leave later.
TEST(Mpi, AGatherCanBeLeft) {
  if (world().size() == 1) GTEST_SKIP() << "one rank waits for nobody";
  struct Enough {};
  const bool is_first = world().rank() == 0;
  const auto start = std::chrono::steady_clock::now();
  const auto patience = std::chrono::milliseconds(is_first ? 0 : 200);
  const std::unique_ptr<Communicator> ranks = mpi::world([&] {
    if (std::chrono::steady_clock::now() - start >= patience) throw Enough();
  });
  if (!is_first) std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_THROW((void)ranks->gather("text"), Enough);
  const TakenMemory taken(static_cast<std::size_t>(world().size()));
  // MPI advances.
  (void)world().gather("");
  EXPECT_TRUE(taken.is_untouched());
  if (is_first) {
    const std::string error =
        "communicator: was left by an exception while it gathered, so that its ranks are at different calls; expected "
        "another one";
    EXPECT_EQ(error_of([&] { (void)ranks->gather("text"); }), error);
    EXPECT_EQ(error_of([&] { (void)ranks->start_sum({1}); }), error);
  }
}

// A sum that the first rank has given up before the others started it, and whose communicator is gone.
TEST(Mpi, ASumCanBeGivenUp) {
  const bool is_first = world().rank() == 0;
  constexpr std::size_t size = 500;
  {
    const std::unique_ptr<Communicator> ranks = mpi::world();
    (void)world().gather("");
    if (!is_first) std::this_thread::sleep_for(std::chrono::milliseconds(30));
    const std::unique_ptr<PendingSum> sum = ranks->start_sum(std::vector<std::int64_t>(size, 1));
    if (!is_first) {
      EXPECT_EQ(sum->wait(), std::vector<std::int64_t>(size, world().size()));
    }
  }
  const TakenMemory taken(size);
  (void)world().gather("");
  EXPECT_TRUE(taken.is_untouched());
}

TEST(Mpi, RefusesCommunicatorsWithoutOneGroupOfRanks) {
  EXPECT_EQ(error_of([] { (void)mpi::communicator_of(MPI_Comm_c2f(MPI_COMM_NULL)); }),
            "communicator: is MPI_COMM_NULL; expected one with ranks");
  if (world().size() == 1) return;
  const int rank = world().rank();
  MPI_Comm half = MPI_COMM_NULL;
  MPI_Comm_split(MPI_COMM_WORLD, rank == 0 ? 0 : 1, rank, &half);
  MPI_Comm both = MPI_COMM_NULL;
  MPI_Intercomm_create(half, 0, MPI_COMM_WORLD, rank == 0 ? 1 : 0, 0, &both);
  EXPECT_EQ(error_of([&] { (void)mpi::communicator_of(MPI_Comm_c2f(both)); }),
            "communicator: is an intercommunicator; expected one whose ranks are a single group");
  MPI_Comm_free(&both);
  MPI_Comm_free(&half);
}

TEST(Mpi, HasAVersion) { EXPECT_NE(mpi::version(), ""); }

}  // namespace
}  // namespace exactnorm::testing

int main(int count, char** arguments) {
  ::testing::InitGoogleTest(&count, arguments);
  const exactnorm::mpi::Environment environment;
  return RUN_ALL_TESTS();
}
