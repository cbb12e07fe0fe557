#include "npy_header.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <utility>

#include "exactnorm/error.h"

namespace exactnorm::npy {
namespace {

constexpr std::string_view magic = "\x93NUMPY";
constexpr std::size_t version_end = magic.size() + 2;
constexpr std::size_t alignment = 64;
constexpr std::size_t maximum_header_length = std::size_t{1} << 20;
constexpr Index byte_count_limit = Index{1} << 62;
constexpr bool native_is_big_endian = std::endian::native == std::endian::big;
constexpr std::string_view expected_keys = "expected 'descr', 'fortran_order' and 'shape'";

[[noreturn]] void fail(std::string_view argument, const std::string& problem) {
  throw Error(std::string(argument), problem);
}

/// Text from the file, made safe to print: short, on one line and without control characters.
std::string quoted(std::string_view text) {
  constexpr std::size_t longest = 40;
  constexpr std::string_view hexadecimal = "0123456789abcdef";
  std::string result = "'";
  for (const char character : text.substr(0, longest)) {
    if (character >= ' ' && character <= '~') {
      if (character == '\'' || character == '\\') result += '\\';
      result += character;
    } else {
      const auto value = static_cast<unsigned char>(character);
      result += "\\x";
      result += hexadecimal[value >> 4U];
      result += hexadecimal[value & 15U];
    }
  }
  if (text.size() > longest) result += "...";
  return result + "'";
}

struct ElementType {
  DType dtype = DType::float32;
  bool big_endian = false;
};

struct Code {
  std::string_view text;
  DType dtype;
};
// NumPy has no bfloat16.
constexpr std::array codes = {Code{"f4", DType::float32}, Code{"f8", DType::float64}, Code{"f2", DType::float16},
                              Code{"u1", DType::uint8},   Code{"i1", DType::int8},    Code{"u2", DType::uint16},
                              Code{"i2", DType::int16},   Code{"u4", DType::uint32},  Code{"i4", DType::int32},
                              Code{"i8", DType::int64},   Code{"b1", DType::boolean}};

std::string expected_dtypes() {
  return "; expected float32, float64, float16, uint8, int8, uint16, int16, uint32, int32, int64 or bool";
}

/// The type that a descr such as "<f4" stands for; nothing when it is not supported.
std::optional<ElementType> parse_descr(std::string_view descr) {
  if (descr.empty()) return std::nullopt;
  const char order = descr.front();
  for (const auto& [code, dtype] : codes) {
    if (descr.substr(1) != code) continue;
    // NumPy writes '|' for the types of one byte, and takes the three others for the same.
    if (size_of(dtype) == 1 && (order == '|' || order == '<' || order == '>' || order == '=')) {
      return ElementType{dtype, false};
    }
    if (size_of(dtype) == 1 || order == '|') return std::nullopt;
    if (order == '<') return ElementType{dtype, false};
    if (order == '>') return ElementType{dtype, true};
    if (order == '=') return ElementType{dtype, native_is_big_endian};
  }
  return std::nullopt;
}

std::string descr_of(DType dtype) {
  const auto* const found =
      std::find_if(codes.begin(), codes.end(), [&](const Code& code) { return code.dtype == dtype; });
  if (found == codes.end()) throw Error("dtype", "is " + std::string(name_of(dtype)) + expected_dtypes());
  const std::string order = size_of(dtype) == 1 ? "|" : native_is_big_endian ? ">" : "<";
  return order + std::string(found->text);
}

/// Reads the one Python literal that a header consists of, a dict with three known keys. Reading no other
/// literals keeps hostile files from reaching anything recursive.
class DictParser {
 public:
  /// `offset` is where `text` lies in the file, for messages.
  DictParser(std::string_view text, std::size_t offset, std::string_view file_name)
      : text_(text), offset_(offset), file_name_(file_name) {}

  NpyHeader parse() {
    skip_whitespace();
    expect('{');
    skip_whitespace();
    while (peek() != '}') {
      const std::string_view key = parse_string("a quoted key");
      skip_whitespace();
      expect(':');
      skip_whitespace();
      parse_value(key);
      skip_whitespace();
      if (peek() == '}') break;
      if (peek() != ',') fail_here("',' or '}'");
      ++position_;
      skip_whitespace();
    }
    ++position_;
    while (position_ < text_.size() && (text_[position_] == ' ' || text_[position_] == '\n')) ++position_;
    if (position_ < text_.size()) fail_here("only spaces and a newline after the dict");

    require(type_.has_value(), "descr");
    require(fortran_order_.has_value(), "fortran_order");
    require(shape_.has_value(), "shape");
    return {type_->dtype, type_->big_endian, *fortran_order_, *shape_, offset_ + text_.size()};
  }

