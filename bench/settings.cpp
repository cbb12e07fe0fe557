#include "settings.h"

#include <algorithm>
#include <charconv>
#include <string_view>

#include "exactnorm/error.h"
#include "exactnorm/info.h"
#include "peer.h"

namespace exactnorm::bench {
namespace {

const std::vector<std::string> set_names = {"resnet50", "dense", "notebook", "sizes"};
const std::vector<std::string> operation_names = {"training",      "inference",      "backward",
                                                  "training+relu", "inference+relu", "backward+relu"};
constexpr std::size_t operations = 3;  // with relu, and without
const std::vector<std::string> dtype_names = {"float32", "float64"};
const std::vector<std::string> data_names = {"normal", "relu", "wide"};

std::string listed(const std::vector<std::string>& names) {
  std::string result;
  for (std::size_t i = 0; i < names.size(); ++i) {
    result += (i == 0 ? "" : i + 1 == names.size() ? " or " : ", ") + names[i];
  }
  return result;
}

CLI::Validator one_of(const std::vector<std::string>& names) {
  return CLI::Validator(
      [&names](const std::string& text) {
        if (std::find(names.begin(), names.end(), text) != names.end()) return std::string();
        return "is \"" + text + "\"; expected " + listed(names);
      },
      "");
}

template <typename Enumeration>
Enumeration enumerator(const std::vector<std::string>& names, const std::string& name) {
  return static_cast<Enumeration>(std::find(names.begin(), names.end(), name) - names.begin());
}

IndexList parse_shape(const std::string& text) {
  const Error wrong("--shape", "is \"" + text + "\"; expected N,C,H,W or N,C, positive numbers as in 32,64,56,56");
  constexpr Index most_elements = Index{1} << 40;
  IndexList sizes;
  Index elements = 1;
  const char* const end = text.data() + text.size();
  for (const char* at = text.data();; ++at) {
    Index size = 0;
    const auto [stop, problem] = std::from_chars(at, end, size);
    if (problem != std::errc{} || size < 1 || size > most_elements / elements || sizes.size() == 4) throw wrong;
    sizes.push_back(size);
    elements *= size;
    if (stop == end) break;
    if (*stop != ',') throw wrong;
    at = stop;
  }
  if (sizes.size() != 2 && sizes.size() != 4) throw wrong;
  return sizes;
}

// Channels and image side of the batch normalizations of ResNet-50 (He and others, 2015), without repeats.
std::vector<IndexList> resnet50_shapes(Index batch) {
  std::vector<IndexList> shapes;
  for (const auto& [channels, side] : std::vector<std::pair<Index, Index>>{
           {64, 112}, {64, 56}, {256, 56}, {128, 28}, {512, 28}, {256, 14}, {1024, 14}, {512, 7}, {2048, 7}}) {
    shapes.push_back({batch, channels, side, side});
  }
  return shapes;
}

// From a kilobyte to a gigabyte per tensor in steps of four, and two gigabytes; 64 channels, up to 32 images.
std::vector<IndexList> shapes_of_all_sizes(Index bytes_per_element) {
  std::vector<Index> sizes;
  for (Index bytes = 1024; bytes <= Index{1} << 30; bytes *= 4) sizes.push_back(bytes);
  sizes.push_back(Index{1} << 31);
  std::vector<IndexList> shapes;
  for (const Index bytes : sizes) {
    constexpr Index channels = 64;
    const Index images = bytes / bytes_per_element / channels;
    const Index batch = std::clamp<Index>(images / 2, 1, 32);
    const Index pixels = images / batch;
    Index height = 1;
    while (height * height * 4 <= pixels) height *= 2;
    shapes.push_back({batch, channels, height, pixels / height});
  }
  return shapes;
}

}  // namespace

SettingsParser::SettingsParser(CLI::App& app) {
  const auto list = [&](const char* name, std::vector<std::string>& values, const std::vector<std::string>& names,
                        const char* description) {
    return app.add_option(name, values, description)
        ->check(one_of(names))
        ->delimiter(',')
        ->allow_extra_args(false)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  };
  app.add_option("--shape", shapes_, "N,C,H,W or N,C, whatever the order in memory; may be repeated")
      ->option_text("SIZE,SIZE[,SIZE,SIZE]")
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  list("--set", sets_, set_names,
       "shapes by name: resnet50; dense (N,C); notebook, of hwcn\nand cn; sizes, 1 KB to 2 GB a tensor")
      ->option_text("SET[,SET...]");
  list("--layout", layouts_, layout_names(),
       "nchw, nhwc, nChw8c, nChw16c, hwcn, sliced (nchw with gaps\nafter each row), nc or cn (default: nchw or nc, by "
       "the "
       "shape)")
      ->option_text("LAYOUT[,LAYOUT...]");
  list("--op", operations_, operation_names, "training (default), inference or backward; each with +relu\nbehind it")
      ->option_text("OP[,OP...]");
  app.add_option("--dtype", dtype_, "float32 (default) or float64")->check(one_of(dtype_names))->option_text("DTYPE");
  app.add_option("--data", data_, "normal (default), relu (half of it zeros) or wide (2^-20 to\n2^20 times normal)")
      ->check(one_of(data_names))
      ->option_text("DATA");
  app.add_option("--batch", batch_, "N of --set resnet50 (default: 32)")
      ->check(CLI::Range(1, 65536))
      ->option_text("NUMBER");
  app.add_option("--threads", manner_.threads, "threads of everybody (default: all)")
      ->check(CLI::Range(1, 1024))
      ->option_text("NUMBER");
  app.add_option("--peer", peer_,
                 "whom to compare with: none (default), onednn-newest,\nonednn-gomp (built for GNU OpenMP), onednn, "
                 "the faster of\nthese two in each row, libxsmm, in its own layout, or\nbaseline, another build of "
                 "this library")
      ->check(one_of(peer_names()))
      ->option_text("PEER");
  app.add_option("--peer-layout", manner_.peer_layout, "the peer's layout (default: the same)")
      ->check(one_of(layout_names()))
      ->option_text("LAYOUT");
  app.add_option("--rounds", manner_.effort.rounds, "rounds at least (default: 11)")
      ->check(CLI::Range(1, 1'000'000))
      ->option_text("NUMBER");
  app.add_option("--seconds", manner_.effort.seconds, "seconds per row at least (default: 1)")
      ->check(CLI::Range(0.0, 86400.0))
      ->option_text("NUMBER");
  app.add_flag("--exact-sums", manner_.exact_sums,
               "time this library with exact sums alone, too, after a check\nthat its bits are the same, and count "
               "the channels that quick\nsums leave undecided (float32)");
  app.add_flag("--cold", manner_.cold,
               "as met in a network: before each call all tensors are evicted\nfrom the caches and other processors "
               "write x, or dy, anew;\nafter it, and in its time, the output is read");
  app.add_flag("--json", json_, "print JSON");
}

std::vector<SettingsParser::Shape> SettingsParser::shapes() const {
  std::vector<Shape> shapes;
  for (const std::string& text : shapes_) {
    const IndexList sizes = parse_shape(text);
    shapes.push_back({sizes, sizes.size() == 4 ? "nchw" : "nc"});
  }
  for (const std::string& set : sets_) {
    if (set == "resnet50") {
      for (const IndexList& sizes : resnet50_shapes(batch_)) shapes.push_back({sizes, "nchw"});
    } else if (set == "dense") {
      for (const IndexList& sizes : {IndexList{256, 1024}, IndexList{8192, 512}, IndexList{64, 64}}) {
        shapes.push_back({sizes, "nc"});
      }
    } else if (set == "notebook") {
      shapes.push_back({{32, 64, 56, 56}, "hwcn"});
      shapes.push_back({{8192, 512}, "cn"});
    } else {
      const Index bytes = dtype_ == "float32" ? 4 : 8;
      for (const IndexList& sizes : shapes_of_all_sizes(bytes)) shapes.push_back({sizes, "nchw"});
    }
  }
  if (shapes.empty()) throw Error("--shape", "is not given; expected it or --set");
  return shapes;
}

Settings SettingsParser::settings() const {
  Settings settings;
  settings.peer = peer_;
  settings.manner = manner_;
  if (manner_.threads == 0) settings.manner.threads = default_threads();
  settings.json = json_;
  const std::string& peer_layout = manner_.peer_layout;
  if (!peer_layout.empty() && peer_ == "none") throw Error("--peer-layout", "is given without a peer; expected --peer");
  if (manner_.cold && (!peer_layout.empty() || peer_ == "libxsmm"))
    throw Error("--cold", "is given with a peer that has another layout; expected one with that of the case");
  for (const Shape& shape : shapes()) {
    // With several shapes and layouts, each shape takes those of its dimensions.
    std::vector<std::string> layouts = layouts_.empty() ? std::vector{shape.default_layout} : layouts_;
    std::erase_if(layouts, [&](const std::string& layout) { return rank_of(layout) != shape.sizes.size(); });
    if (layouts.empty()) {
      throw Error("--layout", "has none for shape " + to_string(shape.sizes) + "; expected one of " +
                                  (shape.sizes.size() == 2 ? "2 axes" : "4 axes"));
    }
    for (const std::string& operation : operations_) {
      for (const std::string& layout : layouts) {
        static_cast<void>(place(layout, shape.sizes));
        if (!peer_layout.empty()) static_cast<void>(place(peer_layout, shape.sizes));
        const auto number = static_cast<std::size_t>(
            std::find(operation_names.begin(), operation_names.end(), operation) - operation_names.begin());
        settings.cases.push_back({static_cast<Operation>(number % operations), layout, shape.sizes,
                                  dtype_ == "float32" ? DType::float32 : DType::float64,
                                  enumerator<Data>(data_names, data_), number >= operations});
      }
    }
  }
  return settings;
}

}  // namespace exactnorm::bench
