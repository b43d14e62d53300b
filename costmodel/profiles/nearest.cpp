#include <algorithm>
#include <cctype>

#include "costmodel/profiles/profiles.h"

namespace llmplan {
namespace {

// Edits to turn a into b: insert, delete, replace, swap neighbours (optimal string alignment);
// letter case and the separators - _ . are not held against anybody.
int distance(const std::string& a, const std::string& b) {
  std::vector<std::vector<int>> d(a.size() + 1, std::vector<int>(b.size() + 1));
  for (std::size_t i = 0; i <= a.size(); ++i) d[i][0] = static_cast<int>(i);
  for (std::size_t j = 0; j <= b.size(); ++j) d[0][j] = static_cast<int>(j);
  for (std::size_t i = 1; i <= a.size(); ++i) {
    for (std::size_t j = 1; j <= b.size(); ++j) {
      d[i][j] =
          std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
    }
  }
  return d[a.size()][b.size()];
}

std::string folded(const std::string& s) {
  std::string out;
  for (unsigned char c : s)
    if (c != '-' && c != '_' && c != '.' && c != ' ') out += static_cast<char>(std::tolower(c));
  return out;
}

}  // namespace

std::vector<std::string> nearest(const std::string& word, const std::vector<std::string>& names,
                                 int n) {
  const std::string w = folded(word.substr(0, 200));
  std::vector<std::pair<int, std::string>> found;
  for (const std::string& name : names) {
    const std::string f = folded(name);
    const bool part = w.size() >= 3 && (f.find(w) != std::string::npos ||
                                        (f.size() >= 3 && w.find(f) != std::string::npos));
    const int d = distance(w, f);
    // Far off: more than a third of the longer word differs, and neither holds the other.
    const int limit = static_cast<int>(std::max(w.size(), f.size())) / 3;
    if (d <= limit)
      found.emplace_back(d, name);
    else if (part)
      found.emplace_back(limit + d, name);
  }
  std::sort(found.begin(), found.end());
  std::vector<std::string> out;
  for (const auto& [d, name] : found)
    if (static_cast<int>(out.size()) < n) out.push_back(name);
  return out;
}

}  // namespace llmplan
