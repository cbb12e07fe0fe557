// A search for wrong results: random problems, under settings that must not change a bit, against exact arithmetic.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "exactnorm/info.h"
#include "randomized/case.h"
#include "randomized/check.h"
#include "randomized/masked.h"
#include "randomized/run.h"

namespace exactnorm::testing {
namespace {

class Search {
 public:
  /// Whether a case is right under several settings; says what is wrong where it is not.
  bool try_case(std::uint64_t seed) {
    const Case test(seed);
    Random random(~seed);
    const Setting first = {1, supported_targets().front(), Environment::standard, seed};
    const Results results = run(test, first);
    count(first);
    const MaskedResults masked = run_masked(test, first);
    std::string problem = check(test, results, worst_);
    if (problem.empty()) problem = check_masked(test, masked);
    if (!problem.empty()) return report(test, first, problem);
    for (int i = 0; i < 4; ++i) {
      const Setting setting = random_setting(random);
      count(setting);
      auto name = results.difference(run(test, setting));
      if (!name) name = masked.difference(run_masked(test, setting));
      if (name) {
        return report(test, setting, *name + " has other bits than with " + first.description());
      }
    }
    ++cases_;
    elements_ += test.x.size();
    return true;
  }

  [[nodiscard]] std::uint64_t cases() const { return cases_; }

  void print() const {
    std::printf("%llu cases of %llu elements in all\n", static_cast<unsigned long long>(cases_),
                static_cast<unsigned long long>(elements_));
    for (const auto& [name, runs] : runs_) {
      std::printf("  %-24s %8llu runs\n", name.c_str(), static_cast<unsigned long long>(runs));
    }
    std::printf("largest errors, in units of the bound\n");
    for (const auto& [name, error] : worst_) std::printf("  %-24s %.4f\n", name.c_str(), error);
  }

 private:
  static Setting random_setting(Random& random) {
    const std::vector<std::string> targets = supported_targets();
    const auto pick = [&](const auto& values) {
      return values[static_cast<std::size_t>(random.between(0, static_cast<Index>(std::size(values)) - 1))];
    };
    constexpr int threads[] = {1, 2, 5};
    return {pick(threads), pick(targets), pick(environments), random.bits()};
  }

  void count(const Setting& setting) {
    ++runs_[std::to_string(setting.threads) + " threads"];
    ++runs_["target " + setting.target];
    ++runs_["environment " + name_of(setting.environment)];
  }

  static bool report(const Case& test, const Setting& setting, const std::string& problem) {
    std::printf("WRONG: %s\n  %s\n  %s\n", problem.c_str(), test.description().c_str(), setting.description().c_str());
    std::printf("  to see it again: exactnorm_randomized --case %llu\n", static_cast<unsigned long long>(test.seed));
    return false;
  }

  std::uint64_t cases_ = 0;
  std::uint64_t elements_ = 0;
  std::map<std::string, std::uint64_t> runs_;
  WorstErrors worst_;
};

int search(double seconds, std::uint64_t most_cases, std::uint64_t first_seed, std::optional<std::uint64_t> only) {
  Search search;
  if (only) return search.try_case(*only) ? 0 : 1;
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  const auto elapsed = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
  for (std::uint64_t seed = first_seed; elapsed() < seconds && search.cases() < most_cases; ++seed) {
    if (!search.try_case(seed)) {
      std::printf("found after %.1f s\n", elapsed());
      return 1;
    }
  }
  search.print();
  return search.cases() > 0 ? 0 : 1;
}

}  // namespace
}  // namespace exactnorm::testing

int main(int argc, char** argv) {
  CLI::App app("Compares results of random problems with exact ones, until the time is over or one is wrong.");
  double seconds = 60;
  std::uint64_t cases = std::numeric_limits<std::uint64_t>::max();
  std::uint64_t seed = 1;
  std::optional<std::uint64_t> only;
  app.add_option("--seconds", seconds, "how long to search (default: 60)");
  app.add_option("--cases", cases, "how many to try at most (default: any number)");
  app.add_option("--seed", seed, "the first case's number; each next one is one more (default: 1)");
  app.add_option("--case", only, "try this case alone");
  CLI11_PARSE(app, argc, argv);
  return exactnorm::testing::search(seconds, cases, seed, only);
}
