#include "normalize_arguments.h"

#include <utility>
#include <vector>

#include "exactnorm/error.h"
#include "streams.h"
#include "system_text.h"

namespace exactnorm::cli {

const OptionNames normalize_option_names = {{"channel_axes", "--channel-axes"}, {"epsilon", "--epsilon"},
                                            {"threads", "--threads"},           {"slope", "--slope"},
                                            {"mean", "--running-mean"},         {"variance", "--running-variance"}};

void add_normalize_options(CLI::App& app, NormalizeArguments& arguments) {
  app.add_option("INPUT", arguments.input, "the .npy file to normalize; - for standard input")->required();
  app.add_option("-o,--output", arguments.output,
                 "the .npy file to write, complete or not at all; may be the input;\n- for standard output, which is "
                 "written block by block")
      ->option_text("FILE")
      ->required();
  add_channel_axes(app, arguments.channel_axes);

  const auto add_file = [&](const char* name, std::optional<std::string>& path, const char* text) {
    return app.add_option(name, path, text)->option_text("FILE");
  };
  add_file("--gamma", arguments.gamma, "scales, a .npy file of one element per channel (default: 1)");
  add_file("--beta", arguments.beta, "offsets, likewise (default: 0)");
  add_file("--running-mean", arguments.running_mean, "normalize by these means, likewise, not by the input's own");
  add_file("--running-variance", arguments.running_variance, "the variances that belong to them");
  add_file("--statistics-from", arguments.statistics_from,
           "normalize by what --statistics has written of another input,\nwith its epsilon");
  app.add_option("--epsilon", arguments.epsilon, "keeps the divisor from zero (default: 1e-5)")->option_text("NUMBER");
  app.add_option("--epsilon-placement", arguments.epsilon_placement,
                 "what epsilon is added to: the variance, in the square root (default),\nor the standard deviation")
      ->check(CLI::IsMember({"variance", "deviation"}))
      ->option_text("variance|deviation");
  app.add_option("--activation", arguments.activation,
                 "a function of each normalized value: none (default), relu, relu6,\nleaky_relu, silu or hard_swish")
      ->check(CLI::IsMember(std::vector<std::string>(activation_names.begin(), activation_names.end())))
      ->option_text("NAME");
  app.add_option("--slope", arguments.slope, "of leaky_relu below zero (default: 0.01)")->option_text("NUMBER");
  app.add_flag("--ignore-nan", arguments.ignore_nan,
               "leave NaN and infinity out of the statistics: they stay what they are,\nand the rest of their channels "
               "is normalized");
  add_file("--mask", arguments.mask,
           "a .npy file of bool, true where values count: of the input's shape with 1 on\nthe channel axes, or of the "
           "other axes alone; held in memory");
  app.add_option("--masked", arguments.masked,
                 "what becomes of the other values: 0 (default), or normalized as those are\nthat count")
      ->check(CLI::IsMember({"zero", "normalized"}))
      ->option_text("zero|normalized");
  add_file(
      "--weights", arguments.weights,
      "a .npy file of numbers, 0 or more: how much values count for mean and\nvariance; of a mask's shapes; a weight "
      "of 3 is the value three times");
  app.add_option("--dtype", arguments.dtype, "dtype of the output (default: the input's, or float32 for integers)")
      ->check(CLI::IsMember({"float32", "float64", "float16"}))
      ->option_text("float32|float64|float16");
  add_file("--statistics", arguments.statistics,
           "write what each channel was normalized by, as JSON;\n- for standard output");
  add_threads(app, arguments.threads);
  add_block_bytes(app, arguments.block_bytes);
  app.footer(
      "  y = activation(gamma * (x - mean) / sqrt(variance + epsilon) + beta)\n\n"
      "The file is read in blocks: memory does not grow with it. A channel with NaN or infinity becomes NaN,\n"
      "with a warning, unless they are ignored. The output keeps the order of the input, C or Fortran. Where it\n"
      "replaces a file, it keeps the permissions of that, and refuses to replace one that is write-protected or\n"
      "a symbolic link. Standard input that is a pipe is copied to a file in TMPDIR (/tmp) first, as it is read\n"
      "twice.\n\n"
      "Examples:\n"
      "  exactnorm normalize images.npy --output normalized.npy --channel-axes 1\n"
      "  exactnorm normalize images.npy --output normalized.npy --channel-axes -1 \\\n"
      "      --running-mean mean.npy --running-variance variance.npy --gamma gamma.npy --beta beta.npy\n"
      "  exactnorm normalize train.npy --output train_y.npy --channel-axes 1 --statistics fit.json\n"
      "  exactnorm normalize test.npy --output test_y.npy --channel-axes 1 --statistics-from fit.json\n"
      "      (the test data, by mean, variance and epsilon of the training data)\n"
      "  zcat images.npy.gz | exactnorm normalize - --output - --channel-axes 1 | gzip > normalized.npy.gz\n"
      "  mpirun -n 4 exactnorm normalize images.npy --output normalized.npy --channel-axes 1\n"
      "      (four processes share the file, where this was built with MPI; the output is the same)");
}

namespace {

void check_pairs(const NormalizeArguments& arguments) {
  if (arguments.statistics_from && (arguments.running_mean || arguments.running_variance)) {
    throw Error("--statistics-from", std::string("is given with ") +
                                         (arguments.running_mean ? "--running-mean" : "--running-variance") +
                                         "; expected statistics from one of the two");
  }
  if (arguments.running_mean.has_value() != arguments.running_variance.has_value()) {
    const bool has_mean = arguments.running_mean.has_value();
    throw Error(has_mean ? "--running-mean" : "--running-variance",
                std::string("is given alone; expected ") + (has_mean ? "--running-variance" : "--running-mean") +
                    " as well, or neither");
  }
  if (arguments.ignore_nan && (arguments.running_mean || arguments.statistics_from)) {
    throw Error("--ignore-nan", std::string("is given with ") +
                                    (arguments.running_mean ? "--running-mean" : "--statistics-from") +
                                    "; expected statistics of the input itself to leave them out of");
  }
  if (arguments.masked && !arguments.mask) {
    throw Error("--masked", "is given alone; expected --mask as well, or neither");
  }
  const auto refuse_with_weights = [](const std::string& other, const std::string& expected) {
    throw Error("--weights", "is given with " + other + "; expected " + expected);
  };
  if (arguments.weights && (arguments.running_mean || arguments.statistics_from)) {
    refuse_with_weights(arguments.running_mean ? "--running-mean" : "--statistics-from",
                        "statistics of the input itself");
  }
  if (arguments.weights && (arguments.mask || arguments.ignore_nan)) {
    refuse_with_weights(arguments.mask ? "--mask" : "--ignore-nan", "weights of 0 where values do not count");
  }
  if (arguments.slope && arguments.activation != "leaky_relu") {
    throw Error("--slope", "is given with --activation " + arguments.activation +
                               "; expected --activation leaky_relu, which alone has one");
  }
}

}  // namespace

void check_normalize_arguments(const NormalizeArguments& arguments, const Communicator& ranks) {
  check_pairs(arguments);
  std::vector<std::pair<std::string, std::string>> inputs = {{"the input", arguments.input}};
  const auto add = [&](const char* name, const std::optional<std::string>& path) {
    if (path) inputs.emplace_back(name, *path);
  };
  add("--gamma", arguments.gamma);
  add("--beta", arguments.beta);
  add("--running-mean", arguments.running_mean);
  add("--running-variance", arguments.running_variance);
  add("--statistics-from", arguments.statistics_from);
  add("--mask", arguments.mask);
  add("--weights", arguments.weights);
  std::vector<std::string> input_paths;
  input_paths.reserve(inputs.size());
  for (const auto& [name, path] : inputs) input_paths.push_back(path);
  std::vector<std::string> output_paths = {arguments.output};
  if (arguments.statistics) output_paths.push_back(*arguments.statistics);
  check_input_streams(input_paths, ranks);
  check_output_streams(output_paths, ranks);

  const auto refuse_output = [](const char* option, const std::string& name) {
    throw Error(option, "is the same file as " + name + "; expected a file of its own");
  };
  const std::string output = output_path(arguments.output);
  const std::string statistics = arguments.statistics ? output_path(*arguments.statistics) : "";
  if (arguments.statistics && is_same_file(statistics, output)) refuse_output("--statistics", "--output");
  for (const auto& [name, path] : inputs) {
    const std::string input = input_path(path);
    // The output may be a .npy file that it is made of, which is replaced in the end; standard output is not.
    const bool may_be_output = !npy::is_stream(arguments.output) && name != "--statistics-from";
    if (!may_be_output && is_same_file(input, output)) refuse_output("--output", name);
    if (arguments.statistics && is_same_file(input, statistics)) refuse_output("--statistics", name);
  }
}

}  // namespace exactnorm::cli
