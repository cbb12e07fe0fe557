#include "npy/npy_header.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "exactnorm/tensor.h"
#include "support/npy.h"

namespace exactnorm::npy {
namespace {

TEST(NpyHeader, ReadsEveryVersion) {
  for (const int version : {1, 2, 3}) {
    const std::string bytes = with_prefix(dict_of("<f4", "(3, 4)"), version);
    const NpyHeader header = parse(bytes);
    EXPECT_EQ(header.dtype, DType::float32);
    EXPECT_FALSE(header.big_endian);
    EXPECT_FALSE(header.fortran_order);
    EXPECT_EQ(header.shape, (IndexList{3, 4}));
    EXPECT_EQ(header.data_offset, bytes.size());
  }
}

TEST(NpyHeader, ReadsEveryDescr) {
  const std::vector<std::tuple<std::string, DType, bool>> descrs = {
      {"<f4", DType::float32, false}, {">f4", DType::float32, true},  {"<f8", DType::float64, false},
      {">f8", DType::float64, true},  {"|u1", DType::uint8, false},   {"|i1", DType::int8, false},
      {">u1", DType::uint8, false},   {"<i2", DType::int16, false},   {">i2", DType::int16, true},
      {"<i4", DType::int32, false},   {">i4", DType::int32, true},    {"<i8", DType::int64, false},
      {">i8", DType::int64, true},    {"=i8", DType::int64, !little}, {"<f2", DType::float16, false},
      {">f2", DType::float16, true},  {"<u2", DType::uint16, false},  {">u2", DType::uint16, true},
      {"<u4", DType::uint32, false},  {">u4", DType::uint32, true},   {"|b1", DType::boolean, false}};
  for (const auto& [descr, dtype, big_endian] : descrs) {
    const NpyHeader header = parse_dict(dict_of(descr, "()", "True"));
    EXPECT_EQ(header.dtype, dtype) << descr;
    EXPECT_EQ(header.big_endian, big_endian) << descr;
    EXPECT_TRUE(header.fortran_order);
    EXPECT_TRUE(header.shape.empty());
  }
}

TEST(NpyHeader, ReadsAnySpellingOfTheDict) {
  for (const std::string dict :
       {"{'shape':(3,4),'fortran_order':False,'descr':'<f4'}",
        "{\"descr\": \"<f4\", \"fortran_order\": False, \"shape\": (3L, 4L,)}",
        "{u'descr': u'<f4', u\"fortran_order\": False, u'shape': (3L, 4L), }",
        "{U'descr': U\"<f4\", r'fortran_order': False, R'shape': (3, 4), }",
        " \t{\r\n 'descr' : '<f4'\f,\n'fortran_order'\t:False , 'shape' : ( 3 , 4 , ) , }\n\n  "}) {
    EXPECT_EQ(parse_dict(dict).shape, (IndexList{3, 4})) << dict;
  }
  EXPECT_EQ(parse_dict(dict_of("<f4", "(0, 3)")).shape, (IndexList{0, 3}));
  EXPECT_EQ(parse_dict(dict_of("<f4", "(5,)")).shape, (IndexList{5}));
  EXPECT_EQ(parse_dict(dict_of("<f4", "( )")).shape, IndexList());
  EXPECT_EQ(parse_dict(dict_of("|u1", "(4611686018427387903,)")).shape, (IndexList{(Index{1} << 62) - 1}));
  EXPECT_EQ(parse_dict(dict_of("<f4", "(1, 2, 3, 4, 5, 6, 7, 8)")).shape.size(), 8U);
}

TEST(NpyHeader, RefusesOtherFiles) {
  EXPECT_EQ(parse_error(""), "x.npy: is empty; expected a .npy file");
  EXPECT_EQ(parse_error("PK\x03\x04 and more"),
            "x.npy: starts with 'PK\\x03\\x04 a'; expected a .npy file, which starts with '\\x93NUMPY'");
  EXPECT_EQ(parse_error("\x93NUM"),
            "x.npy: starts with '\\x93NUM'; expected a .npy file, which starts with '\\x93NUMPY'");
  EXPECT_EQ(parse_error("\x93NUMPY\x01"), "x.npy: ends after 7 bytes, inside its header; expected at least 8");
  EXPECT_EQ(parse_error("\x93NUMPY\x04\x01xxxx"), "x.npy: format version 4.1; expected 1.0, 2.0 or 3.0");
  EXPECT_EQ(parse_error(std::string("\x93NUMPY\x02\0\x01\0\0", 11)),
            "x.npy: ends after 11 bytes, inside its header; expected at least 12");
  EXPECT_EQ(parse_error(std::string("\x93NUMPY\x02\0\x01\0\x10\0", 12)),
            "x.npy: header of 1048577 bytes; expected at most 1048576");
  EXPECT_EQ(parse_error(std::string("\x93NUMPY\x01\0\x76\0{'de", 14)),
            "x.npy: ends after 14 bytes, inside its header; expected at least 128");
}

TEST(NpyHeader, RefusesOtherTypes) {
  const std::string expected =
      "; expected float32, float64, float16, uint8, int8, uint16, int16, uint32, int32, int64 or bool";
  for (const std::string descr :
       {"<g2", "|b2", "<c8", "|O", "<V2", "<u8", ">u8", "<U3", "|S4", "f4", "|f4", "<M8[ns]", "", "!u1"}) {
    EXPECT_EQ(dict_error(dict_of(descr, "()")), "x.npy: dtype '" + descr + "'" + expected);
  }
  EXPECT_EQ(dict_error("{'descr': [('a', '<f4')], }"), "x.npy: structured dtype" + expected);
  EXPECT_EQ(dict_error("{'descr': ('<f4', (2,)), }"), "x.npy: structured dtype" + expected);
  EXPECT_EQ(dict_error(dict_of(std::string(50, '\x7f'), "()")).substr(0, 24), "x.npy: dtype '\\x7f\\x7f\\x");
  EXPECT_EQ(dict_error(dict_of(std::string(50, 'z'), "()")),
            "x.npy: dtype '" + std::string(40, 'z') + "...'" + expected);
}

TEST(NpyHeader, RefusesOtherKeys) {
  const std::string expected = "; expected 'descr', 'fortran_order' and 'shape'";
  EXPECT_EQ(dict_error("{}"), "x.npy: header has no 'descr'" + expected);
  EXPECT_EQ(dict_error("{'descr': '<f4', 'shape': ()}"), "x.npy: header has no 'fortran_order'" + expected);
  EXPECT_EQ(dict_error("{'descr': '<f4', 'fortran_order': True}"), "x.npy: header has no 'shape'" + expected);
  EXPECT_EQ(dict_error("{'order': 1}"), "x.npy: header has the key 'order'" + expected);
  EXPECT_EQ(dict_error("{'descr': '<f4', 'descr': '<f4'}"), "x.npy: header has 'descr' twice; expected it once");
  EXPECT_EQ(dict_error("{'shape': (), 'shape': ()}"), "x.npy: header has 'shape' twice; expected it once");
  EXPECT_EQ(dict_error("{'fortran_order': True, 'fortran_order': True}"),
            "x.npy: header has 'fortran_order' twice; expected it once");
}

TEST(NpyHeader, RefusesOtherSyntax) {
  EXPECT_EQ(dict_error(""), "x.npy: header ends at byte 10; expected '{'");
  EXPECT_EQ(dict_error("  ["), "x.npy: byte 12 is '['; expected '{'");
  EXPECT_EQ(dict_error("{descr"), "x.npy: byte 11 is 'd'; expected a quoted key");
  EXPECT_EQ(dict_error("{b'descr'"), "x.npy: byte 11 is 'b'; expected a quoted key");
  EXPECT_EQ(dict_error("{u 'descr'"), "x.npy: byte 11 is 'u'; expected a quoted key");
  EXPECT_EQ(dict_error("{uu'descr'"), "x.npy: byte 11 is 'u'; expected a quoted key");
  EXPECT_EQ(dict_error("{u"), "x.npy: byte 11 is 'u'; expected a quoted key");
  EXPECT_EQ(dict_error("{u'descr"), "x.npy: header ends at byte 18; expected a closing quote");
  EXPECT_EQ(dict_error("{'descr': b'<f4'}"), "x.npy: byte 20 is 'b'; expected a quoted dtype");
  EXPECT_EQ(dict_error("{,}"), "x.npy: byte 11 is ','; expected a quoted key");
  EXPECT_EQ(dict_error("{'descr' '<f4'}"), "x.npy: byte 19 is '\\''; expected ':'");
  EXPECT_EQ(dict_error("{'descr': 4}"), "x.npy: byte 20 is '4'; expected a quoted dtype");
  EXPECT_EQ(dict_error("{'descr"), "x.npy: header ends at byte 17; expected a closing quote");
  EXPECT_EQ(dict_error("{'de\\x73cr': 1}"), "x.npy: byte 14 is '\\\\'; expected a closing quote");
  EXPECT_EQ(dict_error("{'de\nscr': 1}"), "x.npy: byte 14 is '\\x0a'; expected a closing quote");
  EXPECT_EQ(dict_error("{'shape': () 'descr'"), "x.npy: byte 23 is '\\''; expected ',' or '}'");
  EXPECT_EQ(dict_error("{'fortran_order': 1}"), "x.npy: byte 28 is '1'; expected True or False");
  EXPECT_EQ(dict_error("{'fortran_order': Truest}"), "x.npy: byte 32 is 's'; expected ',' or '}'");
  EXPECT_EQ(dict_error(dict_of("<f4", "()") + "x"),
            "x.npy: byte 66 is 'x'; expected only spaces and a newline after the dict");
  EXPECT_EQ(dict_error(dict_of("<f4", "()") + '\0'),
            "x.npy: byte 66 is '\\x00'; expected only spaces and a newline after the dict");
}

TEST(NpyHeader, RefusesOtherShapes) {
  EXPECT_EQ(dict_error("{'shape': 3"), "x.npy: byte 20 is '3'; expected '('");
  EXPECT_EQ(dict_error("{'shape': [3]"), "x.npy: byte 20 is '['; expected '('");
  EXPECT_EQ(dict_error("{'shape': (3)"), "x.npy: byte 22 is ')'; expected ',' before it, as in (3,)");
  EXPECT_EQ(dict_error("{'shape': (,)"), "x.npy: byte 21 is ','; expected an integer");
  EXPECT_EQ(dict_error("{'shape': (3,,)"), "x.npy: byte 23 is ','; expected an integer");
  EXPECT_EQ(dict_error("{'shape': (3.5,)"), "x.npy: byte 22 is '.'; expected ',' or ')'");
  EXPECT_EQ(dict_error("{'shape': (3 4)"), "x.npy: byte 23 is '4'; expected ',' or ')'");
  EXPECT_EQ(dict_error("{'shape': (--3,)"), "x.npy: byte 22 is '-'; expected an integer");
  EXPECT_EQ(dict_error("{'shape': (3"), "x.npy: header ends at byte 22; expected ',' or ')'");
  EXPECT_EQ(dict_error("{'shape': (1, 010)"), "x.npy: shape has the size '010'; expected no leading zeros");
  EXPECT_EQ(dict_error("{'shape': (99999999999999999999,)"),
            "x.npy: shape has the size '99999999999999999999'; expected less than 2^62");
  EXPECT_EQ(dict_error("{'shape': (1, 2, 3, 4, 5, 6, 7, 8, 9)"),
            "x.npy: shape has more than 8 dimensions; expected 0 to 8");
  EXPECT_EQ(dict_error(dict_of("<f4", "(2, -3)")), "x.npy: shape (2, -3) has a negative size; expected 0 or more");
  EXPECT_EQ(dict_error(dict_of("|u1", "(4611686018427387904,)")),
            "x.npy: shape (4611686018427387904,) uint8 is too large; expected less than 2^62 bytes");
  EXPECT_EQ(dict_error(dict_of("<f8", "(576460752303423488,)")),
            "x.npy: shape (576460752303423488,) float64 is too large; expected less than 2^62 bytes");
  EXPECT_EQ(dict_error(dict_of("|i1", "(0, 4294967296, 4294967296)")),
            "x.npy: shape (0, 4294967296, 4294967296) int8 is too large; expected less than 2^62 bytes");
}

TEST(NpyHeader, WritesWhatItReads) {
  for (const DType dtype : npy_dtypes) {
    for (const IndexList& shape : {IndexList{}, IndexList{0}, IndexList{0, 3}, IndexList{7}, IndexList{2, 3, 4, 5},
                                   IndexList{1, 2, 3, 4, 5, 6, 7, 1 << 30}}) {
      for (const bool fortran_order : {false, true}) {
        const std::vector<std::byte> bytes = format_npy_header(dtype, shape, fortran_order);
        EXPECT_EQ(bytes.size() % 64, 0U);
        const NpyHeader header = parse_npy_header(bytes, "x.npy");
        EXPECT_EQ(header.dtype, dtype);
        EXPECT_EQ(header.fortran_order, fortran_order);
        EXPECT_EQ(header.shape, shape);
        EXPECT_EQ(header.data_offset, bytes.size());
      }
    }
  }
  EXPECT_EQ(error_of([] { static_cast<void>(format_npy_header(DType::int8, {-1}, false)); }),
            "shape: shape (-1,) has a negative size; expected 0 or more");
}

TEST(NpyHeader, WritesWhatNumPyWrites) {
  if (!little) GTEST_SKIP() << "the reference bytes are little-endian";
  // numpy.save of numpy.zeros((2, 3), "<f4") up to the data, NumPy 2.4.
  const std::string text = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
  const std::string expected = with_prefix(text + std::string(117 - text.size(), ' ') + "\n");
  const std::vector<std::byte> bytes = format_npy_header(DType::float32, {2, 3}, false);
  EXPECT_TRUE(std::ranges::equal(bytes, bytes_of(expected)));
}

}  // namespace
}  // namespace exactnorm::npy
