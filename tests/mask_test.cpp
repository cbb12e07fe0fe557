// Masks: every result against that of a tensor that holds the selected elements alone, bit for bit.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "exactnorm/exactnorm.h"
#include "support/blocks.h"
#include "support/compare.h"
#include "support/random.h"
#include "support/tensor.h"

namespace exactnorm::testing {
namespace {

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
constexpr double sentinel = 1232;  // every type holds it

struct Case {
  IndexList shape;
  IndexList axes;  // from 0
  DType x = DType::float32;
  DType dy = DType::float32;  // and y
  Options options;
  double density = 0.5;
  bool strided = false;
};

// A mask of some shape that fits, and which elements of x it selects.
class RandomMask {
 public:
  RandomMask(const Case& c, Random& random) : tensor_(DType::boolean, {}) {
    const bool has_all_axes = random.chance(0.5);
    IndexList shape;
    IndexList kept;  // the axis of the mask that each axis of x has, -1 for none
    for (std::size_t axis = 0; axis < c.shape.size(); ++axis) {
      const bool is_channel = std::find(c.axes.begin(), c.axes.end(), static_cast<Index>(axis)) != c.axes.end();
      if (is_channel && !has_all_axes) {
        kept.push_back(-1);
        continue;
      }
      kept.push_back(static_cast<Index>(shape.size()));
      shape.push_back(is_channel || random.chance(0.15) ? 1 : c.shape[axis]);
    }
    tensor_ = c.strided ? Tensor::strided(DType::boolean, shape, random_strides(random, shape))
                        : Tensor(DType::boolean, shape);
    for (Index i = 0; i < tensor_.count(); ++i) tensor_.set(i, random.chance(c.density) ? 1 : 0);
    for (Index i = 0; i < product(c.shape); ++i) {
      const IndexList at = unravel(i, c.shape);
      Index position = 0;
      for (std::size_t axis = 0; axis < c.shape.size(); ++axis) {
        if (kept[axis] < 0) continue;
        const Index size = shape[static_cast<std::size_t>(kept[axis])];
        position = position * size + (size == 1 ? 0 : at[axis]);
      }
      selected_.push_back(tensor_.get(position) != 0);
    }
  }

  [[nodiscard]] Mask mask(MaskedOutput masked = MaskedOutput::zero) const { return Mask(tensor_.view(), masked); }
  [[nodiscard]] bool selects(Index position) const { return selected_[static_cast<std::size_t>(position)]; }
  [[nodiscard]] const Tensor& tensor() const { return tensor_; }

 private:
  Tensor tensor_;
  std::vector<bool> selected_;
};

class Masks : public ::testing::Test {
 protected:
  void TearDown() override { set_target(""); }

  static Tensor make(const Case& c, DType dtype, Random& random) {
    return c.strided ? Tensor::strided(dtype, c.shape, random_strides(random, c.shape)) : Tensor(dtype, c.shape);
  }

  // The selected elements of each channel, as (elements, channels).
  static Tensor compact(const Tensor& from, DType dtype, const Case& c, const RandomMask& mask) {
    Index channels = 1;
    for (const Index axis : c.axes) channels *= c.shape[static_cast<std::size_t>(axis)];
    std::vector<std::vector<double>> columns(static_cast<std::size_t>(channels));
    for (Index i = 0; i < from.count(); ++i) {
      if (mask.selects(i))
        columns[static_cast<std::size_t>(channel_of_element(i, c.shape, c.axes))].push_back(from.get(i));
    }
    const auto rows = static_cast<Index>(columns.front().size());
    Tensor result(dtype, {rows, channels});
    for (Index row = 0; row < rows; ++row) {
      for (Index channel = 0; channel < channels; ++channel) {
        result.set(row * channels + channel, columns[static_cast<std::size_t>(channel)][static_cast<std::size_t>(row)]);
      }
    }
    return result;
  }

