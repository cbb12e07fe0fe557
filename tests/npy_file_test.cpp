#include "npy/npy_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "exactnorm/tensor.h"
#include "npy/npy_header.h"
#include "support/npy.h"

namespace exactnorm::npy {
namespace {

class NpyFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "exactnorm_npy_XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  [[nodiscard]] std::string path(const std::string& name) const { return directory_ + "/" + name; }
  std::string create(const std::string& name, const std::string& contents) const {
    std::ofstream(path(name), std::ios::binary) << contents;
    return path(name);
  }
  [[nodiscard]] static std::string contents(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  [[nodiscard]] std::size_t files() const {
    const std::filesystem::directory_iterator all(directory_);
    return static_cast<std::size_t>(std::distance(begin(all), end(all)));
  }
  [[nodiscard]] std::string open_error(const std::string& name) const {
    return error_of([&] { const NpyFile file(path(name)); });
  }
  [[nodiscard]] std::string writer_error(const std::string& path) const {
    return error_of([&] { const NpyWriter writer(path, DType::uint8, {2}); });
  }

  std::string directory_;
};

TEST_F(NpyFileTest, RoundTripsEveryTypeAndOrder) {
  for (const DType dtype : npy_dtypes) {
    for (const bool fortran_order : {false, true}) {
      std::vector<std::byte> data(6 * size_of(dtype));
      for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::byte>(i * 37);
      NpyWriter writer(path("x.npy"), dtype, {2, 3}, fortran_order);
      writer.write(std::span(data).first(5));
      writer.write(std::span(data).subspan(5));
      writer.commit();

      const NpyFile file(path("x.npy"));
      EXPECT_EQ(file.dtype(), dtype);
      EXPECT_EQ(file.shape(), (IndexList{2, 3}));
      EXPECT_EQ(file.element_count(), 6);
      EXPECT_EQ(file.strides(), fortran_order ? (IndexList{1, 2}) : (IndexList{3, 1}));
      ASSERT_FALSE(file.needs_copy());
      EXPECT_EQ(std::memcmp(file.view().data, data.data(), data.size()), 0);
      EXPECT_EQ(file.view().strides, file.strides());
      const NpyArray array = read_npy(path("x.npy"));
      EXPECT_EQ(array.bytes, data);
      EXPECT_EQ(array.view().dtype, dtype);
      EXPECT_EQ(array.view().shape, file.shape());
      EXPECT_EQ(array.view().strides, file.strides());
    }
  }
}

TEST_F(NpyFileTest, RoundTripsScalarsAndEmptyShapes) {
  const double value = 2.5;
  write_npy(path("scalar.npy"), view(&value, {}));
  const NpyArray scalar = read_npy(path("scalar.npy"));
  EXPECT_TRUE(scalar.shape.empty());
  EXPECT_EQ(*static_cast<const double*>(scalar.view().data), value);

  write_npy(path("empty.npy"), view(static_cast<const double*>(nullptr), {0, 3}));
  const NpyFile empty(path("empty.npy"));
  EXPECT_EQ(empty.shape(), (IndexList{0, 3}));
  EXPECT_EQ(empty.element_count(), 0);
  EXPECT_EQ(empty.view().shape, (IndexList{0, 3}));
  empty.copy_range(0, 0, nullptr);
  empty.release(0, 0);
  EXPECT_TRUE(read_npy(path("empty.npy")).bytes.empty());
}

TEST_F(NpyFileTest, WritesAnyStrides) {
  const std::array<std::int16_t, 6> data = {1, 2, 3, 4, 5, 6};
  const auto written = [&](const TensorView& tensor) {
    write_npy(path("x.npy"), tensor);
    const NpyArray array = read_npy(path("x.npy"));
    const auto* const values = static_cast<const std::int16_t*>(array.view().data);
    return std::vector<std::int16_t>(values, values + array.bytes.size() / sizeof(std::int16_t));
  };
  using Values = std::vector<std::int16_t>;
  EXPECT_EQ(written(view(data.data(), {2, 3})), (Values{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(written(view(data.data(), {3, 2}, {1, 3})), (Values{1, 4, 2, 5, 3, 6}));
  EXPECT_EQ(written(view(data.data() + 5, {2, 3}, {-3, -1})), (Values{6, 5, 4, 3, 2, 1}));
  EXPECT_EQ(written(view(data.data(), {2, 3}, {0, 2})), (Values{1, 3, 5, 1, 3, 5}));
  EXPECT_EQ(written(view(data.data(), {1, 2}, {99, 1})), (Values{1, 2}));
}

TEST_F(NpyFileTest, SwapsTheOtherByteOrder) {
  const std::string order = little ? ">" : "<";
  const std::string error =
      "/x.npy: data is in the other byte order; expected native byte order and data aligned to its dtype";
  for (const std::size_t size : {2U, 4U, 8U}) {
    std::string data(2 * size, '\0');
    for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<char>(i + 1);
    const NpyFile file(create("x.npy", with_prefix(dict_of(order + "i" + std::to_string(size), "(2,)")) + data));
    EXPECT_TRUE(file.needs_copy());
    EXPECT_EQ(error_of([&] { static_cast<void>(file.view()); }), directory_ + error);
    std::string copy(data.size(), '\0');
    file.copy_range(0, 2, copy.data());
    const auto half = static_cast<std::ptrdiff_t>(size);
    std::reverse(data.begin(), data.begin() + half);
    std::reverse(data.begin() + half, data.end());
    EXPECT_EQ(copy, data);
    file.copy_range(1, 1, copy.data());
    EXPECT_EQ(copy.substr(0, size), data.substr(size));
  }
}

TEST_F(NpyFileTest, CopiesMisalignedData) {
  const std::int32_t value = 0x01020304;
  std::string data(sizeof(value), '\0');
  std::memcpy(data.data(), &value, sizeof(value));
  // 10 + 53 bytes of header.
  const NpyFile file(create("x.npy", with_prefix("{'descr':'=i4','fortran_order':False,'shape':(1,)}\n  ") + data));
  ASSERT_EQ(file.header().data_offset, 63U);
  EXPECT_TRUE(file.needs_copy());
  EXPECT_EQ(error_of([&] { static_cast<void>(file.view()); }),
            path("x.npy") + ": data is misaligned; expected native byte order and data aligned to its dtype");
  std::int32_t copy = 0;
  file.copy_range(0, 1, &copy);
  EXPECT_EQ(copy, value);
}

TEST_F(NpyFileTest, ReleasesAndReadsAgain) {
  constexpr Index count = 1000000;
  std::vector<std::int64_t> data(count);
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::int64_t>(i);
  write_npy(path("x.npy"), view(data, {count}));
  const NpyFile file(path("x.npy"));
  const auto resident_kilobytes = [] {
    std::ifstream status("/proc/self/smaps_rollup");
    std::string word;
    while (status >> word && word != "Rss:") {
    }
    long kilobytes = 0;
    status >> kilobytes;
    return kilobytes;
  };
  std::vector<std::int64_t> copy(count);
  file.copy_range(0, count, copy.data());
  EXPECT_EQ(copy, data);
  const long before = resident_kilobytes();
  file.release(0, count);
  const long after = resident_kilobytes();
  if (before > 0) {
    EXPECT_LT(after, before - 6000);  // of 7,812: the process has other pages, too
  }
  file.release(5, 1);
  file.copy_range(0, count, copy.data());
  EXPECT_EQ(copy, data);
}

// Reads all pages from many threads, as the kernels do.
unsigned sum_of_bytes(std::span<const std::byte> bytes) {
  std::vector<std::thread> threads;
  std::atomic<unsigned> sum = 0;
  for (std::size_t part = 0; part < 4; ++part) {
    threads.emplace_back([&, part] {
      unsigned own = 0;
      for (std::size_t i = part; i < bytes.size(); i += 4) own += std::to_integer<unsigned>(bytes[i]);
      sum += own;
    });
  }
  for (std::thread& thread : threads) thread.join();
  return sum;
}

TEST_F(NpyFileTest, SaysThatAFileWasCutShort) {
  constexpr Index count = 100000;
  const std::string data(count, '\1');
  const std::string whole = with_prefix(dict_of("|u1", "(100000,)")) + data;
  for (const std::size_t left : {whole.size() - 1, std::size_t{50000}, std::size_t{1}, std::size_t{0}}) {
    const std::string name = create("x.npy", whole);
    const NpyFile file(name);
    const NpyFile sound(create("sound.npy", whole));
    const auto* const bytes = static_cast<const std::byte*>(file.view().data);
    EXPECT_EQ(sum_of_bytes({bytes, count}), 100000U);
    file.check();
    std::filesystem::resize_file(name, left);
    EXPECT_LT(sum_of_bytes({bytes, count}), 100000U);
    const std::string message = name + ": was cut short from " + std::to_string(whole.size()) + " to " +
                                std::to_string(left) + " bytes while it was read; expected a file that stays as it is";
    EXPECT_EQ(error_of([&] { file.check(); }), message);
    std::string copy(count, '\0');
    EXPECT_EQ(error_of([&] { file.copy_range(0, count, copy.data()); }), message);
    sound.check();
    // A file of the same name that is whole hides nothing, and neither does one that grows again.
    std::filesystem::resize_file(name, whole.size());
    if (left <= 50000) {
      EXPECT_EQ(error_of([&] { file.check(); }), name +
                                                     ": could not be read to its end (it was cut short, or its disk "
                                                     "failed); expected a readable file that stays as it is");
    }
  }
  // What is mapped later has nothing to do with it.
  const NpyFile file(create("y.npy", whole));
  EXPECT_EQ(read_npy(file).bytes.size(), 100000U);
}

TEST_F(NpyFileTest, AnotherFileInItsPlaceIsHarmless) {
  const NpyFile file(create("x.npy", with_prefix(dict_of("|u1", "(3,)")) + "abc"));
  create("other", "x");
  std::filesystem::rename(path("other"), path("x.npy"));
  file.check();
  std::filesystem::remove(path("x.npy"));
  file.check();
  EXPECT_EQ(std::memcmp(file.view().data, "abc", 3), 0);
}

// GCC defines the first two, Clang has the features.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool has_sanitizer = true;
#elif defined(__has_feature)
constexpr bool has_sanitizer = __has_feature(address_sanitizer) || __has_feature(thread_sanitizer);
#else
constexpr bool has_sanitizer = false;
#endif

// As without a guard: by the signal, or as the sanitizer's handler does it.
bool has_died_of_bus_error(int status) {
  if (has_sanitizer) return WIFEXITED(status) && WEXITSTATUS(status) != 0;
  return WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS;
}

TEST_F(NpyFileTest, OtherBusErrorsStayWhatTheyAre) {
  const NpyFile watched(create("x.npy", with_prefix(dict_of("|u1", "(3,)")) + "abc"));
  EXPECT_EXIT(::raise(SIGBUS), has_died_of_bus_error, "");
  const int descriptor = ::open(create("y", std::string(10000, 'x')).c_str(), O_RDONLY | O_CLOEXEC);
  const void* const mapped = ::mmap(nullptr, 10000, PROT_READ, MAP_PRIVATE, descriptor, 0);
  ASSERT_NE(mapped, MAP_FAILED);
  ::close(descriptor);
  std::filesystem::resize_file(path("y"), 0);
  EXPECT_EXIT(static_cast<void>(*static_cast<const volatile char*>(mapped)), has_died_of_bus_error, "");
}

TEST_F(NpyFileTest, RefusesRangesOutsideTheData) {
  const NpyFile file(create("x.npy", with_prefix(dict_of("|u1", "(3,)")) + "abc"));
  std::array<char, 8> copy{};
  const std::string expected = "; expected a range within its 3 elements";
  for (const auto& [first, count] : {std::pair<Index, Index>{2, 2}, {-1, 1}, {0, -1}, {4, 0}, {1, INT64_MAX}}) {
    const std::string message = path("x.npy") + ": " + std::to_string(count) + " elements from number " +
                                std::to_string(first) + " on" + expected;
    EXPECT_EQ(error_of([&, f = first, c = count] { file.copy_range(f, c, copy.data()); }), message);
    EXPECT_EQ(error_of([&, f = first, c = count] { file.release(f, c); }), message);
  }
}

TEST_F(NpyFileTest, RefusesTheWrongAmountOfData) {
  const std::string header = with_prefix(dict_of("<f4", "(10, 100)"));
  create("short.npy", header + std::string(100, 'x'));
  EXPECT_EQ(open_error("short.npy"),
            path("short.npy") + ": holds 100 bytes of data; expected 4000 for shape (10, 100) float32");
  create("long.npy", header + std::string(4001, 'x'));
  EXPECT_EQ(open_error("long.npy"),
            path("long.npy") + ": holds 4001 bytes of data; expected 4000 for shape (10, 100) float32");
}

TEST_F(NpyFileTest, RefusesToReadWhatIsNoRegularFile) {
  EXPECT_EQ(open_error("none.npy"),
            path("none.npy") + ": cannot be opened (No such file or directory); expected a readable file");
  EXPECT_EQ(open_error(""), path("") + ": is a directory; expected a regular file");
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  EXPECT_EQ(open_error("pipe"), path("pipe") + ": is a pipe; expected a regular file, or - for standard input");
  EXPECT_EQ(error_of([] { const NpyFile file("/dev/null"); }),
            "/dev/null: is a character device; expected a regular file");
  create("empty.npy", "");
  EXPECT_EQ(open_error("empty.npy"), path("empty.npy") + ": is empty; expected a .npy file");
}

TEST_F(NpyFileTest, NamesAMissingPermission) {
  create("x.npy", "x");
  ASSERT_EQ(::chmod(path("x.npy").c_str(), 0), 0);
  ASSERT_EQ(::chmod(directory_.c_str(), 0555), 0);
  constexpr uid_t nobody = 65534;
  const bool root = ::geteuid() == 0;
  if (root && ::seteuid(nobody) != 0) GTEST_SKIP() << "root may read everything";
  const std::string read_error = open_error("x.npy");
  const std::string write_error = writer_error(path("y.npy"));
  if (root) {
    ASSERT_EQ(::seteuid(0), 0);
  }
  ASSERT_EQ(::chmod(directory_.c_str(), 0755), 0);
  EXPECT_EQ(read_error, path("x.npy") + ": cannot be opened (Permission denied); expected a readable file");
  EXPECT_EQ(write_error, path("y.npy") + ": cannot be created (Permission denied); expected a writable directory");
}

TEST_F(NpyFileTest, AbandonedOutputLeavesNothing) {
  create("old.npy", "old");
  {
    NpyWriter writer(path("new.npy"), DType::uint8, {2});
    NpyWriter over(path("old.npy"), DType::uint8, {2});
    over.write(bytes_of("xy"));
    EXPECT_EQ(contents(path("old.npy")), "old");
    EXPECT_EQ(error_of([&] { writer.commit(); }),
              path("new.npy") + ": given 0 bytes of data; expected 2 for shape (2,) uint8");
    EXPECT_EQ(error_of([&] { writer.write(bytes_of("xyz")); }),
              path("new.npy") + ": given 3 bytes of data; expected 2 for shape (2,) uint8");
  }
  EXPECT_EQ(files(), 1U);
  EXPECT_EQ(contents(path("old.npy")), "old");
}

TEST_F(NpyFileTest, CommitReplacesTheOldFile) {
  create("x.npy", "old");
  ::chmod(path("x.npy").c_str(), 0600);
  NpyWriter writer(path("x.npy"), DType::uint8, {2});
  writer.write(bytes_of("xy"));
  EXPECT_EQ(contents(path("x.npy")), "old");
  writer.commit();
  EXPECT_EQ(files(), 1U);
  EXPECT_EQ(contents(path("x.npy")).substr(128), "xy");
  struct stat status {};
  ASSERT_EQ(::stat(path("x.npy").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777U, 0600U);
  NpyWriter first(path("new.npy"), DType::uint8, {0});
  const mode_t other_mask = ::umask(027);
  first.commit();
  ::umask(other_mask);
  ASSERT_EQ(::stat(path("new.npy").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777U, 0640U);
  const std::string closed =
      path("x.npy") + ": is closed; expected a writer that has neither failed nor been committed";
  EXPECT_EQ(error_of([&] { writer.commit(); }), closed);
  EXPECT_EQ(error_of([&] { writer.write(bytes_of("x")); }), closed);
}

TEST_F(NpyFileTest, RefusesToReplaceWhatIsProtected) {
  create("x.npy", "old");
  for (const mode_t mode : {0444U, 0400U, 0U, 0555U}) {
    ASSERT_EQ(::chmod(path("x.npy").c_str(), mode), 0);
    std::string digits = "0000";
    for (std::size_t i = 0; i < 3; ++i) digits[3 - i] = static_cast<char>('0' + (mode >> (3 * i) & 7U));
    EXPECT_EQ(writer_error(path("x.npy")), path("x.npy") + ": is write-protected (mode " + digits +
                                               "); expected a file that may be written, or a new name");
  }
  EXPECT_EQ(files(), 1U);
}

TEST_F(NpyFileTest, RefusesToReplaceWhatIsNoRegularFile) {
  EXPECT_EQ(writer_error("/dev/null"), "/dev/null: is a character device; expected a regular file or a new name");
  EXPECT_EQ(writer_error(directory_), directory_ + ": is a directory; expected a regular file or a new name");
  std::filesystem::create_symlink("target", path("link"));
  EXPECT_EQ(writer_error(path("link")), path("link") + ": is a symbolic link; expected a regular file or a new name");
  EXPECT_EQ(writer_error(""), ": is an empty file name; expected the name of the output");
  EXPECT_EQ(writer_error(path("none/x.npy")),
            path("none/x.npy") + ": cannot be created (No such file or directory); expected a writable directory");
  EXPECT_EQ(error_of([&] { const NpyWriter writer(path("x.npy"), DType::int8, {-1}); }),
            path("x.npy") + ": shape (-1,) has a negative size; expected 0 or more");
  NpyWriter writer(path("x.npy"), DType::uint8, {0});
  std::filesystem::create_directory(path("x.npy"));
  EXPECT_EQ(error_of([&] { writer.commit(); }),
            path("x.npy") + ": is a directory; expected a regular file or a new name");
  EXPECT_EQ(files(), 2U);
}

TEST_F(NpyFileTest, AcceptsTheLongestName) {
  const std::string name(255, 'x');
  const std::vector<double> values = {1.0, 2.0};
  write_npy(path(name), view(values, {2}));
  EXPECT_EQ(read_npy(path(name)).bytes.size(), 16U);
  EXPECT_EQ(files(), 1U);
}

TEST_F(NpyFileTest, FullDiskRemovesTheOutput) {
  // A limit on the size of files behaves as a full disk does: first a short write, then an error.
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &limit), 0);
  const std::string data(4000, 'x');
  NpyWriter writer(path("x.npy"), DType::uint8, {4000});
  const rlimit low{1000, limit.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &low), 0);
  const std::string error = error_of([&] { writer.write(bytes_of(data)); });
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  static_cast<void>(std::signal(SIGXFSZ, old_handler));
  EXPECT_EQ(error, path("x.npy") +
                       ": cannot be written (File too large); expected room for 4000 bytes of data under "
                       "the limit on file sizes (ulimit -f)");
  EXPECT_EQ(files(), 0U);
  EXPECT_EQ(error_of([&] { writer.commit(); }),
            path("x.npy") + ": is closed; expected a writer that has neither failed nor been committed");
}

}  // namespace
}  // namespace exactnorm::npy
