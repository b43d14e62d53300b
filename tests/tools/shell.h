// Runs the built llmplan as a user would: through a shell, from a directory of the test's own.
#pragma once

#include <string>

namespace llmplan {

struct ShellResult {
  int exit = -1;           // 128 + N when signal N ended it
  std::string out, err;
  double seconds = 0;
};
// $LLMPLAN is the binary, $SOURCE the source tree; stdin is empty.
ShellResult sh(const std::string& command, const std::string& directory);

// A fresh directory, removed at the end of the program.
std::string scratch(const std::string& name);

std::string file_text(const std::string& path);
void write_text(const std::string& path, const std::string& text);

}  // namespace llmplan