 private:
  void parse_value(std::string_view key) {
    if (key == "descr") {
      require_first(type_.has_value(), key);
      type_ = parse_type();
    } else if (key == "fortran_order") {
      require_first(fortran_order_.has_value(), key);
      fortran_order_ = parse_bool();
    } else if (key == "shape") {
      require_first(shape_.has_value(), key);
      shape_ = parse_shape();
    } else {
      fail(file_name_, "header has the key " + quoted(key) + "; " + std::string(expected_keys));
    }
  }

  ElementType parse_type() {
    const std::string expected = expected_dtypes();
    if (peek() == '[' || peek() == '(') fail(file_name_, "structured dtype" + expected);
    const std::string_view descr = parse_string("a quoted dtype");
    const std::optional<ElementType> type = parse_descr(descr);
    if (!type) fail(file_name_, "dtype " + quoted(descr) + expected);
    return *type;
  }

  bool parse_bool() {
    for (const bool value : {true, false}) {
      const std::string_view name = value ? "True" : "False";
      if (text_.substr(position_).starts_with(name)) {
        position_ += name.size();
        return value;
      }
    }
    fail_here("True or False");
  }

  IndexList parse_shape() {
    IndexList shape;
    expect('(');
    skip_whitespace();
    bool comma = false;
    while (peek() != ')') {
      if (shape.size() == maximum_rank) fail(file_name_, "shape has more than 8 dimensions; expected 0 to 8");
      shape.push_back(parse_integer());
      skip_whitespace();
      comma = peek() == ',';
      if (comma) {
        ++position_;
        skip_whitespace();
      } else if (peek() != ')') {
        fail_here("',' or ')'");
      }
    }
    // To Python "(3)" is a number, not a tuple.
    if (shape.size() == 1 && !comma) fail_here("',' before it, as in (3,)");
    ++position_;
    return shape;
  }

  Index parse_integer() {
    const std::size_t begin = position_;
    if (peek() == '-') ++position_;
    const std::size_t first_digit = position_;
    // The limit of 2^62 is left to checked_byte_count, which knows the other sizes and the dtype.
    constexpr Index largest = std::numeric_limits<Index>::max();
    Index value = 0;
    bool overflow = false;
    while (peek() >= '0' && peek() <= '9') {
      const Index digit = peek() - '0';
      overflow = overflow || value > (largest - digit) / 10;
      if (!overflow) value = value * 10 + digit;
      ++position_;
    }
    if (position_ == first_digit) fail_here("an integer");
    const std::string_view digits = text_.substr(begin, position_ - begin);
    if (overflow) fail(file_name_, "shape has the size " + quoted(digits) + "; expected less than 2^62");
    if (text_[first_digit] == '0' && position_ - first_digit > 1) {
      fail(file_name_, "shape has the size " + quoted(digits) + "; expected no leading zeros");
    }
    // Python 2 marked long integers so.
    if (peek() == 'L') ++position_;
    return first_digit == begin ? value : -value;
  }

  std::string_view parse_string(std::string_view expected) {
    // Python 2 wrote u'<f4'. Without escape sequences, a raw string is like any other.
    constexpr std::string_view prefixes = "uUrR";
    if (is_quote(position_ + 1) && prefixes.find(peek()) != std::string_view::npos) ++position_;
    const char quote = peek();
    if (quote != '\'' && quote != '"') fail_here(expected);
    const std::size_t begin = ++position_;
    while (peek() != quote) {
      // No supported dtype and no key needs an escape sequence.
      const auto character = static_cast<unsigned char>(peek());
      if (position_ == text_.size() || character < ' ' || character == '\\') fail_here("a closing quote");
      ++position_;
    }
    return text_.substr(begin, position_++ - begin);
  }

  /// The next character; '\0', which is valid nowhere in a header, at its end.
  [[nodiscard]] char peek() const { return position_ < text_.size() ? text_[position_] : '\0'; }

  [[nodiscard]] bool is_quote(std::size_t position) const {
    return position < text_.size() && (text_[position] == '\'' || text_[position] == '"');
  }

  void skip_whitespace() {
    while (peek() == ' ' || peek() == '\t' || peek() == '\n' || peek() == '\r' || peek() == '\f') ++position_;
  }

  void expect(char character) {
    if (peek() != character) fail_here(quoted({&character, 1}));
    ++position_;
  }

  void require(bool present, std::string_view key) const {
    if (!present) fail(file_name_, "header has no " + quoted(key) + "; " + std::string(expected_keys));
  }

  void require_first(bool present, std::string_view key) const {
    if (present) fail(file_name_, "header has " + quoted(key) + " twice; expected it once");
  }

