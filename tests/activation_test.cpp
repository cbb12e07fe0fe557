// Activations and residuals: every result against that of the separate operations, bit for bit.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "affine/activation_kernels.h"
#include "exactnorm/exactnorm.h"
#include "support/compare.h"
#include "support/half.h"
#include "support/random.h"
#include "support/tensor.h"

namespace exactnorm::testing {
namespace {

constexpr std::array activations = {Activation::none,       Activation::relu, Activation::relu6,
                                    Activation::leaky_relu, Activation::silu, Activation::hard_swish};

// One element at a time, in type T. silu, whose exponential has no other source of the same bits, is the library's own
// of a single number; its accuracy has a test of its own.
template <typename T>
struct Separate {
  Activation activation;
  T slope;

  [[nodiscard]] T value(T v) const {
    switch (activation) {
      case Activation::none:
        return v;
      case Activation::relu:
        return v < 0 ? T{0} : v;
      case Activation::relu6:
        return v < 0 ? T{0} : v > 6 ? T{6} : v;
      case Activation::leaky_relu:
        return v > 0 ? v : v * slope;
      case Activation::silu: {
        T result = 0;
        activate({activation, 0}, {.value = &v, .out = &result, .rows = 1, .count = 1}, Store::cached);
        return result;
      }
      case Activation::hard_swish: {
        const T sum = v + 3;
        return v * (sum < 0 ? T{0} : sum > 6 ? T{6} : sum) / 6;
      }
    }
    return 0;
  }
  [[nodiscard]] T gradient(T v, T dy) const {
    switch (activation) {
      case Activation::none:
        return dy;
      case Activation::relu:
        return v <= 0 ? T{0} : dy;
      case Activation::relu6:
        return v > 0 && v < 6 ? dy : T{0};
      case Activation::leaky_relu:
        return v > 0 ? dy : dy * slope;
      case Activation::silu: {
        T result = 0;
        activation_gradient({activation, 0}, {.value = &v, .dy = &dy, .out = &result, .rows = 1, .count = 1});
        return result;
      }
      case Activation::hard_swish:
        return v <= -3 ? T{0} : v >= 3 ? dy : dy * (v / 3 + T{0.5});
    }
    return 0;
  }
};

struct Layout {
  const char* name;
  IndexList shape;
  IndexList axes;
  std::optional<IndexList> strides;
};
const std::array layouts = {
    Layout{"nchw", {3, 5, 9, 7}, {1}, {}},
    Layout{"nchw, large images", {2, 2, 90, 61}, {1}, {}},
    Layout{"nchw, small images", {40, 33, 2, 3}, {1}, {}},
    Layout{"nhwc", {3, 6, 7, 40}, {-1}, {}},
    Layout{"nhwc of few channels", {5, 31, 17, 3}, {-1}, {}},
    Layout{"nhwc of many channels", {3, 2, 1, 2500}, {-1}, {}},
    Layout{"nc", {67, 130}, {1}, {}},
    Layout{"cn", {3, 5000}, {0}, {}},
    Layout{"nchw with gaps", {3, 4, 5, 6}, {1}, IndexList{300, 70, 13, 2}},
    Layout{"two channel axes", {4, 5, 3, 7}, {3, 1}, {}},
    Layout{"one channel", {7, 11}, {}, {}},
};

struct Problem {
  const Layout& layout;
  DType x;
  DType dy;  // and y
  DType residual;
  bool has_residual;
  Options options;
  std::optional<std::uint64_t> strides_seed = std::nullopt;
};

// Where a layout has no strides of its own: dense, or, with `seed`, of random strides, others in each call.
Tensor make(const Layout& layout, DType dtype, std::optional<std::uint64_t> seed) {
  if (layout.strides) return Tensor::strided(dtype, layout.shape, *layout.strides);
  if (!seed) return {dtype, layout.shape};
  static std::uint64_t calls = 0;
  Random random(*seed * 1000 + ++calls);
  return Tensor::strided(dtype, layout.shape, random_strides(random, layout.shape));
}

bool fits_float32(DType dtype) { return dtype != DType::float64; }

// Rare values meet activations in residuals alone: in x they would make the channel's statistics NaN.
double residual_value(Random& random) {
  if (random.chance(0.97)) return random.normal() * 3;
  constexpr std::array rare = {0.0,
                               -0.0,
                               1e30,
                               -1e30,
                               std::numeric_limits<double>::infinity(),
                               -std::numeric_limits<double>::infinity(),
                               std::numeric_limits<double>::quiet_NaN()};
  return rare[static_cast<std::size_t>(random.between(0, rare.size() - 1))];
}

// The elements, NaN without its sign and payload.
std::vector<double> numbers_of(const Tensor& tensor) {
  std::vector<double> values = tensor.values();
  for (double& value : values) {
    if (std::isnan(value)) value = std::numeric_limits<double>::quiet_NaN();
  }
  return values;
}

constexpr std::array output_names = {"dx", "dgamma", "dbeta", "d_residual"};

class Activations : public ::testing::Test {
 protected:
  void TearDown() override { set_target(""); }

