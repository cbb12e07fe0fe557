#include "tensor/checks.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <span>

namespace exactnorm {

std::string to_text(double value) {
  std::array<char, 32> text{};
  const auto result = std::to_chars(text.data(), text.data() + text.size(), value);
  return {text.data(), result.ptr};
}

void check_layout(const std::string& name, const TensorView& x) {
  if (x.shape.size() != x.strides.size()) {
    throw Error(name, "has shape " + to_string(x.shape) + " and strides " + to_string(x.strides) +
                          "; expected one stride per dimension");
  }
  if (size_of(x.dtype) == 0) {
    throw Error(name, "has an unknown dtype; expected " + std::string(dtype_names));
  }
  Index count = 0;
  try {
    count = element_count(x.shape);
  } catch (const Error& error) {
    throw Error(name, "has a shape that " + error.problem());
  }
  if (count == 0) return;
  // Offsets are computed in 64-bit elements and bytes: no address may leave that range.
  double reach = 0;
  for (std::size_t i = 0; i < x.rank(); ++i) {
    reach += static_cast<double>(x.shape[i] - 1) * std::abs(static_cast<double>(x.strides[i]));
  }
  if (reach * static_cast<double>(size_of(x.dtype)) > 0x1p60) {
    throw Error(name, "has strides " + to_string(x.strides) + "; expected all elements within 2^60 bytes");
  }
}

void check_address(const std::string& name, const TensorView& x) {
  const Index count = element_count(x.shape);
  if (count == 0) return;
  if (x.data == nullptr) throw Error(name, "is a null pointer; expected " + std::to_string(count) + " elements");
  if (reinterpret_cast<std::uintptr_t>(x.data) % size_of(x.dtype) != 0) {
    throw Error(name, "is not aligned; expected an address that is a multiple of " + std::to_string(size_of(x.dtype)) +
                          " for " + std::string(name_of(x.dtype)));
  }
}

void check_view(const std::string& name, const TensorView& x) {
  check_layout(name, x);
  check_address(name, x);
}

namespace {

struct Term {
  Index stride;  // bytes, positive
  Index range;   // the coefficient is 0 to range
};

// Elements of `size_a` bytes at address 0 and of `size_b` bytes at address d share a byte when
// -size_b < d < size_a.
struct ByteSizes {
  Index size_a;
  Index size_b;
};

// Whether some choice of coefficients makes sum(coefficient * stride) + offset fall into the window.
// Depth first, largest stride first; gives up, answering yes, after `budget` steps.
bool reaches(std::span<const Term> terms, std::size_t first, Index offset, const ByteSizes& sizes, int& budget) {
  if (--budget < 0) return true;
  Index rest = 0;
  for (std::size_t i = first; i < terms.size(); ++i) rest += terms[i].stride * terms[i].range;
  if (offset >= sizes.size_a || offset + rest <= -sizes.size_b) return false;
  if (first == terms.size()) return true;
  const Term& term = terms[first];
  const Index others = rest - term.stride * term.range;
  // Needs -size_b < offset + k * stride + (0 to others) < size_a.
  const Index low = -sizes.size_b - offset - others + 1;
  const Index high = sizes.size_a - offset - 1;
  const auto floor_div = [](Index a, Index b) { return a >= 0 ? a / b : -((-a + b - 1) / b); };
  const Index k_first = std::max<Index>(0, -floor_div(-low, term.stride));
  const Index k_last = std::min<Index>(term.range, floor_div(high, term.stride));
  for (Index k = k_first; k <= k_last; ++k) {
    if (reaches(terms, first + 1, offset + k * term.stride, sizes, budget)) return true;
  }
  return false;
}

// Those of two views.
struct Terms {
  std::array<Term, 2 * maximum_rank> values;
  std::size_t size = 0;
};

// Appends the terms of one view, with `sign`, moving the offset so that all strides count upwards.
void append_terms(const TensorView& x, int sign, Terms& terms, Index& offset) {
  for (std::size_t i = 0; i < x.rank(); ++i) {
    if (x.strides[i] == 0 || x.shape[i] == 1) continue;
    const Index stride = sign * x.strides[i] * static_cast<Index>(size_of(x.dtype));
    if (stride < 0) offset += stride * (x.shape[i] - 1);
    terms.values[terms.size++] = {std::abs(stride), x.shape[i] - 1};
  }
}

constexpr int overlap_budget = 100000;

}  // namespace

Extent extent_of(const TensorView& x) noexcept {
  Extent extent = {0, 1};
  for (std::size_t i = 0; i < x.rank(); ++i) {
    const Index reach = (x.shape[i] - 1) * x.strides[i];
    (reach < 0 ? extent.begin : extent.end) += reach;
  }
  const auto size = static_cast<Index>(size_of(x.dtype));
  return {extent.begin * size, extent.end * size};
}

bool views_overlap(const TensorView& a, const TensorView& b) {
  if (element_count(a.shape) == 0 || element_count(b.shape) == 0) return false;
  const Extent extent_a = extent_of(a);
  const Extent extent_b = extent_of(b);
  const auto address_a = reinterpret_cast<std::uintptr_t>(a.data);
  const auto address_b = reinterpret_cast<std::uintptr_t>(b.data);
  auto offset = static_cast<Index>(address_b - address_a);
  if (extent_a.end <= extent_b.begin + offset || extent_b.end + offset <= extent_a.begin) return false;
  Terms all;
  append_terms(b, 1, all, offset);
  append_terms(a, -1, all, offset);
  const std::span<Term> terms(all.values.data(), all.size);
  std::sort(terms.begin(), terms.end(), [](const Term& s, const Term& t) { return s.stride > t.stride; });
  // Terms of one stride, which views of one layout bring, are one term: their coefficients add up.
  std::size_t kept = 0;
  for (const Term& term : terms) {
    if (kept > 0 && terms[kept - 1].stride == term.stride) {
      terms[kept - 1].range += term.range;
    } else {
      terms[kept++] = term;
    }
  }
  int budget = overlap_budget;
  const ByteSizes sizes{static_cast<Index>(size_of(a.dtype)), static_cast<Index>(size_of(b.dtype))};
  return reaches(terms.first(kept), 0, offset, sizes, budget);
}

void check_output_layout(const std::string& name, const TensorView& y) {
  check_layout(name, y);
  if (!is_floating(y.dtype)) {
    throw Error(name, "has dtype " + std::string(name_of(y.dtype)) + "; expected " + std::string(floating_dtype_names));
  }
  if (element_count(y.shape) == 0) return;
  // Sorted by stride, each axis must step over all that the smaller ones span. This refuses a few
  // interlocking views that do not in fact overlap, which are no outputs in practice.
  Terms all;
  for (std::size_t i = 0; i < y.rank(); ++i) {
    if (y.shape[i] > 1) all.values[all.size++] = {std::abs(y.strides[i]), y.shape[i] - 1};
  }
  const std::span<Term> terms(all.values.data(), all.size);
  std::sort(terms.begin(), terms.end(), [](const Term& s, const Term& t) { return s.stride < t.stride; });
  Index span = 0;
  for (const Term& term : terms) {
    if (term.stride <= span) {
      throw Error(name, "has shape " + to_string(y.shape) + " and strides " + to_string(y.strides) +
                            "; expected an output whose elements do not overlap");
    }
    span += term.stride * term.range;
  }
}

void check_output(const std::string& name, const TensorView& y) {
  check_output_layout(name, y);
  check_address(name, y);
}

void check_same_shape(const std::string& name, const TensorView& y, const std::string& reference_name,
                      const TensorView& reference) {
  if (y.shape != reference.shape) {
    throw Error(name, "has shape " + to_string(y.shape) + "; expected " + to_string(reference.shape) +
                          ", the shape of " + reference_name);
  }
}

void check_gradient(const TensorView& dy, const TensorView& x) {
  check_layout("dy", dy);
  if (!is_floating(dy.dtype)) {
    throw Error("dy",
                "has dtype " + std::string(name_of(dy.dtype)) + "; expected " + std::string(floating_dtype_names));
  }
  check_same_shape("dy", dy, "x", x);
}

void check_options(const Options& options) {
  if (!(options.epsilon >= 0) || !std::isfinite(options.epsilon)) {
    throw Error("epsilon", "is " + to_text(options.epsilon) + "; expected a finite number of 0 or more");
  }
  if (options.threads < 0) {
    throw Error("threads", "is " + std::to_string(options.threads) + "; expected 0 (all) or more");
  }
  if (options.activation > Activation::hard_swish) {
    throw Error("activation", "is the number " + std::to_string(static_cast<int>(options.activation)) +
                                  "; expected one of the enumerators of Activation");
  }
  if (!std::isfinite(options.slope)) {
    throw Error("slope", "is " + to_text(options.slope) + "; expected a finite number");
  }
}

namespace {

// Whether two views of one shape have each of their elements in the same place. An axis of one element takes no step.
bool is_very_same(const TensorView& a, const TensorView& b) {
  if (a.data != b.data || a.dtype != b.dtype || a.shape != b.shape) return false;
  for (std::size_t i = 0; i < a.rank(); ++i) {
    if (a.shape[i] > 1 && a.strides[i] != b.strides[i]) return false;
  }
  return true;
}

}  // namespace

void check_overlap(const std::string& output_name, const TensorView& output, const std::string& other_name,
                   const TensorView& other, bool may_be_same) {
  if (may_be_same && is_very_same(output, other)) return;
  if (views_overlap(output, other)) {
    throw Error(output_name, "overlaps " + other_name +
                                 (may_be_same ? "; expected separate memory or the very same view (address, strides "
                                                "and dtype)"
                                              : "; expected separate memory"));
  }
}

}  // namespace exactnorm