  [[noreturn]] void fail_here(std::string_view expected) const {
    const std::string at = std::to_string(offset_ + position_);
    const std::string found = position_ < text_.size() ? "byte " + at + " is " + quoted(text_.substr(position_, 1))
                                                       : "header ends at byte " + at;
    fail(file_name_, found + "; expected " + std::string(expected));
  }

  std::string_view text_;
  std::size_t offset_;
  std::string_view file_name_;
  std::size_t position_ = 0;
  std::optional<ElementType> type_;
  std::optional<bool> fortran_order_;
  std::optional<IndexList> shape_;
};

/// Throws unless the file reaches byte `needed`.
void require_size(std::string_view text, std::size_t needed, std::string_view file_name) {
  if (text.size() >= needed) return;
  fail(file_name, "ends after " + std::to_string(text.size()) + " bytes, inside its header; expected at least " +
                      std::to_string(needed));
}

}  // namespace

NpyHeader parse_npy_header(std::span<const std::byte> bytes, std::string_view file_name) {
  if (bytes.empty()) fail(file_name, "is empty; expected a .npy file");
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (!text.starts_with(magic)) {
    fail(file_name, "starts with " + quoted(text.substr(0, magic.size())) +
                        "; expected a .npy file, which starts with " + quoted(magic));
  }
  require_size(text, version_end, file_name);
  const auto byte_at = [bytes](std::size_t i) { return std::to_integer<std::size_t>(bytes[i]); };
  const std::size_t major = byte_at(magic.size());
  const std::size_t minor = byte_at(magic.size() + 1);
  if (major < 1 || major > 3 || minor != 0) {
    fail(file_name,
         "format version " + std::to_string(major) + "." + std::to_string(minor) + "; expected 1.0, 2.0 or 3.0");
  }

  const std::size_t length_size = major == 1 ? 2 : 4;
  const std::size_t begin = version_end + length_size;
  require_size(text, begin, file_name);
  std::size_t length = 0;
  for (std::size_t i = 0; i < length_size; ++i) length |= byte_at(version_end + i) << (8 * i);
  if (length > maximum_header_length) {
    fail(file_name,
         "header of " + std::to_string(length) + " bytes; expected at most " + std::to_string(maximum_header_length));
  }
  require_size(text, begin + length, file_name);

  const NpyHeader header = DictParser(text.substr(begin, length), begin, file_name).parse();
  static_cast<void>(checked_byte_count(header.dtype, header.shape, file_name));
  return header;
}

std::vector<std::byte> format_npy_header(DType dtype, const IndexList& shape, bool fortran_order) {
  static_cast<void>(checked_byte_count(dtype, shape, "shape"));
  std::string dict = "{'descr': '" + descr_of(dtype) + "', 'fortran_order': " + (fortran_order ? "True" : "False") +
                     ", 'shape': " + to_string(shape) + ", }";
  // NumPy leaves room for the slowest axis to grow to 21 digits in place. Doing the same makes equal arrays
  // equal files, whoever wrote them.
  if (!shape.empty()) {
    constexpr std::size_t growth_digits = 21;
    const Index slowest = fortran_order ? shape[shape.size() - 1] : shape[0];
    dict.append(growth_digits - std::to_string(slowest).size(), ' ');
  }
  constexpr std::size_t prefix = version_end + 2;
  // As NumPy does it, a header that is aligned already gets 64 spaces more.
  dict.append(alignment - (prefix + dict.size() + 1) % alignment, ' ');
  dict += '\n';

  std::string text(magic);
  text += '\x01';
  text += '\x00';
  text += static_cast<char>(dict.size() & 0xffU);
  text += static_cast<char>(dict.size() >> 8U);
  text += dict;
  std::vector<std::byte> bytes(text.size());
  std::transform(text.begin(), text.end(), bytes.begin(), [](char character) { return std::byte(character); });
  return bytes;
}

Index checked_byte_count(DType dtype, const IndexList& shape, std::string_view argument) {
  const auto element_size = static_cast<Index>(size_of(dtype));
  Index bytes = element_size;
  bool empty = false;
  for (const Index size : shape) {
    if (size < 0) fail(argument, "shape " + to_string(shape) + " has a negative size; expected 0 or more");
    empty = empty || size == 0;
  }
  for (const Index size : shape) {
    if (size == 0) continue;
    if (size > (byte_count_limit - 1) / bytes) {
      fail(argument, "shape " + to_string(shape) + " " + std::string(name_of(dtype)) +
                         " is too large; expected less than 2^62 bytes");
    }
    bytes *= size;
  }
  return empty ? 0 : bytes;
}

}  // namespace exactnorm::npy
