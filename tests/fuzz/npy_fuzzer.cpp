#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "exactnorm/error.h"
#include "npy/npy_file.h"
#include "npy/npy_header.h"

namespace {

using exactnorm::Index;

void require(bool holds) {
  if (!holds) std::abort();
}

/// A header that is accepted is consistent, and survives being written and read again.
void check_header(std::span<const std::byte> bytes) {
  const exactnorm::npy::NpyHeader header = exactnorm::npy::parse_npy_header(bytes, "fuzz.npy");
  require(header.data_offset <= bytes.size());
  const std::vector<std::byte> written =
      exactnorm::npy::format_npy_header(header.dtype, header.shape, header.fortran_order);
  const exactnorm::npy::NpyHeader again = exactnorm::npy::parse_npy_header(written, "fuzz.npy");
  require(again.dtype == header.dtype && again.shape == header.shape && again.fortran_order == header.fortran_order);
  require(again.data_offset == written.size() && written.size() % 64 == 0);
}

/// The first and the last element of a file that is accepted can be read in every way.
void check_file(const std::string& path) {
  const exactnorm::npy::NpyFile file(path);
  const std::size_t size = exactnorm::size_of(file.dtype());
  const Index count = file.element_count();
  for (const Index element : {Index{0}, count - 1}) {
    if (element < 0 || element >= count) continue;
    std::array<std::byte, 8> copy{};
    file.copy_range(element, 1, copy.data());
    if (!file.needs_copy()) {
      // With either order, the elements of the file lie one after the other from element (0, 0, ...) on.
      const auto* const data = static_cast<const std::byte*>(file.view().data);
      require(std::memcmp(data + static_cast<std::size_t>(element) * size, copy.data(), size) == 0);
    }
  }
  if (count > 0) {
    const exactnorm::IndexList strides = file.strides();
    Index last = 0;
    for (std::size_t axis = 0; axis < strides.size(); ++axis) last += strides[axis] * (file.shape()[axis] - 1);
    require(last == count - 1);
  }
  file.release(0, count);
  const exactnorm::npy::NpyArray array = exactnorm::npy::read_npy(path);
  require(array.bytes.size() == static_cast<std::size_t>(count) * size);
}

template <typename Check>
void tolerate_errors(const Check& check) {
  try {
    check();
  } catch (const exactnorm::Error& error) {
    // Messages quote the file, which must not reach a terminal as it is.
    for (const char* character = error.what(); *character != '\0'; ++character) {
      require(*character >= ' ' && *character <= '~');
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::span<const std::byte> bytes = std::as_bytes(std::span(data, size));
  tolerate_errors([bytes] { check_header(bytes); });

  static const int descriptor = ::memfd_create("fuzz.npy", MFD_CLOEXEC);
  static const std::string path = "/proc/self/fd/" + std::to_string(descriptor);
  require(descriptor >= 0);
  require(::ftruncate(descriptor, 0) == 0);
  require(::pwrite(descriptor, data, size, 0) == static_cast<ssize_t>(size));
  tolerate_errors([] { check_file(path); });
  return 0;
}