  // Whether `found` has `expected` of compact elements where the mask selects, in the same order, and other(i)
  // elsewhere.
  template <typename Other>
  static void expect(const Tensor& found, const Tensor& expected, const Case& c, const RandomMask& mask,
                     const Other& other) {
    const Tensor of_selected = compact(found, found.view().dtype, c, mask);
    EXPECT_TRUE(same_numbers(of_selected.values(), expected.values()));
    for (Index i = 0; i < found.count(); ++i) {
      if (mask.selects(i)) continue;
      const double right = other(i);
      if (!same_numbers({found.get(i)}, {right})) {
        ADD_FAILURE() << "masked element " << i << " is " << found.get(i) << "; expected " << right;
        return;
      }
    }
    EXPECT_TRUE(found.guards_intact());
  }

  static void check(const Case& c, std::uint64_t seed) {
    Random random(seed);
    const RandomMask mask(c, random);
    Tensor x = make(c, c.x, random);
    Tensor dy = make(c, c.dy, random);
    Tensor residual = make(c, c.dy, random);
    for (Index i = 0; i < x.count(); ++i) {
      const bool is_selected = mask.selects(i);
      // What is masked may be anything.
      x.set(i, is_selected || !(c.x <= DType::float16) ? static_cast<double>(random.between(0, 100)) / 8 + random.unit()
                                                       : not_a_number);
      dy.set(i, is_selected ? random.normal() : random.chance(0.5) ? not_a_number : HUGE_VAL);
      residual.set(i, is_selected ? random.normal() : not_a_number);
    }
    Index channels = 1;
    for (const Index axis : c.axes) channels *= c.shape[static_cast<std::size_t>(axis)];
    std::vector<double> parameters;
    for (Index i = 0; i < channels; ++i) parameters.push_back(static_cast<float>(random.uniform(-3, 3)));
    const Tensor gamma(DType::float32, {channels}, parameters);
    const Tensor beta(DType::float32, {channels}, {parameters.rbegin(), parameters.rend()});
    const bool has_residual = random.chance(0.5);
    Affine affine = {gamma.view(), beta.view()};
    if (has_residual) affine.residual = std::as_const(residual).view();

    const Tensor compact_x = compact(x, c.x, c, mask);
    const Tensor compact_residual = compact(residual, c.dy, c, mask);
    const Tensor compact_dy = compact(dy, c.dy, c, mask);
    Affine of_compact = {gamma.view(), beta.view()};
    if (has_residual) of_compact.residual = compact_residual.view();
    Options compact_options = c.options;
    compact_options.channel_axes = {1};
    Tensor compact_y(c.dy, compact_x.shape());
    const Statistics expected = training(compact_x.view(), compact_y.view(), of_compact, compact_options);

    // Forward.
    Tensor all_y = make(c, c.dy, random);
    if (expected.count > 0) inference(std::as_const(x).view(), expected, all_y.view(), affine, c.options);
    for (const MaskedOutput masked : {MaskedOutput::zero, MaskedOutput::normalized, MaskedOutput::untouched}) {
      SCOPED_TRACE("masked output " + std::to_string(static_cast<int>(masked)));
      affine.mask = mask.mask(masked);
      const auto outside = [&](Index i) {
        if (masked == MaskedOutput::normalized) return expected.count > 0 ? all_y.get(i) : not_a_number;
        return masked == MaskedOutput::zero ? 0.0 : sentinel;
      };
      Tensor y = make(c, c.dy, random);
      y.fill(std::vector<double>(static_cast<std::size_t>(y.count()), sentinel));
      const Statistics found = training(std::as_const(x).view(), y.view(), affine, c.options);
      EXPECT_EQ(found.count, expected.count);
      EXPECT_TRUE(same_numbers(found.mean, expected.mean));
      EXPECT_TRUE(same_numbers(found.mean_residual, expected.mean_residual));
      EXPECT_TRUE(same_numbers(found.variance, expected.variance));
      EXPECT_TRUE(same_numbers(found.inverse_deviation, expected.inverse_deviation));
      expect(y, compact_y, c, mask, outside);
      if (expected.count == 0) continue;
      Tensor inferred = make(c, c.dy, random);
      inferred.fill(std::vector<double>(static_cast<std::size_t>(y.count()), sentinel));
      inference(std::as_const(x).view(), expected, inferred.view(), affine, c.options);
      expect(inferred, compact_y, c, mask, outside);
      if (c.x == c.dy) {  // in place
        Tensor over = x;
        static_cast<void>(training(std::as_const(over).view(), over.view(), affine, c.options));
        expect(over, compact_y, c, mask,
               [&](Index i) { return masked == MaskedOutput::untouched ? x.get(i) : outside(i); });
      }
    }

    // Sums.
    PartialSums sums(channels);
    accumulate(sums, std::as_const(x).view(), mask.mask(), c.options);
    PartialSums compact_sums(channels);
    accumulate(compact_sums, compact_x.view(), compact_options);
    EXPECT_TRUE(sums == compact_sums);
    IndexList start = c.shape;
    std::fill(start.begin(), start.end(), 0);
    ValueRanges ranges(channels);
    accumulate(ranges, std::as_const(x).view(), {c.shape, start}, mask.mask(), c.options);
    ValueRanges compact_ranges(channels);
    accumulate(compact_ranges, compact_x.view(), compact_options);
    EXPECT_EQ(ranges.minimum, compact_ranges.minimum);
    EXPECT_EQ(ranges.maximum, compact_ranges.maximum);
    if (expected.count == 0) return;

    // Backward, where what is masked has no part.
    for (const bool frozen : {false, true}) {
      SCOPED_TRACE(frozen ? "frozen" : "training");
      const auto run = frozen ? backward_frozen : backward;
      Tensor right_dx(c.dy, compact_x.shape());
      Tensor right_d_residual(c.dy, compact_x.shape());
      Tensor right_dgamma(DType::float64, {channels});
      Tensor right_dbeta(DType::float64, {channels});
      Gradients right = {right_dx.view(), right_dgamma.view(), right_dbeta.view()};
      if (has_residual) right.d_residual = right_d_residual.view();
      run(compact_dy.view(), compact_x.view(), expected, of_compact, right, compact_options);
      for (const MaskedOutput masked : {MaskedOutput::zero, MaskedOutput::untouched}) {
        affine.mask = mask.mask(masked);
        const auto outside = [&](Index) { return masked == MaskedOutput::zero ? 0.0 : sentinel; };
        for (const bool writes_residual : {false, true}) {
          if (writes_residual && !has_residual) continue;
          Tensor dx = make(c, c.dy, random);
          Tensor d_residual = make(c, c.dy, random);
          for (Tensor* output : {&dx, &d_residual}) {
            output->fill(std::vector<double>(static_cast<std::size_t>(dx.count()), sentinel));
          }
          Tensor dgamma(DType::float64, {channels});
          Tensor dbeta(DType::float64, {channels});
          Gradients gradients = {dx.view(), dgamma.view(), dbeta.view()};
          if (writes_residual) gradients.d_residual = d_residual.view();
          run(std::as_const(dy).view(), std::as_const(x).view(), expected, affine, gradients, c.options);
          EXPECT_TRUE(same_numbers(dgamma.values(), right_dgamma.values()));
          EXPECT_TRUE(same_numbers(dbeta.values(), right_dbeta.values()));
          expect(dx, right_dx, c, mask, outside);
          if (writes_residual) expect(d_residual, right_d_residual, c, mask, outside);
        }
        if (frozen) continue;
        PartialSums gradient_sums(channels, PartialSums::Kind::gradients);
        accumulate_gradients(gradient_sums, std::as_const(dy).view(), std::as_const(x).view(), expected, affine,
                             c.options);
        Tensor dx = make(c, c.dy, random);
        dx.fill(std::vector<double>(static_cast<std::size_t>(dx.count()), sentinel));
        backward_from_sums(std::as_const(dy).view(), std::as_const(x).view(), expected, gradient_sums, affine,
                           {.dx = dx.view()}, c.options);
        expect(dx, right_dx, c, mask, outside);
      }
    }
  }
};

std::string describe(const Case& c, std::uint64_t seed) {
  return "shape " + to_string(c.shape) + ", channel axes " + to_string(c.axes) + ", x " + std::string(name_of(c.x)) +
         ", dy " + std::string(name_of(c.dy)) + ", activation " +
         std::to_string(static_cast<int>(c.options.activation)) + ", density " + std::to_string(c.density) +
         (c.strided ? ", strided" : "") + ", threads " + std::to_string(c.options.threads) + ", seed " +
         std::to_string(seed);
}

Case random_case(Random& random) {
  Case c;
  const Index rank = random.between(1, 5);
  for (Index axis = 0; axis < rank; ++axis) {
    c.shape.push_back(random.chance(0.15) ? 1 : random.between(2, random.chance(0.3) ? 40 : 7));
    if (random.chance(0.4)) c.axes.push_back(axis);
  }
  random.shuffle(c.axes);
  constexpr std::array types = {DType::float32, DType::float64, DType::bfloat16, DType::float16, DType::int16};
  c.x = types[static_cast<std::size_t>(random.between(0, 4))];
  c.dy = types[static_cast<std::size_t>(random.between(0, 3))];
  // A residual has to fit the arithmetic.
  c.options.channel_axes = c.axes;
  c.options.threads = static_cast<int>(random.between(1, 3));
  c.options.activation = static_cast<Activation>(random.chance(0.5) ? 0 : random.between(1, 5));
  c.density = random.chance(0.2) ? (random.chance(0.5) ? 0.02 : 1.0) : random.unit();
  c.strided = random.chance(0.5);
  return c;
}

TEST_F(Masks, GiveTheBitsOfTheSelectedElementsAlone) {
  Random random(11);
  for (std::uint64_t seed = 1; seed <= 150; ++seed) {
    const Case c = random_case(random);
    SCOPED_TRACE(describe(c, seed));
    check(c, seed);
    if (HasFailure()) return;
  }
}

// Each kind of traversal, on every target.
TEST_F(Masks, OfUsualLayouts) {
  const std::array<std::pair<IndexList, IndexList>, 9> layouts = {{{{3, 5, 19, 17}, {1}},
                                                                   {{40, 33, 2, 3}, {1}},
                                                                   {{40, 33, 5, 5}, {1}},
                                                                   {{3, 6, 7, 40}, {3}},
                                                                   {{5, 31, 17, 3}, {3}},
                                                                   {{67, 130}, {1}},
                                                                   {{3, 5000}, {0}},
                                                                   {{2, 2, 90, 61}, {1}},
                                                                   {{7, 11}, {}}}};
  std::uint64_t seed = 1000;
  on_every_target([&] {
    for (const auto& [shape, axes] : layouts) {
      for (const DType dtype : {DType::float32, DType::bfloat16, DType::float64}) {
        Case c = {.shape = shape, .axes = axes, .x = dtype, .dy = dtype, .options = {}};
        c.options.channel_axes = axes;
        c.options.threads = static_cast<int>(seed % 3) + 1;
        c.options.activation = seed % 2 == 0 ? Activation::none : Activation::relu;
        SCOPED_TRACE(describe(c, ++seed));
        check(c, seed);
        if (HasFailure()) return;
      }
    }
  });
}

// Tensors that threads cut into pieces, and whose sums are about their means.
TEST_F(Masks, OfLargeTensors) {
  const std::array<std::pair<IndexList, IndexList>, 3> layouts = {
      {{{3, 60, 61, 10}, {3}}, {{3, 10, 60, 61}, {1}}, {{1, 1, 100'003}, {1}}}};
  std::uint64_t seed = 2000;
  for (const auto& [shape, axes] : layouts) {
    Case c = {.shape = shape, .axes = axes, .options = {}};
    c.options.channel_axes = axes;
    c.options.threads = 2;
    SCOPED_TRACE(describe(c, ++seed));
    check(c, seed);
  }
}

}  // namespace
}  // namespace exactnorm::testing
