#pragma once

#include <string>
#include <vector>

#include "problem.h"

namespace exactnorm::bench {

/// Who is checked. Ours has to be as good as docs/semantics.md promises; of others it is asked that they computed
/// the same thing: within 1e-3 of the largest value that a channel can have.
enum class Standard { promised, comparable };

/// The textbook's formulas in long double, in two passes, independent of the library.
template <typename T>
class Reference {
 public:
  Reference(const Case& of, const Tensors<T>& tensors, const Parameters<T>& parameters, int threads);

  /// Empty where the output of `tensors` is right, else what is wrong with it. The layout may be another one
  /// than that of the constructor's tensors.
  [[nodiscard]] std::string problem_of(const Tensors<T>& tensors, Standard standard) const;

 private:
  struct Channel {
    long double mean = 0;
    long double deviation = 0;
    long double inverse_deviation = 0;
    long double largest_centered = 0;
    long double sum_of_dy = 0;
    long double sum_of_products = 0;  // dy * (x - mean)
    long double largest_dy = 0;
    long double size_of_dy = 0;  // the sum of |dy|
    long double size_of_products = 0;
    long double squares_of_dy = 0;
    long double doubtful_dy = 0;  // the sum of |dy| that relu lets through or not, as y is rounded
    long double doubtful_products = 0;
  };
  struct Expected {
    long double value = 0;
    long double tolerance = 0;
  };

  void find_moments(const Tensors<T>& tensors);
  void find_gradients(const Tensors<T>& tensors);
  [[nodiscard]] Expected expected_y(std::size_t channel, T x, Standard standard) const;
  [[nodiscard]] Expected expected_dx(std::size_t channel, T x, T dy, Standard standard) const;
  /// dy behind relu, and whether y is so near to 0 that it is in doubt.
  struct Gradient {
    long double value = 0;
    bool is_doubtful = false;
  };
  [[nodiscard]] Gradient gradient_of(std::size_t channel, T x, T dy) const;
  [[nodiscard]] std::string problem_of_sums(const Tensors<T>& tensors, Standard standard) const;

  Operation operation_;
  bool has_relu_;
  long double count_;
  std::vector<T> gamma_;
  std::vector<T> beta_;
  std::vector<Channel> channels_;
  int threads_;
};

}  // namespace exactnorm::bench
