// Tasks on threads, and the small types that they come with.
#include "traverse/parallel.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "traverse/cache_size.h"
#include "traverse/function_view.h"
#include "traverse/short_list.h"

namespace exactnorm::testing {
namespace {

constexpr Order orders[] = {Order::forwards, Order::backwards};

TEST(ParallelFor, RunsEachTaskOnce) {
  std::vector<Index> counts = {10000};
  for (Index count = 0; count <= 50; ++count) counts.push_back(count);
  for (const Index count : counts) {
    for (int threads = 1; threads <= 9; ++threads) {
      for (const Order order : orders) {
        std::vector<std::atomic<int>> times(static_cast<std::size_t>(count));
        std::atomic<int> strangers = 0;
        parallel_for(count, threads, order, [&](Index task, int thread) {
          if (task < 0 || task >= count || thread < 0 || thread >= threads) {
            ++strangers;
          } else {
            ++times[static_cast<std::size_t>(task)];
          }
        });
        ASSERT_EQ(strangers, 0) << count << " tasks on " << threads;
        for (const std::atomic<int>& of_task : times) ASSERT_EQ(of_task, 1) << count << " tasks on " << threads;
      }
    }
  }
}

TEST(ParallelFor, KeepsTheOrderOnOneThread) {
  for (const Index count : {1, 2, 7, 50}) {
    for (const Order order : orders) {
      std::vector<Index> seen;
      std::vector<Index> expected;
      for (Index i = 0; i < count; ++i) expected.push_back(order == Order::forwards ? i : count - 1 - i);
      const std::thread::id here = std::this_thread::get_id();
      parallel_for(count, 1, order, [&](Index task, int thread) {
        EXPECT_EQ(thread, 0);
        EXPECT_EQ(std::this_thread::get_id(), here);
        seen.push_back(task);
      });
      EXPECT_EQ(seen, expected);
    }
  }
}

// Each thread's own tasks come in order, wherever they are taken over.
TEST(ParallelFor, StartsEachThreadAtAnEndOfItsStretch) {
  constexpr Index count = 40;
  for (const Order order : orders) {
    std::vector<std::vector<Index>> seen(2);
    std::atomic<int> started = 0;
    std::atomic<bool> in_time = true;
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    parallel_for(count, 2, order, [&](Index task, int thread) {
      std::vector<Index>& own = seen[static_cast<std::size_t>(thread)];
      // Neither thread goes on before both have a first task.
      if (own.empty()) ++started;
      own.push_back(task);
      while (started < 2 && in_time) {
        if (std::chrono::steady_clock::now() > deadline) in_time = false;
        std::this_thread::yield();
      }
    });
    ASSERT_TRUE(in_time);
    EXPECT_EQ(seen[0].front(), order == Order::forwards ? 0 : count / 2 - 1);
    EXPECT_EQ(seen[1].front(), order == Order::forwards ? count / 2 : count - 1);
    EXPECT_EQ(seen[0].size() + seen[1].size(), static_cast<std::size_t>(count));
  }
}

// A task that ends only after all others: without the other thread's help there would be no end.
TEST(ParallelFor, TakesOverTheTasksOfAThreadThatIsStuck) {
  constexpr Index count = 20;
  for (const Order order : orders) {
    for (Index slow = 0; slow < count; ++slow) {
      std::atomic<Index> done = 0;
      std::atomic<bool> in_time = true;
      const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
      parallel_for(count, 2, order, [&](Index task, int) {
        while (task == slow && done < count - 1 && in_time) {
          if (std::chrono::steady_clock::now() > deadline) in_time = false;
          std::this_thread::yield();
        }
        ++done;
      });
      ASSERT_TRUE(in_time) << "task " << slow;
      ASSERT_EQ(done, count);
    }
  }
}

TEST(ParallelFor, RethrowsAfterAllHaveEnded) {
  constexpr Index count = 30;
  for (int threads = 1; threads <= 4; ++threads) {
    for (const Order order : orders) {
      for (const Index bad : {Index{0}, Index{11}, count - 1}) {
        std::atomic<int> running = 0;
        std::atomic<Index> ended = 0;
        std::string message;
        try {
          parallel_for(count, threads, order, [&](Index task, int) {
            ++running;
            if (task == bad) {
              --running;
              throw std::runtime_error("task " + std::to_string(task));
            }
            std::this_thread::sleep_for(std::chrono::microseconds(100));
            --running;
            ++ended;
          });
        } catch (const std::runtime_error& error) {
          message = error.what();
        }
        EXPECT_EQ(message, "task " + std::to_string(bad));
        EXPECT_EQ(running, 0);
        EXPECT_TRUE(threads == 1 || ended == count - 1) << ended;
      }
    }
  }
}

TEST(ParallelFor, RethrowsOneOfSeveralExceptions) {
  int caught = 0;
  try {
    parallel_for(50, 3, Order::forwards, [](Index task, int) { throw task; });
  } catch (Index task) {
    ++caught;
    EXPECT_GE(task, 0);
    EXPECT_LT(task, 50);
  }
  EXPECT_EQ(caught, 1);
}

TEST(Threads, AreResolved) {
  EXPECT_EQ(resolve_threads(3), 3);
  EXPECT_GE(resolve_threads(0), 1);
  // More than any machine could start.
  EXPECT_LE(resolve_threads(2000000000), 65536);
}

TEST(CacheSize, IsThatOfACache) {
  EXPECT_GE(last_level_cache_size(), Index{32} << 10);
  EXPECT_LE(last_level_cache_size(), Index{1} << 36);
  EXPECT_EQ(last_level_cache_size(), last_level_cache_size());
}

TEST(ShortList, HoldsUpToMaximumRankValues) {
  ShortList<Index> list;
  EXPECT_TRUE(list.empty());
  EXPECT_EQ(list.begin(), list.end());
  for (std::size_t i = 0; i < maximum_rank; ++i) {
    list.push_back(static_cast<Index>(10 * i));
    EXPECT_EQ(list.size(), i + 1);
    EXPECT_EQ(list.back(), static_cast<Index>(10 * i));
  }
  EXPECT_FALSE(list.empty());
  list.back() = -1;
  list[0] = 7;
  const ShortList<Index> copy = list;
  std::vector<Index> expected = {7};
  for (std::size_t i = 1; i + 1 < maximum_rank; ++i) expected.push_back(static_cast<Index>(10 * i));
  expected.push_back(-1);
  EXPECT_EQ(std::vector<Index>(copy.begin(), copy.end()), expected);
  EXPECT_EQ(copy[1], 10);
  EXPECT_EQ(copy.back(), -1);
  const ShortList<Index> zeros(3);
  EXPECT_EQ(std::vector<Index>(zeros.begin(), zeros.end()), std::vector<Index>(3));
}

int call(FunctionView<int(int)> function, int argument) { return function(argument); }

TEST(FunctionView, CallsWhatItStandsFor) {
  int calls = 0;
  const auto twice = [&](int value) {
    ++calls;
    return 2 * value;
  };
  EXPECT_EQ(call(twice, 21), 42);
  EXPECT_EQ(call([](int value) { return -value; }, 3), -3);
  // A copy stands for the same function, which it does not copy.
  const FunctionView<int(int)> view = twice;
  const FunctionView<int(int)> same = view;
  EXPECT_EQ(call(view, 1) + same(2), 6);
  EXPECT_EQ(calls, 3);
}

TEST(FunctionView, PassesArgumentsOn) {
  const auto take = [](std::unique_ptr<int> owned, int& counter) { counter += *owned; };
  const FunctionView<void(std::unique_ptr<int>, int&)> view = take;
  int counter = 1;
  view(std::make_unique<int>(4), counter);
  EXPECT_EQ(counter, 5);
}

}  // namespace
}  // namespace exactnorm::testing
