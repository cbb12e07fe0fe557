// Planes of a few elements, which are summed by places first: the same bits as in a layout where that is not done.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "exactnorm/batch_norm.h"
#include "support/compare.h"
#include "support/random.h"
#include "support/tensor.h"
#include "traverse/loop_nest.h"
#include "traverse/partition.h"
#include "traverse/traversal.h"

namespace exactnorm::testing {
namespace {

struct Case {
  Index samples;
  Index channels;
  Index plane;
};

bool is_taken_by_places(const Case& c) {
  const Tensor x(DType::float32, {c.samples, c.channels, c.plane});
  const IndexList axes = {1};
  const std::array views = {x.view()};
  const LoopNest nest = make_loop_nest(views, axes, number_channels(axes, x.shape()));
  return Traversal(nest, Partition(nest, sizeof(float), 1, 1).whole_box(0), 1).slots().places > 1;
}

/// The elements of a (samples, channels, plane) tensor as (channels, samples * plane).
Tensor features_first(const Tensor& from, const Case& c) {
  Tensor to(from.view().dtype, {c.channels, c.samples * c.plane});
  for (Index i = 0; i < from.count(); ++i) {
    const IndexList at = unravel(i, from.shape());
    to.set(at[1] * c.samples * c.plane + at[0] * c.plane + at[2], from.get(i));
  }
  return to;
}

double element(Random& random, int kind) {
  if (kind == 1) return random.of_exponent(-60, 60);
  if (kind == 2 && random.chance(0.001)) return std::numeric_limits<double>::quiet_NaN();
  return random.chance(0.1) ? 0 : random.normal() * 3 + 7;
}

void check(Random& random, const Case& c, DType dtype, int kind) {
  Tensor x(dtype, {c.samples, c.channels, c.plane});
  Tensor dy(DType::float32, x.shape());
  for (Index i = 0; i < x.count(); ++i) {
    x.set(i, element(random, kind));
    dy.set(i, random.normal());
  }
  const Tensor other_x = features_first(x, c);
  const Tensor other_dy = features_first(dy, c);
  struct Results {
    Statistics statistics;
    Tensor y;
    Tensor dx;
    Tensor dgamma;
  };
  const auto run = [&](const Tensor& of_x, const Tensor& of_dy, Index channel_axis, int threads) {
    Options options;
    options.channel_axes = {channel_axis};
    options.threads = threads;
    Results r = {{},
                 Tensor(DType::float32, of_x.shape()),
                 Tensor(DType::float32, of_x.shape()),
                 Tensor(DType::float64, {c.channels})};
    r.statistics = training(of_x.view(), r.y.view(), {}, options);
    backward(of_dy.view(), of_x.view(), r.statistics, {}, {.dx = r.dx.view(), .dgamma = r.dgamma.view()}, options);
    return r;
  };
  const Results expected = run(other_x, other_dy, 0, 1);
  for (const int threads : {1, 2, 3}) {
    const Results found = run(x, dy, 1, threads);
    ASSERT_TRUE(same_bits(found.statistics, expected.statistics));
    ASSERT_TRUE(same_bits(found.dgamma.values(), expected.dgamma.values()));
    ASSERT_TRUE(same_bits(features_first(found.y, c).values(), expected.y.values()));
    ASSERT_TRUE(same_bits(features_first(found.dx, c).values(), expected.dx.values()));
  }
}

TEST(ShortRuns, HaveTheBitsOfLongOnes) {
  Random random(501);
  int taken = 0;
  for (const Case& c : {Case{8, 16, 2}, Case{9, 33, 3}, Case{300, 5, 15}, Case{64, 200, 4}, Case{17, 700, 9},
                        Case{7, 100, 4}, Case{500, 64, 2}, Case{2000, 3, 12}}) {
    taken += is_taken_by_places(c) ? 1 : 0;
    for (const DType dtype : {DType::float32, DType::float64, DType::int8}) {
      for (const int kind : {0, 1, 2}) {
        if (dtype == DType::int8 && kind != 0) continue;
        SCOPED_TRACE(::testing::Message() << c.samples << " " << c.channels << " " << c.plane << " dtype "
                                          << static_cast<int>(dtype) << " kind " << kind);
        check(random, c, dtype, kind);
        if (HasFatalFailure()) return;
      }
    }
  }
  EXPECT_EQ(taken, 7);
}

}  // namespace
}  // namespace exactnorm::testing
