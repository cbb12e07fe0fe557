#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace exactnorm::cli {

using Json = nlohmann::ordered_json;

/// Text for people as well as programs: objects are indented, lists of plain values stay on one line.
/// NaN and infinity, which JSON does not have, become null. Ends in a newline.
[[nodiscard]] std::string to_text(const Json& json);

}  // namespace exactnorm::cli
