#include "report.h"

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <cstdio>
#include <fstream>

#include "exactnorm/info.h"
#include "timing.h"

namespace exactnorm::bench {
namespace {

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line)) {
    const std::size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown processor";
}

// Not from sysconf, which is wrong on some processors of AMD.
Index last_level_cache() {
  Index kilobytes = 0;
  int highest = 0;
  for (int index = 0;; ++index) {
    const std::string cache = fmt::format("/sys/devices/system/cpu/cpu0/cache/index{}/", index);
    std::ifstream level_file(cache + "level");
    int level = 0;
    if (!(level_file >> level)) return kilobytes * 1024;
    // As in 32768K, whatever the size.
    if (level > highest && std::ifstream(cache + "size") >> kilobytes) highest = level;
  }
}

std::string shape_text(const IndexList& shape) { return fmt::format("{}", fmt::join(shape, ",")); }

// Four digits at least, whatever the size.
std::string milliseconds_text(double value) {
  return fmt::format("{:.{}f}", value, value < 1 ? 5 : value < 10 ? 4 : value < 100 ? 3 : 2);
}

cli::Json to_json(const PeerDescription& peer) {
  return {{"name", peer.name}, {"version", peer.version}, {"isa", peer.isa}, {"runtime", peer.runtime}};
}

cli::Json quartiles(const std::vector<double>& values) { return {quantile(values, 0.25), quantile(values, 0.75)}; }

}  // namespace

Circumstances find_circumstances(const Manner& manner, const Peers& peers) {
  Circumstances result = {std::string(version()), active_target(),   processor_name(), manner.threads,
                          last_level_cache(),     manner.exact_sums, manner.cold,      {}};
  for (const auto& peer : peers) result.peers.push_back(peer->description());
  return result;
}

void print_header(const Circumstances& circumstances) {
  fmt::print("exactnorm {}, target {}, {} thread{}, {}\n", circumstances.version, circumstances.target,
             circumstances.threads, circumstances.threads == 1 ? "" : "s", circumstances.processor);
  for (const PeerDescription& peer : circumstances.peers) {
    fmt::print("{} {}, {}, {}\n", peer.name, peer.version, peer.runtime, peer.isa);
  }
  fmt::print("Medians; limit: the faster of two ways to move the least bytes that the operation has to.\n\n");
  if (circumstances.cold) fmt::print("Tensors are cold; times are of a call and of a pass over its output.\n\n");
  if (circumstances.exact_sums) fmt::print("Undecided: channels that quick sums leave to exact ones.\n\n");
  fmt::print("{:<9} {:<7} {:<16} {:<7} {:>9} {:>9} {:>9} {:>9} {:>9} {:>10} {:>6}{}  {}\n", "op", "layout", "shape",
             "dtype", "MB", "ours ms", "peer ms", "peer/ours", "limit ms", "ours/limit", "GB/s",
             circumstances.exact_sums ? fmt::format(" {:>9} {:>10} {:>9}", "exact ms", "exact/ours", "undecided") : "",
             "peer");
  std::fflush(stdout);
}

void print_row(const Row& row) {
  const double ours = median(row.ours);
  const std::vector<double>& limit = row.limit();
  const Row::PeerRow* const peer = row.best_peer();
  std::string line =
      fmt::format("{:<9} {:<7} {:<16} {:<7} {:>9.4g} {:>9} {:>9} {:>9} {:>9} {:>10.2f} {:>6.1f}",
                  operation_of(row.measured), row.measured.layout, shape_text(row.measured.shape),
                  name_of(row.measured.dtype), static_cast<double>(row.bytes_per_tensor) / 1e6, milliseconds_text(ours),
                  peer != nullptr ? milliseconds_text(median(peer->milliseconds)) : "-",
                  peer != nullptr ? fmt::format("{:.2f}", median_ratio(peer->milliseconds, row.ours)) : "-",
                  milliseconds_text(median(limit)), median_ratio(row.ours, limit), row.bytes_moved() / ours / 1e6);
  if (!row.exact.empty()) {
    line += fmt::format(" {:>9} {:>10.2f} {:>8.2f}%", milliseconds_text(median(row.exact)),
                        median_ratio(row.exact, row.ours), 100 * row.decided.exact);
  }
  if (peer != nullptr) line += fmt::format("  {} {} {}", peer->description.version, peer->layout, peer->implementation);
  fmt::print("{}\n", line);
  std::fflush(stdout);
}

