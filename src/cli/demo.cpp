#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "commands.h"
#include "demo_cases.h"
#include "demo_results.h"
#include "exactnorm/exactnorm.h"
#include "json_text.h"

namespace exactnorm::cli {
namespace {

constexpr std::size_t shown_features = 12;
constexpr std::size_t shown_rows = 3;

// At most six characters.
std::string short_number(double value) {
  const double size = std::abs(value);
  if (size == 0) return "0";
  if (size < 0.001) return fmt::format("{:.0e}", value);
  return fmt::format("{:.{}f}", value, size < 10 ? 3 : size < 100 ? 2 : 1);
}

void print_feature_line(std::string_view label, const std::vector<double>& values) {
  fmt::print("   {:<17}", label);
  for (std::size_t i = 0; i < std::min(values.size(), shown_features); ++i) {
    fmt::print("{:>7}", short_number(values[i]));
  }
  fmt::print("\n");
}

std::vector<double> deviations_of(const Statistics& statistics) {
  std::vector<double> deviations;
  for (const double variance : statistics.variance) deviations.push_back(std::sqrt(variance));
  return deviations;
}

float largest(const std::vector<float>& y) {
  float result = 0;
  for (const float value : y) result = std::max(result, std::abs(value));
  return result;
}

void print_case(std::size_t number, const DemoCase& demo_case, const DemoResult& result) {
  const auto features = static_cast<std::size_t>(result.before.channels());
  fmt::print("{}. {}: {} of shape {}, {} on axis {}\n", number, demo_case.title, demo_case.formula,
             to_string(demo_case.shape), demo_case.channel_axis == 0 ? "features" : "channels", demo_case.channel_axis);
  fmt::print("   {:<17}", demo_case.channel_axis == 0 ? "feature" : "channel");
  for (std::size_t i = 0; i < std::min(features, shown_features); ++i) fmt::print("{:>7}", i);
  fmt::print("\n");
  print_feature_line("before  mean", result.before.mean);
  print_feature_line("        deviation", deviations_of(result.before));
  print_feature_line("after   mean", result.after.mean);
  print_feature_line("        deviation", deviations_of(result.after));
  if (demo_case.shows_rows) {
    const auto width = static_cast<std::size_t>(demo_case.shape[1]);
    for (std::size_t row = 0; row < std::min(shown_rows, features); ++row) {
      const auto* first = result.y.data() + row * width;
      fmt::print("   Y[{}] = [{:11.8f}]\n", row, fmt::join(first, first + width, ", "));
    }
  }
  fmt::print("   {}\n", demo_case.convention);
  fmt::print("   allclose to PyTorch {}: {}  (rule: {})\n", pytorch_version, result.all_close ? "True" : "False",
             demo_case.tolerance.text);
  fmt::print("   largest error, where |y| is up to {:.1f}: ours {:.2e}, PyTorch {:.2e} ({:.1f} times ours)\n\n",
             largest(result.y), result.our_error, result.pytorch_error, result.pytorch_error / result.our_error);
}

void print_independence(const IndependenceResult& independence) {
  const auto print = [](std::string_view label, const std::vector<IndependenceResult::Run>& runs) {
    std::vector<std::string> circumstances;
    bool equal = true;
    for (const IndependenceResult::Run& run : runs) {
      circumstances.push_back(run.circumstance);
      equal = equal && run.checksum == runs.front().checksum;
    }
    if (equal) {
      const std::string all = fmt::format("{}", fmt::join(circumstances, ", "));
      fmt::print("   {:<8} {:<24}  checksum {:016x} with each\n", label, all, runs.front().checksum);
      return;
    }
    for (const auto& run : runs)
      fmt::print("   {:<8} {:<24}  checksum {:016x}\n", label, run.circumstance, run.checksum);
  };
  print("threads", independence.by_threads);
  print("targets", independence.by_target);
}

Json to_json(const DemoCase& demo_case, const DemoResult& result) {
  Json json = {{"name", demo_case.name},
               {"shape", std::vector<Index>(demo_case.shape.begin(), demo_case.shape.end())},
               {"channel_axis", demo_case.channel_axis},
               {"epsilon", demo_case.options.epsilon},
               {"epsilon_placement",
                demo_case.options.epsilon_placement == EpsilonPlacement::variance ? "variance" : "deviation"},
               {"before", {{"mean", result.before.mean}, {"standard_deviation", deviations_of(result.before)}}},
               {"after", {{"mean", result.after.mean}, {"standard_deviation", deviations_of(result.after)}}}};
  if (demo_case.shows_rows) json["y"] = result.y;
  json["allclose"] = result.all_close;
  json["absolute_tolerance"] = demo_case.tolerance.absolute;
  json["relative_tolerance"] = demo_case.tolerance.relative;
  json["largest_error"] = result.our_error;
  json["pytorch_largest_error"] = result.pytorch_error;
  return json;
}

Json to_json(const IndependenceResult& independence) {
  Json json = {{"threads", Json::object()}, {"targets", Json::object()}};
  for (const auto& run : independence.by_threads) {
    json["threads"][run.circumstance] = fmt::format("{:016x}", run.checksum);
  }
  for (const auto& run : independence.by_target) {
    json["targets"][run.circumstance] = fmt::format("{:016x}", run.checksum);
  }
  return json;
}

int run(bool as_json) {
  const std::vector<DemoCase> cases = make_demo_cases();
  Json json = {{"version", version()}, {"pytorch_version", pytorch_version}, {"cases", Json::array()}};
  if (!as_json)
    fmt::print(
        "Batch normalization by hand, checked against PyTorch {}. Errors are the largest absolute ones\n"
        "against the exact result, which each side has for its own epsilon.\n\n",
        pytorch_version);
  bool passed = true;
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const DemoResult result = run_demo_case(cases[i]);
    passed = passed && result.all_close;
    if (as_json) {
      json["cases"].push_back(to_json(cases[i], result));
    } else {
      print_case(i + 1, cases[i], result);
    }
  }
  const IndependenceResult independence = run_independence(cases.back());
  passed = passed && independence.is_independent();
  if (as_json) {
    json["checksums"] = to_json(independence);
    json["passed"] = passed;
    json["target"] = active_target();
    json["threads"] = default_threads();
    fmt::print("{}", to_text(json));
  } else {
    fmt::print("5. The same bits under all circumstances: the output of 4\n");
    print_independence(independence);
    fmt::print("\n{} exactnorm {}, target {}, {} thread{}\n", passed ? "All agree." : "NOT ALL AGREE.", version(),
               active_target(), default_threads(), default_threads() == 1 ? "" : "s");
  }
  return passed ? 0 : 1;
}

}  // namespace

Command add_demo(CLI::App& main) {
  CLI::App* app = main.add_subcommand("demo", "Normalize four small data sets and compare with PyTorch's results.")
                      ->group("Commands");
  const auto json = std::make_shared<bool>(false);
  app->add_flag("--json", *json, "print the same figures as JSON");
  app->footer(
      "A fully connected layer and a convolution, each on random integers and on 1797 handwritten digits.\n"
      "The data, and what PyTorch made of it, are part of this command: neither is needed here.\n"
      "The exit status is 1 when a comparison fails.");
  return {app, [json] { return run(*json); }};
}

}  // namespace exactnorm::cli
