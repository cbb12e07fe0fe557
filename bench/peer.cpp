#include "peer.h"

#include <dlfcn.h>
#include <fmt/core.h>

#include <exception>
#include <stdexcept>

namespace exactnorm::bench {
namespace {

std::unique_ptr<Peer> load_peer(const std::string& name, int threads) {
  // The program's run path has the directory.
  void* const handle = ::dlopen(("exactnorm_bench_" + name + ".so").c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) throw std::runtime_error(::dlerror());
  const auto make_peer = reinterpret_cast<MakePeer>(::dlsym(handle, make_peer_symbol));
  if (make_peer == nullptr) throw std::runtime_error(::dlerror());
  return std::unique_ptr<Peer>(make_peer(threads));
}

}  // namespace

const std::vector<std::string>& peer_names() {
  static const std::vector<std::string> names = {"none",        "onednn",  "onednn-newest",
                                                 "onednn-gomp", "libxsmm", "baseline"};
  return names;
}

std::vector<std::unique_ptr<Peer>> load_peers(const std::string& name, int threads) {
  std::vector<std::unique_ptr<Peer>> peers;
  if (name == "none") return peers;
  const std::vector<std::string> modules =
      name == "onednn" ? std::vector<std::string>{"onednn-newest", "onednn-gomp"} : std::vector{name};
  std::string problems;
  for (const std::string& module : modules) {
    try {
      peers.push_back(load_peer(module, threads));
    } catch (const std::exception& error) {
      problems += fmt::format("\n  {}: {}", module, error.what());
    }
  }
  if (peers.empty()) {
    throw std::runtime_error(
        fmt::format("--peer {}: cannot be had; \"make bench\" gets peers and builds what uses them{}", name, problems));
  }
  if (!problems.empty()) fmt::print(stderr, "exactnorm_bench: warning: not all of {} can be had{}\n", name, problems);
  return peers;
}

}  // namespace exactnorm::bench
