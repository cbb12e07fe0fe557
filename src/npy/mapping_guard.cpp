#include "mapping_guard.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <mutex>

namespace exactnorm::npy {
namespace {

static_assert(std::atomic<std::byte*>::is_always_lock_free && std::atomic<std::size_t>::is_always_lock_free);

constinit std::mutex mutex;
constinit std::atomic<MappingGuard::Range*> first = nullptr;
struct sigaction previous {};
std::size_t page_size = 0;

// A mapping as it was when the handler looked: another thread may end it meanwhile.
struct Mapping {
  MappingGuard::Range* range = nullptr;
  std::byte* begin = nullptr;
  std::size_t size = 0;
};

Mapping mapping_around(const void* address) noexcept {
  const auto wanted = reinterpret_cast<std::uintptr_t>(address);
  for (MappingGuard::Range* range = first; range != nullptr; range = range->next) {
    const Mapping mapping = {range, range->begin, range->size};
    if (mapping.begin == nullptr || wanted - reinterpret_cast<std::uintptr_t>(mapping.begin) >= mapping.size) continue;
    // Of one mapping: neither has changed in between.
    if (range->begin == mapping.begin && range->size == mapping.size) return mapping;
  }
  return {};
}

// Puts zeros from the page of `address` to the end of the mapping: more of it is hardly to be had.
bool replace_pages(const Mapping& mapping, const void* address) noexcept {
  const std::size_t offset = static_cast<std::size_t>(static_cast<const std::byte*>(address) - mapping.begin);
  const std::size_t page = offset / page_size * page_size;
  void* const zeros = ::mmap(mapping.begin + page, mapping.size - page, PROT_READ,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
  if (zeros == MAP_FAILED) return false;
  mapping.range->damaged = true;
  return true;
}

// On Linux, mmap() and sigaction() are plain system calls: nothing that a handler may not do.
extern "C" void on_bus_error(int signal, siginfo_t* information, void* /*context*/) {
  const int saved_errno = errno;
  const bool sent_by_a_process = information->si_code <= 0;
  if (!sent_by_a_process) {
    const Mapping mapping = mapping_around(information->si_addr);
    if (mapping.range != nullptr && replace_pages(mapping, information->si_addr)) {
      errno = saved_errno;
      return;
    }
  }
  // Not ours. The access is repeated after return, and meets the handler that was there before.
  ::sigaction(signal, &previous, nullptr);
  if (sent_by_a_process) ::raise(signal);
  errno = saved_errno;
}

void install() {
  page_size = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  struct sigaction action {};
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  ::sigaction(SIGBUS, &action, &previous);
}

}  // namespace

MappingGuard::MappingGuard(std::byte* begin, std::size_t size) {
  const std::scoped_lock lock(mutex);
  static const bool installed = (install(), true);
  static_cast<void>(installed);
  Range* range = first;
  while (range != nullptr && range->begin != nullptr) range = range->next;
  if (range == nullptr) {
    range = new Range;
    range->next = first;
    first = range;
  }
  range->damaged = false;
  range->size = size;
  range->begin = begin;
  range_ = range;
}

MappingGuard::~MappingGuard() { range_->begin = nullptr; }

bool MappingGuard::damaged() const noexcept { return range_->damaged; }

}  // namespace exactnorm::npy