cli::Json to_json(const Circumstances& circumstances) {
  cli::Json json = {{"exactnorm_version", circumstances.version},
                    {"target", circumstances.target},
                    {"cpu", circumstances.processor},
                    {"threads", circumstances.threads},
                    {"cache_bytes", circumstances.cache_bytes},
                    {"peers", cli::Json::array()}};
  for (const PeerDescription& peer : circumstances.peers) json["peers"].push_back(to_json(peer));
  return json;
}

cli::Json to_json(const Row& row, const Circumstances& circumstances) {
  const std::vector<double>& limit = row.limit();
  const double ours = median(row.ours);
  cli::Json json = {{"op", operation_of(row.measured)},
                    {"layout", row.measured.layout},
                    {"shape", std::vector<Index>(row.measured.shape.begin(), row.measured.shape.end())},
                    {"dtype", name_of(row.measured.dtype)},
                    {"data", name_of(row.measured.data)},
                    {"bytes_per_tensor", row.bytes_per_tensor},
                    {"threads", circumstances.threads},
                    {"target", circumstances.target},
                    {"exactnorm_version", circumstances.version},
                    {"cpu", circumstances.processor},
                    {"rounds", row.ours.size()},
                    {"other_load", row.other_load},
                    {"cold", circumstances.cold},
                    {"bytes_moved", row.bytes_moved()},
                    {"cache_bytes", circumstances.cache_bytes},
                    {"milliseconds",
                     {{"exactnorm", ours},
                      {"peer", nullptr},
                      {"copy", median(row.copy)},
                      {"copy_nontemporal", median(row.copy_nontemporal)},
                      {"limit", median(limit)}}},
                    {"quartiles", {{"exactnorm", quartiles(row.ours)}, {"peer", nullptr}}},
                    {"peer", nullptr},
                    {"peers", cli::Json::array()},
                    {"ratio_to_peer", nullptr},
                    {"ratio_to_limit", median_ratio(row.ours, limit)},
                    {"gigabytes_per_second", row.bytes_moved() / ours / 1e6}};
  if (row.measured.dtype == DType::float32 && row.measured.operation != Operation::inference) {
    json["channels_decided"] = {
        {"quick", row.decided.quick}, {"centred", row.decided.centred}, {"exact", row.decided.exact}};
  }
  if (!row.exact.empty()) {
    json["milliseconds"]["exact_sums"] = median(row.exact);
    json["ratio_to_exact_sums"] = median_ratio(row.exact, row.ours);
  }
  if (circumstances.cold) json["milliseconds_reading"] = {{"exactnorm", median(row.our_reading)}};
  for (const Row::PeerRow& peer : row.peers) {
    cli::Json peer_json = to_json(peer.description);
    peer_json["layout"] = peer.layout;
    peer_json["implementation"] = peer.implementation;
    if (&peer == row.best_peer()) json["peer"] = peer_json;
    peer_json["milliseconds"] = median(peer.milliseconds);
    json["peers"].push_back(peer_json);
  }
  if (const Row::PeerRow* const peer = row.best_peer()) {
    json["milliseconds"]["peer"] = median(peer->milliseconds);
    json["quartiles"]["peer"] = quartiles(peer->milliseconds);
    json["ratio_to_peer"] = median_ratio(peer->milliseconds, row.ours);
    if (circumstances.cold) json["milliseconds_reading"]["peer"] = median(peer->reading);
  }
  return json;
}

}  // namespace exactnorm::bench
