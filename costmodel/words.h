// Words of tables and profiles, which people write in any case. ASCII: other letters stay as they are.
#pragma once

#include <string>

namespace llmplan {

inline std::string lower(std::string s) {
  for (char& c : s) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
  return s;
}
inline bool contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

}  // namespace llmplan
