#include "json_text.h"

#include <algorithm>

namespace exactnorm::cli {
namespace {

void append_line(std::string& text, std::size_t indent) {
  text += '\n';
  text.append(indent, ' ');
}

void append(std::string& text, const Json& json, std::size_t indent) {
  const bool is_flat = std::none_of(json.begin(), json.end(), [](const Json& value) { return value.is_structured(); });
  if (!json.is_structured() || json.empty()) {
    text += json.dump();
    return;
  }
  const bool one_line = json.is_array() && is_flat;
  text += json.is_array() ? '[' : '{';
  bool first = true;
  for (const auto& item : json.items()) {
    if (!first) text += one_line ? ", " : ",";
    first = false;
    if (!one_line) append_line(text, indent + 2);
    if (json.is_object()) {
      text += Json(item.key()).dump();
      text += ": ";
    }
    append(text, item.value(), indent + 2);
  }
  if (!one_line) append_line(text, indent);
  text += json.is_array() ? ']' : '}';
}

}  // namespace

std::string to_text(const Json& json) {
  std::string text;
  append(text, json, 0);
  return text + "\n";
}

}  // namespace exactnorm::cli
