// Views do not outlive what they look at, as far as a compiler can tell.
#include <gtest/gtest.h>

#include <array>
#include <span>
#include <utility>
#include <vector>

#include "exactnorm/tensor.h"

namespace exactnorm::testing {
namespace {

template <typename Container>
concept Viewable = requires(Container&& container, IndexList shape) {
  view(std::forward<Container>(container), shape);
};
template <typename Container>
concept MutablyViewable = requires(Container&& container, IndexList shape) {
  mutable_view(std::forward<Container>(container), shape);
};

using Vector = std::vector<float>;
using Array = std::array<double, 3>;

static_assert(Viewable<Vector&> && Viewable<const Vector&> && Viewable<Array&> && Viewable<const Array&>);
static_assert(MutablyViewable<Vector&> && MutablyViewable<Array&>);
static_assert(!MutablyViewable<const Vector&>);
// A span's elements outlive it.
static_assert(Viewable<std::span<float>> && Viewable<std::span<const float>> && MutablyViewable<std::span<float>>);
// A container that is about to end takes its elements with it.
static_assert(!Viewable<Vector> && !Viewable<const Vector> && !Viewable<Array>);
static_assert(!MutablyViewable<Vector> && !MutablyViewable<Array>);

TEST(Views, LookAtWhatTheyWereGiven) {
  Vector values = {1, 2, 3};
  EXPECT_EQ(view(values, {3}).data, values.data());
  EXPECT_EQ(view(std::as_const(values), {3}).data, values.data());
  EXPECT_EQ(view(std::span(values), {3}).data, values.data());
  EXPECT_EQ(mutable_view(values, {3}).data, values.data());
  float array[] = {1, 2};
  EXPECT_EQ(view(array, {2}).data, array);
}

}  // namespace
}  // namespace exactnorm::testing