  // Runs all operations with the activation, and those without it with the activation applied by itself.
  template <typename T>
  static void check(const Problem& p, std::uint64_t seed) {
    Random random(seed);
    const DType arithmetic = std::is_same_v<T, float> ? DType::float32 : DType::float64;
    Tensor x = make(p.layout, p.x, p.strides_seed);
    Tensor dy = make(p.layout, p.dy, p.strides_seed);
    Tensor residual = make(p.layout, p.residual, p.strides_seed);
    for (Index i = 0; i < x.count(); ++i) {
      x.set(i, 3 + random.normal());
      dy.set(i, random.chance(0.05) ? 0 : random.normal() * 0.01);
      residual.set(i, residual_value(random));
    }
    Index channels = 1;
    for (const Index axis : p.layout.axes) {
      channels *=
          p.layout.shape[static_cast<std::size_t>(axis < 0 ? axis + static_cast<Index>(p.layout.shape.size()) : axis)];
    }
    std::vector<double> parameters;
    for (Index i = 0; i < channels; ++i) parameters.push_back(static_cast<float>(random.uniform(-3, 3)));
    const Tensor gamma(DType::float32, {channels}, parameters);
    const Tensor beta(DType::float32, {channels}, {parameters.rbegin(), parameters.rend()});
    const Affine plain = {gamma.view(), beta.view()};
    Affine affine = plain;
    if (p.has_residual) affine.residual = std::as_const(residual).view();
    Options without = p.options;
    without.activation = Activation::none;
    const Separate<T> separate = {p.options.activation, static_cast<T>(p.options.slope)};

    // Forward.
    Tensor normalized(arithmetic, p.layout.shape);
    const Statistics expected = training(std::as_const(x).view(), normalized.view(), plain, without);
    const auto preactivation = [&](Index i) {
      const T value = static_cast<T>(normalized.get(i));
      return p.has_residual ? static_cast<T>(value + static_cast<T>(residual.get(i))) : value;
    };
    Tensor expected_y = make(p.layout, p.dy, p.strides_seed);
    for (Index i = 0; i < x.count(); ++i) expected_y.set(i, static_cast<double>(separate.value(preactivation(i))));
    Tensor y = make(p.layout, p.dy, p.strides_seed);
    const Statistics found = training(std::as_const(x).view(), y.view(), affine, p.options);
    EXPECT_TRUE(same_bits(found, expected));
    EXPECT_TRUE(same_bits(numbers_of(y), numbers_of(expected_y)));
    EXPECT_TRUE(y.guards_intact());
    Tensor inferred = make(p.layout, p.dy, p.strides_seed);
    inference(std::as_const(x).view(), expected, inferred.view(), affine, p.options);
    EXPECT_TRUE(same_bits(numbers_of(inferred), numbers_of(expected_y)));
    if (p.has_residual && p.residual == p.dy) {  // in place of the residual
      Tensor over = residual;
      Affine in_place = plain;
      in_place.residual = std::as_const(over).view();
      inference(std::as_const(x).view(), expected, over.view(), in_place, p.options);
      EXPECT_TRUE(same_bits(numbers_of(over), numbers_of(expected_y)));
    }

    const auto gradient_at = [&](const auto& value) {
      Tensor gradient = make(p.layout, p.dy, p.strides_seed);
      for (Index i = 0; i < x.count(); ++i) {
        gradient.set(i, static_cast<double>(separate.gradient(value(i), static_cast<T>(dy.get(i)))));
      }
      return gradient;
    };
    check_backward(p, x, dy, expected, affine, p.has_residual, gradient_at(preactivation));
    if (p.options.activation == Activation::silu || p.options.activation == Activation::hard_swish) return;
    SCOPED_TRACE("by the output");
    Affine by_output = plain;
    by_output.beta = std::nullopt;
    by_output.output = std::as_const(y).view();
    const bool has_activation = p.options.activation != Activation::none;
    const auto of_output = [&](Index i) { return static_cast<T>(has_activation ? y.get(i) : 0); };
    check_backward(p, x, dy, expected, by_output, true, gradient_at(of_output));
  }

