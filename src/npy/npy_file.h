#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "exactnorm/tensor.h"
#include "mapped_file.h"
#include "npy_header.h"
#include "output_file.h"

namespace exactnorm::npy {

/// A .npy file, mapped into memory for reading. The const functions may be called from several threads at once.
class NpyFile {
 public:
  /// "-" is standard input. Throws Error, with the file's name as its argument, unless the file is a well-formed .npy
  /// file that holds exactly the bytes that its header promises.
  explicit NpyFile(const std::string& path);

  /// Errors name it so.
  [[nodiscard]] const std::string& name() const noexcept { return file_.name(); }
  [[nodiscard]] const NpyHeader& header() const noexcept { return header_; }
  [[nodiscard]] const IndexList& shape() const noexcept { return header_.shape; }
  [[nodiscard]] DType dtype() const noexcept { return header_.dtype; }
  [[nodiscard]] Index element_count() const noexcept { return element_count_; }
  /// In elements: row-major, or column-major for a file in Fortran order.
  [[nodiscard]] IndexList strides() const noexcept;

  /// Whether the data is in the other byte order or misaligned, so that it cannot be viewed in place.
  [[nodiscard]] bool needs_copy() const noexcept;
  /// The data in place, valid while this object lives, and right if check() says so afterwards. Throws Error when
  /// needs_copy().
  [[nodiscard]] TensorView view() const;
  /// Copies `count` elements, in the order of the file and from number `first` on, and in native byte order.
  /// `destination` may have any alignment. Throws Error when the range leaves the data, or as check() does.
  void copy_range(Index first, Index count, void* destination) const;
  /// Throws Error when the file has been shortened or could not be read: what was read of view() may be wrong.
  void check() const { file_.check(); }
  /// Gives the memory of these elements back to the system, up to whole pages; they stay readable.
  /// Throws Error when the range leaves the data.
  void release(Index first, Index count) const;

 private:
  void check_range(Index first, Index count) const;
  [[nodiscard]] bool swapped() const noexcept;

  MappedFile file_;
  NpyHeader header_;
  Index element_count_ = 0;
};

/// Writes a .npy file that appears under its name complete or not at all, as an OutputFile. After a failed write or
/// commit() the writer is closed.
class NpyWriter {
 public:
  /// Creates the hidden file and writes the header. "-" is standard output. Throws Error as OutputFile does.
  NpyWriter(const std::string& path, DType dtype, const IndexList& shape, bool fortran_order = false);
  /// Takes part in another process's writer, made with the same arguments, of which `shared` is what its share()
  /// returned: only write_at() and finish_part() are for it. The file is left to the other process.
  NpyWriter(const std::string& path, DType dtype, const IndexList& shape, bool fortran_order,
            const std::string& shared);

  /// Appends elements in native byte order and in the order of the file. Throws Error when the system does, or
  /// when there are more bytes than the shape has; then none of them are written.
  void write(std::span<const std::byte> bytes);
  /// Writes elements from number `first` on, in any order, to standard output in their own; each once. Throws Error as
  /// write() does.
  void write_at(Index first, std::span<const std::byte> bytes);
  /// As OutputFile::share().
  [[nodiscard]] std::string share(bool by_name) { return file_.share(by_name); }
  /// For a writer that takes part: closes the file, and returns how many bytes of data it has written. Throws Error
  /// when the system could not write them all.
  Index finish_part();
  /// Ends writing. Throws Error when the system could not write all, or when there are fewer bytes than the shape has,
  /// with those that the writers of other processes have written.
  void finish(Index bytes_of_others = 0);
  /// Gives the file its name, after finish() if need be.
  void commit();

 private:
  void require_open() const;

  DType dtype_;
  IndexList shape_;
  Index expected_bytes_;
  Index written_bytes_ = 0;
  std::size_t header_bytes_ = 0;
  OutputFile file_;
};

/// A tensor that owns its memory.
struct NpyArray {
  DType dtype = DType::float32;
  IndexList shape;
  IndexList strides;
  /// In the order that `strides` describes. The allocator aligns it for every dtype.
  std::vector<std::byte> bytes;

  [[nodiscard]] TensorView view() const noexcept { return {bytes.data(), dtype, shape, strides}; }
};

/// Reads a whole file. Throws Error as NpyFile does.
[[nodiscard]] NpyArray read_npy(const NpyFile& file);
[[nodiscard]] NpyArray read_npy(const std::string& path);

/// Writes a tensor with any strides, in C order. Throws Error as NpyWriter does.
void write_npy(const std::string& path, const TensorView& tensor);

}  // namespace exactnorm::npy
