// Memory that ends in the middle of an accumulation: sums are all of it or none of it. How much of it there has to be.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <limits>
#include <new>
#include <optional>
#include <vector>

#include "exactnorm/batch_norm.h"
#include "exactnorm/plan.h"
#include "exactnorm/sums.h"
#include "support/compare.h"
#include "support/random.h"
#include "support/tensor.h"

namespace {

// How many allocations of this test program are left, in all of its threads.
std::atomic<long> allocations_left = std::numeric_limits<long>::max();
// How much was allocated in all, and how much in whole cache lines, as each thread's scratch memory is.
std::atomic<std::size_t> bytes_allocated = 0;
std::atomic<std::size_t> aligned_bytes_allocated = 0;

}  // namespace

// All forms that end in one `operator delete` are replaced together, as AddressSanitizer wants them.
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  bytes_allocated += size;
  return allocations_left.fetch_sub(1) <= 0 ? nullptr : std::malloc(size > 0 ? size : 1);
}
void* operator new(std::size_t size) {
  if (void* memory = operator new(size, std::nothrow)) return memory;
  throw std::bad_alloc();
}
void* operator new(std::size_t size, std::align_val_t alignment) {
  aligned_bytes_allocated += size;
  if (allocations_left.fetch_sub(1) <= 0) throw std::bad_alloc();
  const auto unit = static_cast<std::size_t>(alignment);
  if (void* memory = std::aligned_alloc(unit, (size + unit - 1) / unit * unit)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }

namespace exactnorm::testing {
namespace {

// Lets the first, the second, ... allocation of `add` fail until none does; each time, sums are unchanged.
template <typename Add>
void expect_all_or_nothing(const PartialSums& start, const Add& add) {
  PartialSums expected = start;
  add(expected);
  int failures = 0;
  for (long allowed = 0;; ++allowed) {
    PartialSums sums = start;
    bool failed = false;
    allocations_left = allowed;
    try {
      add(sums);
    } catch (const std::bad_alloc&) {
      failed = true;
    }
    allocations_left = std::numeric_limits<long>::max();
    if (!failed) {
      EXPECT_TRUE(sums == expected);
      break;
    }
    ++failures;
    ASSERT_TRUE(sums == start) << "after " << allowed << " allocations";
    ASSERT_EQ(sums.range(), start.range());
  }
  EXPECT_GT(failures, 0);
}

TEST(OutOfMemory, LeavesSumsAsTheyWere) {
  Random random(871);
  for (const DType dtype : {DType::float32, DType::float64}) {
    // More channels than one group holds, and more elements than one piece: allocations come in both walks.
    for (const IndexList& shape : {IndexList{3, 700, 5}, IndexList{90000, 2}}) {
      Tensor x(dtype, shape);
      for (Index i = 0; i < x.count(); ++i) x.set(i, random.normal());
      const Index channels = shape[1];
      PartialSums moments(channels);
      PartialSums gradients(channels, PartialSums::Kind::gradients);
      for (const bool from_empty : {true, false}) {
        SCOPED_TRACE(from_empty);
        for (const int threads : {1, 3}) {
          const Options options{.threads = threads};
          expect_all_or_nothing(moments,
                                [&](PartialSums& sums) { accumulate(sums, std::as_const(x).view(), options); });
          expect_all_or_nothing(gradients, [&](PartialSums& sums) {
            accumulate(sums, std::as_const(x).view(), std::as_const(x).view(), options);
          });
        }
        Tensor small(DType::float32, {2, channels});
        small.fill(std::vector<double>(static_cast<std::size_t>(2 * channels), 1));
        accumulate(moments, std::as_const(small).view());
        accumulate(gradients, std::as_const(small).view(), std::as_const(small).view());
      }
    }
  }
}

// Sums are made for the parts that threads get, not for every thread and group of channels.
TEST(Memory, OfManyThreadsAndGroups) {
  const IndexList shape = {18, 120, 500};
  const std::vector<float> x(static_cast<std::size_t>(product(shape)), 1.5F);
  PartialSums sums(120);
  const std::size_t before = bytes_allocated;
  accumulate(sums, view(x, shape), {.threads = 64});
  EXPECT_LT(bytes_allocated - before, std::size_t{256} << 10);
}

// Plans that one thread runs, from the second run on.
TEST(Memory, OfPlans) {
  Random random(872);
  for (const IndexList& shape : {IndexList{32, 64}, IndexList{8, 33, 5, 5}, IndexList{700, 3}}) {
    const Index channels = shape[1];
    const auto normal = [&](Index count) {
      std::vector<float> values(static_cast<std::size_t>(count));
      for (float& value : values) value = static_cast<float>(random.normal());
      return values;
    };
    const std::vector<float> x = normal(product(shape));
    const std::vector<float> dy = normal(product(shape));
    const std::vector<float> gamma = normal(channels);
    std::vector<float> y(x.size());
    std::vector<float> dx(x.size());
    std::vector<float> dgamma(gamma.size());
    const Options options{.threads = 1};
    const std::optional<TensorView> gamma_view = view(gamma, {channels});
    const Gradients gradients = {mutable_view(dx, shape), mutable_view(dgamma, {channels}), std::nullopt};
    Statistics statistics = training(view(x, shape), mutable_view(y, shape), {}, options);
    const MutableStatisticsView columns = mutable_view(statistics);
    const TrainingPlan forward(view(x, shape), mutable_view(y, shape), {gamma_view, std::nullopt}, options);
    const InferencePlan inference(view(x, shape), mutable_view(y, shape), statistics, {}, options);
    const BackwardPlan backward(view(dy, shape), view(x, shape), {gamma_view}, gradients, options);
    const auto run = [&] {
      forward.run({x.data(), y.data(), gamma.data(), nullptr}, columns);
      inference.run(x.data(), y.data());
      backward.run({dy.data(), x.data(), gamma.data(), dx.data(), dgamma.data(), nullptr}, columns);
    };
    run();
    const std::size_t before = bytes_allocated + aligned_bytes_allocated;
    run();
    EXPECT_EQ(bytes_allocated + aligned_bytes_allocated - before, 0U) << to_string(shape);
  }
}

}  // namespace
}  // namespace exactnorm::testing