  // Of dy through the activation, whose own gradient is `gradient`.
  static void check_backward(const Problem& p, const Tensor& x, const Tensor& dy, const Statistics& expected,
                             const Affine& affine, bool has_d_residual, const Tensor& gradient) {
    const auto channels = static_cast<Index>(expected.mean.size());
    const Affine plain = {affine.gamma, affine.beta};
    Options without = p.options;
    without.activation = Activation::none;
    for (const bool frozen : {false, true}) {
      SCOPED_TRACE(frozen ? "frozen" : "training");
      const auto run = frozen ? backward_frozen : backward;
      const auto outputs = [&](std::array<Tensor, 4>& of, bool with_residual) {
        Gradients gradients = {of[0].view(), of[1].view(), of[2].view()};
        if (with_residual) gradients.d_residual = of[3].view();
        return gradients;
      };
      const auto make_outputs = [&] {
        return std::array{make(p.layout, p.dy, p.strides_seed), Tensor(DType::float32, {channels}),
                          Tensor(DType::float64, {channels}), make(p.layout, p.dy, p.strides_seed)};
      };
      std::array right = make_outputs();
      run(gradient.view(), x.view(), expected, plain, outputs(right, false), without);
      right[3].fill(gradient.values());
      for (const bool with_residual : {false, true}) {
        if (with_residual && !has_d_residual) continue;
        std::array results = make_outputs();
        run(dy.view(), x.view(), expected, affine, outputs(results, with_residual), p.options);
        for (std::size_t i = 0; i < results.size(); ++i) {
          if (i == 3 && !with_residual) continue;
          SCOPED_TRACE(output_names[i]);
          EXPECT_TRUE(same_bits(numbers_of(results[i]), numbers_of(right[i])));
          EXPECT_TRUE(results[i].guards_intact());
        }
        // dx alone, which needs no sums where statistics are frozen; d_residual in place of dy.
        Tensor over = dy;
        Tensor dx = make(p.layout, p.dy, p.strides_seed);
        Gradients alone = {.dx = dx.view()};
        if (with_residual) alone.d_residual = over.view();
        run(std::as_const(over).view(), x.view(), expected, affine, alone, p.options);
        EXPECT_TRUE(same_bits(numbers_of(dx), numbers_of(right[0])));
        if (with_residual) {
          EXPECT_TRUE(same_bits(numbers_of(over), numbers_of(right[3])));
        }
      }
    }

    // From sums.
    PartialSums sums(channels, PartialSums::Kind::gradients);
    accumulate_gradients(sums, dy.view(), x.view(), expected, affine, p.options);
    PartialSums right_sums(channels, PartialSums::Kind::gradients);
    accumulate(right_sums, gradient.view(), x.view(), without);
    EXPECT_TRUE(sums == right_sums);
    Tensor right_dx = make(p.layout, p.dy, p.strides_seed);
    backward_from_sums(gradient.view(), x.view(), expected, right_sums, plain, {.dx = right_dx.view()}, without);
    Tensor dx = make(p.layout, p.dy, p.strides_seed);
    Tensor d_residual = make(p.layout, p.dy, p.strides_seed);
    Gradients gradients = {.dx = dx.view()};
    if (has_d_residual) gradients.d_residual = d_residual.view();
    backward_from_sums(dy.view(), x.view(), expected, sums, affine, gradients, p.options);
    EXPECT_TRUE(same_bits(numbers_of(dx), numbers_of(right_dx)));
    if (has_d_residual) {
      EXPECT_TRUE(same_bits(numbers_of(d_residual), numbers_of(gradient)));
    }
  }

  static void check(const Problem& p, std::uint64_t seed) {
    SCOPED_TRACE(std::string(p.layout.name) + ", activation " + std::to_string(static_cast<int>(p.options.activation)) +
                 ", x " + std::string(name_of(p.x)) + ", dy " + std::string(name_of(p.dy)) + ", residual " +
                 (p.has_residual ? std::string(name_of(p.residual)) : "none") + ", threads " +
                 std::to_string(p.options.threads));
    fits_float32(p.x) && fits_float32(p.dy) ? check<float>(p, seed) : check<double>(p, seed);
  }
};

TEST_F(Activations, GiveTheBitsOfSeparateOperations) {
  constexpr std::array types = {DType::float32, DType::float64, DType::bfloat16, DType::float16};
  Random random(1);
  std::uint64_t seed = 1;
  for (const std::string& target : supported_targets()) {
    SCOPED_TRACE(target);
    set_target(target);
    for (const Layout& layout : layouts) {
      for (const Activation activation : activations) {
        for (const bool has_residual : {false, true}) {
          // All of one type, and a mix.
          const DType type = types[static_cast<std::size_t>(random.between(0, 3))];
          const DType other = type == DType::float64 ? DType::float32 : DType::bfloat16;
          for (const bool mixed : {false, true}) {
            Options options;
            options.channel_axes = layout.axes;
            options.threads = static_cast<int>(random.between(1, 3));
            options.activation = activation;
            options.slope = 0.1;
            const bool other_first = mixed && random.chance(0.5);
            check({layout, other_first ? other : type, mixed && !other_first ? other : type, mixed ? other : type,
                   has_residual, options},
                  ++seed);
            if (HasFailure()) return;
          }
        }
      }
    }
  }
}

// Tensors of strides of their own each, in any order of axes, and any channel axes.
TEST_F(Activations, OfRandomLayouts) {
  Random random(77);
  for (std::uint64_t seed = 1; seed < 400; ++seed) {
    Layout layout = {"random", {}, {}, {}};
    const Index rank = random.between(1, 5);
    for (Index axis = 0; axis < rank; ++axis) {
      layout.shape.push_back(random.chance(0.2) ? 1 : random.between(2, random.chance(0.3) ? 40 : 6));
      if (random.chance(0.4)) layout.axes.push_back(axis);
    }
    Options options;
    options.channel_axes = layout.axes;
    options.threads = static_cast<int>(random.between(1, 3));
    options.activation = activations[static_cast<std::size_t>(random.between(0, 5))];
    constexpr std::array types = {DType::float32, DType::float64, DType::bfloat16, DType::float16};
    const auto type = [&] { return types[static_cast<std::size_t>(random.between(0, 3))]; };
    Problem problem = {layout, type(), type(), type(), random.chance(0.5), options, seed};
    if (fits_float32(problem.x) && fits_float32(problem.dy) && !fits_float32(problem.residual)) {
      problem.residual = DType::float32;  // it has to fit the arithmetic
    }
    check(problem, 1000 + seed);
    if (HasFailure()) return;
  }
}

// Tensors that threads cut into pieces.
TEST_F(Activations, OfLargeTensors) {
  const std::array large = {Layout{"nhwc", {3, 60, 61, 32}, {-1}, {}}, Layout{"nchw", {3, 32, 60, 61}, {1}, {}},
                            Layout{"one channel", {1, 1, 200'003}, {1}, {}}};
  std::uint64_t seed = 100;
  for (const Layout& layout : large) {
    for (const Activation activation : {Activation::relu, Activation::silu}) {
      for (const bool has_residual : {false, true}) {
        Options options;
        options.channel_axes = layout.axes;
        options.threads = 2;
        options.activation = activation;
        check({layout, DType::float32, DType::float32, DType::float32, has_residual, options}, ++seed);
      }
    }
  }
}

// Against the same formula in more digits: within 4 units in the last place of the result, or of the smallest normal
// number.
template <typename T>
void check_silu() {
  using Limits = std::numeric_limits<T>;
  Random random(9);
  double worst = 0;
  double worst_gradient = 0;
  for (int i = 0; i < 400'000; ++i) {
    const T v = static_cast<T>(i % 3 == 0 ? random.uniform(-110, 110) : random.of_exponent(-20, 6));
    T found = 0;
    activate({Activation::silu, 0}, {.value = &v, .out = &found, .rows = 1, .count = 1}, Store::cached);
    const long double exponential = std::exp(-static_cast<long double>(v));
    const long double sigmoid = 1 / (1 + exponential);
    const long double right = v * sigmoid;
    const auto unit = [](long double of) {
      return std::max(std::abs(of), static_cast<long double>(Limits::min())) *
             static_cast<long double>(Limits::epsilon());
    };
    worst = std::max(worst, static_cast<double>(std::abs(found - right) / unit(right)));
    const T dy = 1;
    T gradient = 0;
    activation_gradient({Activation::silu, 0}, {.value = &v, .dy = &dy, .out = &gradient, .rows = 1, .count = 1});
    // The two terms cancel near v = -1.28: their units are those that count.
    const long double second = v * sigmoid * (exponential / (1 + exponential));
    const long double size = sigmoid + std::abs(second);
    worst_gradient =
        std::max(worst_gradient, static_cast<double>(std::abs(gradient - (sigmoid + second)) / unit(size)));
  }
  EXPECT_LT(worst, 4);
  EXPECT_LT(worst_gradient, 8);
  ::testing::Test::RecordProperty("worst", std::to_string(worst));
}
TEST(Silu, IsAccurateInFloat32) { check_silu<float>(); }
TEST(Silu, IsAccurateInFloat64) { check_silu<double>(); }

// Rows at all places in cache lines, written past the caches or not, with nothing written beside them.
template <typename T>
void check_rows() {
  Random random(31);
  for (Index count = 1; count < 200; count += random.between(1, 3)) {
    for (const Activation activation : activations) {
      const Index rows = random.between(1, 4);
      const Index gap = random.chance(0.5) ? 0 : random.between(1, 20);
      const auto extent = static_cast<std::size_t>(rows * (count + gap));
      const bool has_residual = random.chance(0.5);
      std::vector<T> value(extent);
      std::vector<T> residual(extent);
      std::vector<T> dy(extent);
      for (std::vector<T>* numbers : {&value, &residual, &dy}) {
        for (T& number : *numbers) number = static_cast<T>(random.normal() * 4);
      }
      const std::size_t offset = static_cast<std::size_t>(random.between(0, 20));
      constexpr T guard = 1234;
      const Separate<T> separate = {activation, static_cast<T>(0.1)};
      ActivationRows<T> plane{.value = value.data(),
                              .value_stride = count + gap,
                              .dy = dy.data(),
                              .dy_stride = count + gap,
                              .out_stride = count + gap,
                              .rows = rows,
                              .count = count};
      if (has_residual) {
        plane.residual = residual.data();
        plane.residual_stride = count + gap;
      }
      for (const int way : {0, 1, 2}) {
        std::vector<T> out(extent + offset + 40, guard);
        plane.out = out.data() + offset;
        if (way == 2) {
          activation_gradient({activation, 0.1}, plane.joined());
        } else {
          activate({activation, 0.1}, plane.joined(), way == 0 ? Store::cached : Store::streamed);
          flush_streams();
        }
        std::vector<T> expected(out.size(), guard);
        for (Index row = 0; row < rows; ++row) {
          for (Index i = 0; i < count; ++i) {
            const auto at = static_cast<std::size_t>(row * (count + gap) + i);
            const T v = has_residual ? value[at] + residual[at] : value[at];
            expected[at + offset] = way == 2 ? separate.gradient(v, dy[at]) : separate.value(v);
          }
        }
        ASSERT_EQ(out, expected) << count << ' ' << gap << ' ' << way << ' ' << static_cast<int>(activation);
      }
    }
  }
}
TEST_F(Activations, OfRows) {
  for (const std::string& target : supported_targets()) {
    SCOPED_TRACE(target);
    set_target(target);
    check_rows<float>();
    check_rows<double>();
  }
}

// dx over x, and over the residual; d_residual where the residual was.
TEST_F(Activations, InPlace) {
  const IndexList shape = {6, 5, 8, 9};
  Random random(4);
  const auto numbers = [&] {
    Tensor tensor(DType::float32, shape);
    for (Index i = 0; i < tensor.count(); ++i) tensor.set(i, random.normal());
    return tensor;
  };
  const Tensor x = numbers();
  const Tensor dy = numbers();
  const Tensor residual = numbers();
  for (const Activation activation : activations) {
    const Options options = {.activation = activation};
    const Affine affine = {.residual = residual.view()};
    Tensor y(DType::float32, shape);
    const Statistics statistics = training(x.view(), y.view(), affine, options);
    Tensor dx(DType::float32, shape);
    Tensor d_residual(DType::float32, shape);
    backward(dy.view(), x.view(), statistics, affine, {.dx = dx.view(), .d_residual = d_residual.view()}, options);

    Tensor over_x = x;
    backward(dy.view(), std::as_const(over_x).view(), statistics, affine, {.dx = over_x.view()}, options);
    EXPECT_TRUE(same_bits(numbers_of(over_x), numbers_of(dx)));

    Tensor over_residual = residual;
    backward(dy.view(), x.view(), statistics, {.residual = std::as_const(over_residual).view()},
             {.dx = over_residual.view()}, options);
    EXPECT_TRUE(same_bits(numbers_of(over_residual), numbers_of(dx)));

    Tensor over_dy = dy;
    over_residual = residual;
    backward(std::as_const(over_dy).view(), x.view(), statistics, {.residual = std::as_const(over_residual).view()},
             {.dx = over_dy.view(), .d_residual = over_residual.view()}, options);
    EXPECT_TRUE(same_bits(numbers_of(over_dy), numbers_of(dx)));
    EXPECT_TRUE(same_bits(numbers_of(over_residual), numbers_of(d_residual)));
  }
}

TEST_F(Activations, OfLayersAndPlansAndBlocks) {
  const IndexList shape = {5, 4, 6, 3};
  Random random(12);
  Tensor x(DType::float32, shape);
  Tensor dy(DType::float32, shape);
  Tensor residual(DType::float32, shape);
  for (Index i = 0; i < x.count(); ++i) {
    x.set(i, random.normal());
    dy.set(i, random.normal());
    residual.set(i, random.normal());
  }
  const TensorView x_view = std::as_const(x).view();
  const TensorView dy_view = std::as_const(dy).view();
  const TensorView residual_view = std::as_const(residual).view();
  const std::vector<double> gammas = {1, -0.5, 0.25, 2};
  const std::vector<double> betas = {0.1, 0, -0.7, 1};
  const Affine affine = {view(gammas, {4}), view(betas, {4}), residual_view};
  const Options options = {.activation = Activation::hard_swish};
  Tensor y(DType::float32, shape);
  const Statistics statistics = training(x_view, y.view(), affine, options);
  Tensor dx(DType::float32, shape);
  Tensor d_residual(DType::float32, shape);
  std::vector<double> dbeta(4);
  backward(dy_view, x_view, statistics, affine,
           {.dx = dx.view(), .dbeta = mutable_view(dbeta, {4}), .d_residual = d_residual.view()}, options);

  Tensor other_y(DType::float32, shape);
  Tensor other_dx(DType::float32, shape);
  Tensor other_d_residual(DType::float32, shape);
  BatchNorm layer(4, options);
  layer.gamma = gammas;
  layer.beta = betas;
  layer.forward(x_view, other_y.view(), residual_view);
  EXPECT_TRUE(same_bits(numbers_of(other_y), numbers_of(y)));
  layer.options.activation = Activation::none;  // the backward pass is that of the forward pass
  layer.beta[0] = 7;
  layer.backward(dy_view, x_view, other_dx.view(), residual_view, other_d_residual.view());
  EXPECT_TRUE(same_bits(numbers_of(other_dx), numbers_of(dx)));
  EXPECT_TRUE(same_bits(numbers_of(other_d_residual), numbers_of(d_residual)));
  EXPECT_EQ(layer.beta_gradient, dbeta);

  Statistics planned = statistics;
  const TrainingPlan training_plan(x_view, other_y.view(), affine, options);
  training_plan.run({x_view.data, other_y.view().data, gammas.data(), betas.data(), residual_view.data},
                    mutable_view(planned));
  EXPECT_TRUE(same_bits(numbers_of(other_y), numbers_of(y)));
  const InferencePlan inference_plan(x_view, other_y.view(), statistics, affine, options);
  inference_plan.run(x_view.data, other_y.view().data, residual_view.data);
  EXPECT_TRUE(same_bits(numbers_of(other_y), numbers_of(y)));
  EXPECT_EQ(error_of([&] { inference_plan.run(x_view.data, other_y.view().data); }),
            "residual: is a null pointer; expected 360 elements");
  const BackwardPlan backward_plan(dy_view, x_view, affine, {.dx = other_dx.view()}, options);
  backward_plan.run({.dy = dy_view.data,
                     .x = x_view.data,
                     .gamma = gammas.data(),
                     .dx = other_dx.view().data,
                     .beta = betas.data(),
                     .residual = residual_view.data},
                    view(statistics));
  EXPECT_TRUE(same_bits(numbers_of(other_dx), numbers_of(dx)));

  // Channels 1 and 2 alone.
  const Place place = {shape, {0, 1, 0, 0}};
  const auto part = [](const auto& whole) { return slice(whole, 1, 1, 2); };
  Tensor of_block(DType::float32, shape);
  inference(part(x_view), place, statistics, part(of_block.view()), {affine.gamma, affine.beta, part(residual_view)},
            options);
  for (Index i = 0; i < y.count(); ++i) {
    const Index channel = unravel(i, shape)[1];
    if (channel == 1 || channel == 2) {
      EXPECT_EQ(of_block.get(i), y.get(i));
    }
  }
}

TEST_F(Activations, AreRefused) {
  const IndexList shape = {2, 3};
  const std::vector<float> x(6, 1.0F);
  const std::vector<double> wide(6);
  std::vector<float> y(6);
  std::vector<double> wide_y(6);
  const TensorView x_view = view(x, shape);
  const MutableTensorView y_view = mutable_view(y, shape);
  const auto of_training = [&](const Affine& affine, const Options& options) {
    return error_of([&] { static_cast<void>(training(x_view, y_view, affine, options)); });
  };
  EXPECT_EQ(of_training({}, {.activation = static_cast<Activation>(6)}),
            "activation: is the number 6; expected one of the enumerators of Activation");
  EXPECT_EQ(of_training({}, {.slope = std::numeric_limits<double>::infinity()}),
            "slope: is inf; expected a finite number");
  EXPECT_EQ(of_training({.residual = view(x, {3, 2})}, {}),
            "residual: has shape (3, 2); expected (2, 3), the shape of x");
  EXPECT_EQ(of_training({.residual = view(wide, shape)}, {}),
            "residual: has dtype float64; expected one that float32 holds, as x and y are of such ones");
  const Statistics statistics = training(x_view, y_view);
  const auto of_backward = [&](const Affine& affine, const Gradients& gradients, const Options& options) {
    return error_of([&] { backward(x_view, x_view, statistics, affine, gradients, options); });
  };
  EXPECT_EQ(of_backward({}, {.d_residual = y_view}, {}),
            "d_residual: was given; expected none, as there is no residual");
  EXPECT_EQ(of_backward({.residual = view(x, shape)}, {.d_residual = mutable_view(wide_y, shape)}, {}),
            "d_residual: has dtype float64; expected float32, as dy has");
  EXPECT_EQ(of_backward({}, {.dx = mutable_view(wide_y, shape)}, {.activation = Activation::relu}),
            "dx: has dtype float64; expected one that float32 holds, as x and dy are of such ones");
  EXPECT_EQ(of_backward({}, {.dx = mutable_view(wide_y, shape)}, {}), "no error");
  std::vector<float> both(6);
  EXPECT_NE(error_of([&] {
              backward(view(x, shape), view(both, shape), statistics, {.residual = view(x, shape)},
                       {.d_residual = mutable_view(both, shape)});
            }),
            "no error");
}

}  // namespace
}  // namespace exactnorm::testing
